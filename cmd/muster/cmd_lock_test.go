package main

import (
	"strings"
	"testing"
	"time"

	"muster/images"
)

func TestLockReport(t *testing.T) {
	old := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	changes := []images.LockChange{
		{Package: "ipxe", Old: "1.20", New: "1.21", Suite: "trixie"},
		{Package: "linux-image-6.12.11", New: "6.12.11-1", Suite: "trixie-security", Security: true},
	}
	for name, c := range map[string]struct {
		report lockReport
		want   string
	}{
		"nothing": {
			lockReport{Lock: "a/lock.json", OldDate: &old, AgeSeconds: 3 * 86400},
			"lock a/lock.json is of 2026-11-01, 3d old\nnothing is newer\n",
		},
		"seen": {
			lockReport{Lock: "l", OldDate: &old, AgeSeconds: 60, Changed: true, Security: 1, Changes: changes, Request: "firmware: intel more"},
			"lock l is of 2026-11-01, 1m old\n" +
				"the definition asks for other packages now: firmware: intel more\n" +
				"SECURITY  PACKAGE              OLD   NEW\n" +
				"          ipxe                 1.20  1.21\n" +
				"yes       linux-image-6.12.11  -     6.12.11-1\n" +
				"changes: 2, security updates: 1; nothing was written (--write does)\n",
		},
		"written": {
			lockReport{Lock: "l", Changed: true, Written: true, Changes: changes[:1]},
			"there is no lock l yet\nSECURITY  PACKAGE  OLD   NEW\n          ipxe     1.20  1.21\nchanges: 1, security updates: 0; written to l\n",
		},
	} {
		var b strings.Builder
		if err := c.report.write(&b); err != nil {
			t.Fatal(err)
		}
		if b.String() != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, b.String(), c.want)
		}
	}
}
