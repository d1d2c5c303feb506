// Package archtest keeps the shape of the module: who may import whom, that
// every package says what it is for, that packages hold no state of their own,
// that the agent stays small, and that the architecture document names files
// that exist.
//
// rules.go has the tables; a new arrow between parts is a line there. The
// checks are functions over an [io/fs.FS] that return what is wrong, so that
// each is tested on a small tree that breaks it, and then run on the module.
// They read the sources themselves: what `go list` reads is not seen by the
// test cache, which would then report a pass for sources that have changed.
package archtest
