package images

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testLock() *Lock {
	return &Lock{
		Schema: LockSchema, Request: strings.Repeat("a", 64), Name: "x", Arch: "amd64", Suite: "trixie",
		Date: time.Date(2026, 11, 21, 9, 15, 44, 0, time.UTC),
		Packages: []LockedPackage{
			{Name: "ipxe", Version: "1", Arch: "all", Source: "ipxe", SourceVersion: "1", Role: RoleLoader, Suite: "trixie", Path: "pool/i.deb", Size: 3, SHA256: strings.Repeat("b", 64)},
			{Name: "linux-image", Version: "2", Arch: "amd64", Source: "linux", SourceVersion: "2", Role: RoleKernel, Suite: "trixie-security", Path: "pool/l.deb", Size: 4, SHA256: strings.Repeat("c", 64)},
		},
	}
}

func TestLockRoundTrip(t *testing.T) {
	want := testLock()
	got, err := ParseLock("lock.json", want.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseLock(Encode()) differs (-want +got):\n%s", diff)
	}
	if p := got.ByRole(RoleKernel); len(p) != 1 || p[0].Name != "linux-image" {
		t.Errorf("ByRole(kernel) = %v", p)
	}
}

func TestLockTextHasOneForm(t *testing.T) {
	a, b := testLock(), testLock()
	b.Packages[0], b.Packages[1] = b.Packages[1], b.Packages[0]
	if a.Hash() != b.Hash() {
		t.Error("the hash depends on the order of packages")
	}
}

func TestParseLockErrors(t *testing.T) {
	good := string(testLock().Encode())
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown field":  {`"arch"`, `"arhc"`, `lock l: json: unknown field "arhc"`},
		"newer":          {`"schema": 1`, `"schema": 2`, "lock l: format 2 is newer than this program"},
		"no lock":        {good, `{}`, "lock l: has no schema; it is not a lock of muster"},
		"not JSON":       {good, `hello`, "lock l: line 1: invalid character 'h'"},
		"trailing":       {"]\n}\n", "]\n} {}", "lock l: has something behind its end"},
		"climbing path":  {"pool/i.deb", "../../etc/passwd", `lock l: package ipxe: path "../../etc/passwd" does not stay below the mirror`},
		"absolute path":  {"pool/i.deb", "/etc/passwd", `lock l: package ipxe: path "/etc/passwd" does not stay`},
		"bad hash":       {strings.Repeat("b", 64), "b", `lock l: package ipxe: sha256 "b" is no SHA-256`},
		"size":           {`"size": 3`, `"size": -3`, "lock l: package ipxe: size is -3"},
		"package twice":  {`"linux-image"`, `"ipxe"`, "lock l: package ipxe is there twice"},
		"bad name":       {`"ipxe",`, `"I PXE",`, `lock l: "I PXE" cannot be the name`},
		"no version":     {`"version": "1"`, `"version": ""`, "lock l: package ipxe: version, arch and suite have to be there"},
		"request":        {strings.Repeat("a", 64), "a", `lock l: request_sha256 "a" is no SHA-256`},
		"no date":        {"2026-11-21T09:15:44Z", "0001-01-01T00:00:00Z", "lock l: has no date"},
		"type of number": {`"size": 3`, `"size": "3"`, "lock l: line 18: json: cannot unmarshal string"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseLock("l", []byte(strings.Replace(good, c.old, c.new, 1)))
			if got := errorText(err); !strings.HasPrefix(got, c.want) {
				t.Errorf("ParseLock() = %s\nwant it to begin with %s", got, c.want)
			}
		})
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add(testLock().Encode())
	f.Add([]byte(`{"schema":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLock("l", data)
		if err != nil {
			return
		}
		again, err := ParseLock("l", l.Encode())
		if err != nil {
			t.Fatalf("what was parsed cannot be parsed again: %v", err)
		}
		if again.Hash() != l.Hash() {
			t.Error("the hash changed")
		}
	})
}
