// Command healthcheck says how much memory a node has free and fails when it is
// less than a tenth.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		fmt.Fprintln(os.Stderr, "healthcheck: error:", err)
		os.Exit(1)
	}
	total, available := field(string(text), "MemTotal"), field(string(text), "MemAvailable")
	fmt.Printf("%d of %d kB of memory are available\n", available, total)
	if available*10 < total {
		os.Exit(1)
	}
}

// field returns a number of /proc/meminfo.
func field(text, name string) (n int64) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			fmt.Sscan(rest, &n)
		}
	}
	return n
}
