package userland

import "fmt"

// What a kernel and the firmware keep of a machine's memory, so that it is not
// part of MemTotal: a fixed part and one that grows with the memory.
const (
	keptMiB   = 48
	keptShare = 32 // one part in so many
	stepMiB   = 32 // in which sizes of machines are told apart
)

// machineMiB is the size of a machine as it was bought, as far as its MemTotal
// tells: the firmware and the kernel keep 48 MiB and a 32nd, and the
// result is rounded to the nearest 32 MiB. What an integrated graphics device
// takes is not known, and not there for a userland either.
func machineMiB(memTotal int64) int64 {
	size := memTotal + memTotal/keptShare + keptMiB
	return (size + stepMiB/2) / stepMiB * stepMiB
}

// tooSmall says why a machine with that MemTotal cannot hold a userland that
// needs a machine of that size, both in MiB, "" where it can. Where either is not
// known (0), it can.
func tooSmall(needs, memTotal int64) string {
	if needs <= 0 || memTotal <= 0 {
		return ""
	}
	has := machineMiB(memTotal)
	if has >= needs {
		return ""
	}
	return fmt.Sprintf("needs a machine with %d MiB, this one has %d MiB", needs, has)
}
