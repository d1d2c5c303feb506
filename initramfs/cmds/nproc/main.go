// Command nproc prints how many CPUs the process may use.
//
// Synopsis:
//
//	nproc [--all]
package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	n, err := count(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "nproc: %v\n", err)
		os.Exit(1)
	}
	fmt.Println(n)
}

// count returns the CPUs in the affinity mask or, with --all, those that are
// online.
func count(args []string) (int, error) {
	switch {
	case len(args) == 0:
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			return 0, fmt.Errorf("asking for the CPUs of this process: %w", err)
		}
		return set.Count(), nil
	case len(args) == 1 && args[0] == "--all":
		list, err := os.ReadFile("/sys/devices/system/cpu/online")
		if err != nil {
			return 0, err
		}
		return countList(strings.TrimSpace(string(list)))
	}
	return 0, fmt.Errorf("usage: nproc [--all]")
}

// countList counts the numbers in a list like 0-3,8.
func countList(list string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		var lo, hi int
		if k, _ := fmt.Sscanf(part, "%d-%d", &lo, &hi); k == 0 {
			return 0, fmt.Errorf("%q is no list of CPUs", list)
		} else if k == 1 {
			hi = lo
		}
		n += hi - lo + 1
	}
	return n, nil
}
