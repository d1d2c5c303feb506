package images

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiffLocks(t *testing.T) {
	lock := func(packages ...LockedPackage) *Lock { return &Lock{Packages: packages} }
	a1 := LockedPackage{Name: "a", Version: "1", Suite: "trixie", SHA256: "x"}
	a2 := LockedPackage{Name: "a", Version: "2", Suite: "trixie-security", SHA256: "y"}
	b := LockedPackage{Name: "b", Version: "1", Suite: "trixie", SHA256: "z"}
	for name, c := range map[string]struct {
		old, fresh *Lock
		want       []LockChange
	}{
		"nothing":  {lock(a1, b), lock(a1, b), []LockChange{}},
		"first":    {nil, lock(b), []LockChange{{Package: "b", New: "1", Suite: "trixie"}}},
		"security": {lock(a1), lock(a2), []LockChange{{Package: "a", Old: "1", New: "2", Suite: "trixie-security", Security: true}}},
		"gone and come": {lock(b), lock(a2), []LockChange{
			{Package: "a", New: "2", Suite: "trixie-security", Security: true}, {Package: "b", Old: "1", Suite: "trixie"},
		}},
	} {
		if diff := cmp.Diff(c.want, DiffLocks(c.old, c.fresh)); diff != "" {
			t.Errorf("%s: DiffLocks() differs (-want +got):\n%s", name, diff)
		}
	}
}

func TestRequestAgainst(t *testing.T) {
	base := Request{Arch: "amd64", Suite: "trixie", Kernel: "k", Firmware: []string{"a", "b"}}
	for want, change := range map[string]func(*Request){
		"": func(*Request) {},
		"suite: forky instead of trixie; kernel: l instead of k": func(r *Request) { r.Suite, r.Kernel = "forky", "l" },
		"firmware: c more, a less, b less":                       func(r *Request) { r.Firmware = []string{"c"} },
		"firmware: another order":                                func(r *Request) { r.Firmware = []string{"b", "a"} },
		"packages: x more":                                       func(r *Request) { r.Packages = []string{"x"} },
	} {
		r := base
		change(&r)
		if got := r.Against(base); got != want {
			t.Errorf("Against() = %q, want %q", got, want)
		}
	}
}

func TestLockWithoutKernel(t *testing.T) {
	l := &Lock{Schema: LockSchema, Request: strings.Repeat("0", 64), Name: "x", Arch: "amd64", Suite: "trixie"}
	l.Date = l.Date.AddDate(2025, 0, 0)
	if _, err := ParseLock("l", l.Encode()); err == nil || !strings.Contains(err.Error(), "has no package of a kernel") {
		t.Errorf("ParseLock() = %v, want that a kernel is missing", err)
	}
}
