package main

import "testing"

// The counts are the known values of the prime counting function.
func TestCountPrimes(t *testing.T) {
	for n, want := range map[int]int{0: 0, 2: 0, 3: 1, 4: 2, 10: 4, 100: 25, 1000: 168, 2000000: 148933} {
		if got := countPrimes(n); got != want {
			t.Errorf("countPrimes(%d) = %d, want %d", n, got, want)
		}
	}
}
