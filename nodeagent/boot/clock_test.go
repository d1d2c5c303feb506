package boot

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeClock keeps what was asked of it.
type fakeClock struct {
	time  time.Time
	calls []string
	err   error
}

func (f *fakeClock) now() time.Time { return f.time }

func (f *fakeClock) set(t time.Time) error {
	f.calls = append(f.calls, "set "+t.Sub(f.time).String())
	f.time = t
	return f.err
}

func (f *fakeClock) slew(by time.Duration) error {
	f.calls = append(f.calls, "slew "+by.String())
	return f.err
}

func TestClockApply(t *testing.T) {
	tests := map[string]struct {
		offsets []time.Duration // of the head's clock against ours, one after the other
		want    []string
	}{
		"steps once, then slews":   {[]time.Duration{time.Hour, 3 * time.Second, -time.Hour}, []string{"set 1h0m0s", "slew 2s", "slew -2s"}},
		"does not step for little": {[]time.Duration{time.Second, 5 * time.Second}, []string{"slew 1s", "slew 2s"}},
		"steps back":               {[]time.Duration{-2 * time.Second}, []string{"set -2s"}},
		"leaves a good one alone":  {[]time.Duration{5 * time.Millisecond, -10 * time.Millisecond}, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			sys := &fakeClock{time: time.Unix(1_000_000, 0)}
			c := Clock{sys: sys}
			for _, off := range tc.offsets {
				got, err := c.Apply(sys.time.Add(off))
				if err != nil || got != off {
					t.Errorf("Apply() = %v, %v, want %v", got, err, off)
				}
			}
			if d := cmp.Diff(tc.want, sys.calls); d != "" {
				t.Errorf("the clock was told, -want +got:\n%s", d)
			}
		})
	}
}

func TestClockApplyWithoutTime(t *testing.T) {
	sys := &fakeClock{time: time.Unix(1_000_000, 0)}
	c := Clock{sys: sys}
	if _, err := c.Apply(time.Time{}); err != nil || len(sys.calls) > 0 {
		t.Errorf("Apply(zero) did %v, %v, want nothing", sys.calls, err)
	}
	// It was not the first comparison.
	if _, err := c.Apply(sys.time.Add(time.Hour)); err != nil || len(sys.calls) != 1 {
		t.Errorf("Apply() did %v, %v, want a step", sys.calls, err)
	}
}

func TestClockApplyError(t *testing.T) {
	sys := &fakeClock{time: time.Unix(1_000_000, 0), err: errors.New("not permitted")}
	c := Clock{sys: sys}
	_, err := c.Apply(sys.time.Add(time.Hour))
	if !errors.Is(err, sys.err) || !strings.Contains(err.Error(), "1970-01-12T14:46:40Z") {
		t.Errorf("Apply() error = %v, want one that names the time and the cause", err)
	}
}
