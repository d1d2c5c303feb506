package packages

import (
	"slices"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	for name, want := range map[string]string{
		"gfortran": "gfortran", "mpirun": "openmpi-bin", "/usr/bin/python3": "python3", "libgfortran.so.5": "libgfortran5",
		"libopenblas.so.0": "libopenblas0", "R": "r-base-core", "awk": "mawk",
		"": "", "no-such-command": "", "gfortran gfortran": "", "a\nb": "", "libgfortran.so.": "", "fortran": "",
	} {
		if got := Find(name); got != want {
			t.Errorf("Find(%q) = %q, want %q", name, got, want)
		}
	}
}

// Each line is a name and a package, in order and once.
func TestTable(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(table), "\n")
	if len(lines) < 500 || !slices.IsSorted(lines) {
		t.Errorf("the table has %d lines, sorted: %v", len(lines), slices.IsSorted(lines))
	}
	for i, l := range lines {
		f := strings.Fields(l)
		if len(f) != 2 || i > 0 && strings.HasPrefix(lines[i-1], f[0]+" ") {
			t.Errorf("line %q", l)
		}
	}
}
