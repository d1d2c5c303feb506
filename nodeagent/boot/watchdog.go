package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogTimeout is asked of the device: long enough for a loaded machine,
// short against a person who notices and drives there.
const watchdogTimeout = 60 * time.Second

// feedWatchdog feeds the watchdog at path until ctx is done, then leaves it
// running: a machine that hangs while it goes down is reset too. A
// machine without one has nothing to feed.
func feedWatchdog(ctx context.Context, path string, log *slog.Logger) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the watchdog: %w", err)
	}
	defer f.Close()
	timeout := watchdogTimeout
	// A device with a fixed timeout refuses; then its own counts.
	unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, int(timeout/time.Second)) //nolint:errcheck
	if secs, err := unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETTIMEOUT); err == nil && secs > 0 {
		timeout = time.Duration(secs) * time.Second
	}
	log.Info("watchdog fed", "dev", path, "timeout", timeout)
	for {
		// Any byte but V, which would say that no reset is wanted when the
		// file is closed.
		if _, err := f.Write([]byte{0}); err != nil {
			return fmt.Errorf("feeding the watchdog: %w", err)
		}
		if !wait(ctx, timeout/4) {
			return nil
		}
	}
}
