package boot

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// clockStep is how wrong the clock may be at the first comparison
	// without being set at once.
	clockStep = time.Second
	// clockIgnore is what a message's way through the network may
	// have taken; less is no error of the clock.
	clockIgnore = 10 * time.Millisecond
	// clockSlewMax bounds one adjustment; adjtime(3) turns the clock by
	// 0.5 ms in a second, so more is still on its way at the next comparison.
	clockSlewMax = 2 * time.Second
)

// Clock makes the machine's clock follow the head's: it is set once, when the
// machine joins, and from then on only runs a little faster or slower, so
// that programs never see time jump. The zero value is ready; one per boot.
type Clock struct {
	stepped bool
	sys     clockSetter // nil: the kernel
}

// clockSetter is the part of the kernel that sets clocks.
type clockSetter interface {
	now() time.Time
	set(t time.Time) error
	slew(by time.Duration) error
}

// Apply tells the clock what the time is at the head, and returns how far
// the machine's was behind (positive) or ahead.
func (c *Clock) Apply(head time.Time) (time.Duration, error) {
	if head.IsZero() {
		return 0, nil // the head did not say
	}
	sys := c.sys
	if sys == nil {
		sys = kernelClock{}
	}
	off := head.Sub(sys.now())
	first := !c.stepped
	c.stepped = true
	switch {
	case first && off.Abs() > clockStep:
		if err := sys.set(head); err != nil {
			return off, fmt.Errorf("setting the clock to %s: %w", head.UTC().Format(time.RFC3339), err)
		}
	case off.Abs() > clockIgnore:
		if err := sys.slew(max(min(off, clockSlewMax), -clockSlewMax)); err != nil {
			return off, fmt.Errorf("slewing the clock by %s: %w", off, err)
		}
	}
	return off, nil
}

// kernelClock is the real one. The hardware's clock is not written: nothing
// on the machine is.
type kernelClock struct{}

func (kernelClock) now() time.Time { return time.Now() }

func (kernelClock) set(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

func (kernelClock) slew(by time.Duration) error {
	const offsetSingleshot = 0x8001 // ADJ_OFFSET_SINGLESHOT of linux/timex.h: as adjtime(3)
	_, err := unix.Adjtimex(&unix.Timex{Modes: offsetSingleshot, Offset: by.Microseconds()})
	return err
}
