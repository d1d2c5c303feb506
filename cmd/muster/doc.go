// Command muster is the program for people and heads: it builds images, runs
// the head of a cluster, and operates it.
//
// main.go holds the command tree and the exit status; every verb has a file
// cmd_VERB.go; keeper.go starts and restarts the processes of a head, whose
// bodies are child_*.go. All flags and environment variables are read here
// and nowhere else.
package main
