// Package layers reads the archives that a file system is made of, one over the other, as
// container images are: a later layer replaces what an earlier one has, and takes
// away what it marks as gone.
//
// [Tree.Apply] in apply.go reads one archive; tree.go keeps what is there so far. Nothing
// is written outside of the [Store]: a path can lead anywhere, also through links, and
// stays within the tree. Archives may come from strangers.
//
// A Tree is used by one goroutine at a time.
package layers
