// Package images holds the image definitions that muster ships, and the types
// of the three texts that describe an image: the definition that a person
// writes ([Definition]), the lock that pins every input of it by version and
// hash ([Lock]), and the manifest that lists what a build wrote
// ([Manifest]).
//
// It parses and checks these texts and does nothing else; package builder
// turns them into artifacts. Values are plain data and may be read from any
// goroutine.
package images
