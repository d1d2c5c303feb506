// Command demoprime counts the primes below a number. It is the program of
// the demo that exists on no node: a static binary that travels with its job.
package main

import (
	"fmt"
	"os"
	"strconv"
)

// limit bounds the sieve to 128 MiB.
const limit = 1 << 30

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo-prime N")
		os.Exit(2)
	}
	n, err := strconv.Atoi(os.Args[1])
	if err != nil || n < 0 || n > limit {
		fmt.Fprintf(os.Stderr, "demo-prime: %q is no number from 0 to %d\n", os.Args[1], limit)
		os.Exit(2)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "a machine without a name"
	}
	fmt.Printf("%d primes below %d, counted on %s\n", countPrimes(n), n, host)
}

// countPrimes counts the primes below n with a sieve of the odd numbers, a
// bit each.
func countPrimes(n int) int {
	if n <= 2 {
		return 0
	}
	composite := make([]uint64, n/128+1) // bit i stands for 2i+1
	count := 1                           // 2
	for i := 1; 2*i+1 < n; i++ {
		if composite[i/64]&(1<<(i%64)) != 0 {
			continue
		}
		count++
		p := 2*i + 1
		for j := p * p / 2; 2*j+1 < n; j += p {
			composite[j/64] |= 1 << (j % 64)
		}
	}
	return count
}
