// Package guest is the inside of a machine of package powercut: what a
// program needs that is PID 1 and all there is. [Main] gives it a disk;
// [Kept], [Started] and [Acknowledged] say on the console what the test
// outside compares. All of them may be called from any goroutine.
package guest
