// Command muster-agent is part of muster.
package main

func main() {}
