// Package bb compiles many Go commands into one static binary that acts as the
// command it is called by, using gobusybox to rewrite the sources.
//
// [Build] (build.go) needs a Go toolchain, a module folder whose go.mod covers
// every command, and the module cache; the same inputs give the same bytes in any
// folder, under any umask and user. [Stamp] (stamp.go) says whether an earlier
// result is still what Build would give. Program mkbb calls both when muster is
// made; muster itself carries the result and needs no toolchain.
//
// A Build uses only its own temporary folder; several may run at once.
package bb
