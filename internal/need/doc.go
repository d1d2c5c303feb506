// Package need is how a test says what it cannot run without: a program, a
// kernel feature, a file that only a build makes.
//
// A bare `go test` skips what the machine cannot do and says why. With
// MUSTER_NEED=all, as `make test` sets it, the same is a failure, so that a
// run that passed has run everything. Only tests import this package.
package need
