package nodeagent

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestParseRunnable(t *testing.T) {
	for s, want := range map[string]int{
		"0.20 0.18 0.12 2/163 4711\n": 2, "12.00 0 0 130/4000 1\n": 130,
		"": -1, "1 2 3": -1, "1 2 3 4": -1, "1 2 3 x/4": -1, "1 2 3 -1/4": -1,
	} {
		got, ok := parseRunnable(s)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
}

func TestParseCPU(t *testing.T) {
	busy, total, ok := parseCPU([]byte("cpu  10 1 5 100 20 2 3 4 7 8\ncpu0 1 2 3\n"))
	if !ok || busy != 25 || total != 145 {
		t.Errorf("busy %d, total %d, %v", busy, total, ok)
	}
	for _, s := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6 7 8 9", "cpu a b c d e f g h"} {
		if _, _, ok := parseCPU([]byte(s)); ok {
			t.Errorf("%q is understood", s)
		}
	}
}

func TestParseMemory(t *testing.T) {
	total, free := parseMemory("MemTotal:       16384000 kB\nMemFree: 1 kB\nMemAvailable:    8192000 kB\nHugePages_Total:       0\n")
	if total != 16000 || free != 8000 {
		t.Errorf("total %d, free %d", total, free)
	}
}

func TestParsePressure(t *testing.T) {
	for s, want := range map[string]float64{
		"some avg10=1.25 avg60=0.10 avg300=0.00 total=12\nfull avg10=9.00 avg60=0 avg300=0 total=1\n": 1.25,
		"": 0, "some avg10=": 0, "some avg10=x": 0,
	} {
		if got := parsePressure(s); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func TestLoadMeter(t *testing.T) {
	var m loadMeter
	m.runnable, m.samples = 30, 12
	l := m.report()
	if l.Runnable != 2.5 || m.samples != 0 || l.MemTotalMiB <= 0 || l.MemFreeMiB <= 0 || l.CPUBusy != 0 {
		t.Errorf("load %+v", l)
	}
	if l = m.report(); l.Runnable != 0 || l.CPUBusy < 0 || l.CPUBusy > 1 {
		t.Errorf("load %+v", l)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("0.20 0.18 0.12 2/163 4711\n")
	f.Add("cpu  10 1 5 100 20 2 3 4 7 8\n")
	f.Add("MemTotal: 1 kB\nMemAvailable: 2 kB\n")
	f.Add("some avg10=1.25 avg60=0.10\n")
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := parseRunnable(s); ok && n < 0 {
			t.Error("fewer than no threads")
		}
		if busy, total, ok := parseCPU([]byte(s)); ok && busy > total {
			t.Errorf("busy %d of %d", busy, total)
		}
		parseMemory(s)
		if parsePressure(s) < 0 {
			t.Error("negative pressure")
		}
	})
}

func TestSplitLines(t *testing.T) {
	line := func(n int) api.KernelLine { return api.KernelLine{Text: strings.Repeat("x", n)} }
	var got [][]int
	for _, part := range splitLines([]api.KernelLine{line(4), line(6), line(1), line(20), line(0), line(10)}, 10) {
		var sizes []int
		for _, l := range part {
			sizes = append(sizes, len(l.Text))
		}
		got = append(got, sizes)
	}
	if diff := cmp.Diff([][]int{{4, 6}, {1}, {20}, {0, 10}}, got); diff != "" {
		t.Error(diff)
	}
	if got := splitLines(nil, 10); got != nil {
		t.Errorf("nothing is split into %v", got)
	}
}

// The amount of work must be the same everywhere and forever, else speeds of
// different nodes cannot be compared.
func TestWorkIsFixed(t *testing.T) {
	table := make([]uint64, workWords)
	first := work(table)
	if again := work(table); again != first {
		t.Errorf("results %d and %d", first, again)
	}
	const want = 1596907692884141731
	if first != want {
		t.Errorf("result %d, want %d", first, uint64(want))
	}
}

func TestSpeedIsMeasuredQuickly(t *testing.T) {
	before := threadTime()
	speed := measureSpeed()
	if used := threadTime() - before; used.Seconds() > 2 { // 0.5 s on the slowest machine that is worth using
		t.Errorf("it took %s of processor time", used)
	}
	if speed <= 0 {
		t.Errorf("speed %v", speed)
	}
}

func BenchmarkWork(b *testing.B) {
	table := make([]uint64, workWords)
	for b.Loop() {
		work(table)
	}
}
