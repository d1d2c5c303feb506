// Package powercut is for tests of what a power cut may not lose. A test
// gives a program, built by [Build], as the whole system of a virtual machine,
// [System], with a disk whose write cache a power cut empties, [NewDisk], and
// lets it run, [Machine.Run], until it has said enough on its console. The
// program is written with package guest.
//
// Only tests may import it.
package powercut
