package pxe

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := newThrottle(func() time.Time { return now })
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	for range 5 {
		th.Warn(log, "disk full")
		th.Warn(log, "head gone", "mac", "x")
	}
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines for two messages:\n%s", n, out.String())
	}
	now = now.Add(warnEvery)
	out.Reset()
	th.Warn(log, "disk full")
	if got := out.String(); !strings.Contains(got, "before=4") {
		t.Errorf("after a while: %q, want one that counts the others", got)
	}
}
