package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
)

const (
	// maxRecord is the longest record of /dev/kmsg (PRINTK_MESSAGE_MAX and
	// the prefix); a shorter buffer makes read(2) fail.
	maxRecord = 8192
	// kmsgBatch bounds the lines of one batch, kmsgPerSecond what is
	// read on average.
	kmsgBatch     = 100
	kmsgPerSecond = 500
	maxLine       = 1000
)

// kmsgRecord is one record of /dev/kmsg.
type kmsgRecord struct {
	Seq  uint64
	Line api.KernelLine
}

// parseKmsg reads a record as the kernel writes it (Documentation/ABI/testing/
// dev-kmsg): "priority,sequence,microseconds,flags[,...];text", then lines
// that begin with a space and are dropped here.
func parseKmsg(b []byte) (kmsgRecord, error) {
	head, text, ok := strings.Cut(string(b), ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 {
		return kmsgRecord{}, errors.New("not a kernel log record")
	}
	prio, err1 := strconv.ParseUint(fields[0], 10, 32)
	seq, err2 := strconv.ParseUint(fields[1], 10, 64)
	micro, err3 := strconv.ParseInt(fields[2], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return kmsgRecord{}, fmt.Errorf("parsing a kernel log record: %w", err)
	}
	text, _, _ = strings.Cut(text, "\n")
	return kmsgRecord{
		Seq: seq,
		Line: api.KernelLine{
			Micro:    micro,
			Priority: int(prio & 7), // the rest is the facility
			Text:     clean(text, maxLine),
		},
	}, nil
}

// KernelLogConfig is what a [KernelLog] needs.
type KernelLogConfig struct {
	Path  string // empty: /dev/kmsg
	State string // file that keeps the position over restarts of the agent; empty: none
}

// KernelLog reads the kernel's log from its beginning, or from where an
// earlier reader with the same State stopped. The kernel's own ring is
// the only buffer: what it had to drop while nobody read is said in a line.
type KernelLog struct {
	cfg  KernelLogConfig
	file *os.File
	buf  [maxRecord]byte
	next uint64 // sequence of the first record that was not returned
	rest time.Duration
}

// OpenKernelLog opens the kernel's log. The caller closes it.
func OpenKernelLog(cfg KernelLogConfig) (*KernelLog, error) {
	if cfg.Path == "" {
		cfg.Path = "/dev/kmsg"
	}
	f, err := os.OpenFile(cfg.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the kernel log: %w", err)
	}
	return &KernelLog{cfg: cfg, file: f, next: readPosition(cfg.State)}, nil
}

// Close ends a Next that waits.
func (k *KernelLog) Close() error { return k.file.Close() }

// Next waits for lines and returns them, at most a hundred. To call it again
// says that the earlier ones have arrived where they belong. It keeps a pace:
// a driver in a frenzy must not fill the network.
func (k *KernelLog) Next(ctx context.Context) ([]api.KernelLine, error) {
	if k.next > 0 {
		keepPosition(k.cfg.State, k.next)
	}
	if k.rest > 0 && !wait(ctx, k.rest) {
		return nil, ctx.Err()
	}
	if err := k.file.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("reading the kernel log: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { k.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines, next, err := readBatch(k.file, k.buf[:], k.next)
	if len(lines) == 0 {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("reading the kernel log: %w", err)
	}
	k.next = next
	k.rest = time.Duration(len(lines)) * time.Second / kmsgPerSecond
	return lines, nil
}

// readBatch waits for a record, then takes what is there up to a batch. It
// skips what is before next, and returns the position after the last one.
func readBatch(f *os.File, buf []byte, next uint64) ([]api.KernelLine, uint64, error) {
	var batch []api.KernelLine
	for len(batch) < kmsgBatch {
		if len(batch) > 0 {
			// No waiting any more: take only what is there.
			raw, err := f.SyscallConn()
			if err != nil {
				return batch, next, nil
			}
			ready := false
			raw.Control(func(fd uintptr) { //nolint:errcheck // ready stays false
				n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
				ready = err == nil && n > 0
			})
			if !ready {
				return batch, next, nil
			}
		}
		n, err := f.Read(buf)
		switch {
		case errors.Is(err, unix.EPIPE):
			continue // overwritten; the gap shows in the sequence
		case errors.Is(err, os.ErrDeadlineExceeded):
			return batch, next, nil
		case err != nil:
			return batch, next, err
		}
		r, err := parseKmsg(buf[:n])
		if err != nil || r.Seq < next {
			continue
		}
		if lost := r.Seq - next; lost > 0 && next > 0 {
			batch = append(batch, api.KernelLine{
				Micro:    r.Line.Micro,
				Priority: 4,
				Text:     fmt.Sprintf("muster: %d lines of the kernel log were lost", lost),
			})
		}
		batch = append(batch, r.Line)
		next = r.Seq + 1
	}
	return batch, next, nil
}

func readPosition(path string) uint64 {
	if path == "" {
		return 0
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0 // sent twice is better than not at all
	}
	return n
}

// keepPosition remembers n. When it cannot, lines are sent twice after
// a restart.
func keepPosition(path string, n uint64) {
	if path != "" {
		writeFile(path, strconv.AppendUint(nil, n, 10)) //nolint:errcheck
	}
}

// wait sleeps for d and reports whether ctx is still alive.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// NewLog returns a log that writes to the kernel's log, from where it goes to
// the head with everything else: a machine has one log, in one order.
// Where /dev/kmsg cannot be opened it writes to standard error.
func NewLog(part string) *slog.Logger {
	w := kmsgWriter{part: part, out: os.Stderr}
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		w.out, w.kernel = f, true
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{} // the kernel's own is better: the clock may be stepped
			}
			return a
		},
	}))
}

// kmsgWriter turns lines of a slog.TextHandler without time into records of
// /dev/kmsg. A record is one write.
type kmsgWriter struct {
	part   string
	out    *os.File
	kernel bool
}

func (w kmsgWriter) Write(b []byte) (int, error) {
	line := kmsgLine(w.part, string(b), w.kernel)
	if _, err := w.out.WriteString(line); err != nil {
		return 0, err
	}
	return len(b), nil
}

// kmsgLine turns "level=INFO msg=..." into "<6>part: msg=...".
func kmsgLine(part, text string, priority bool) string {
	// Severities of syslog, RFC 5424 6.2.1.
	severities := [...]struct{ level, prio string }{
		{"level=DEBUG ", "<7>"}, {"level=INFO ", "<6>"}, {"level=WARN ", "<4>"}, {"level=ERROR ", "<3>"},
	}
	prio := "<6>"
	for _, s := range severities {
		if rest, ok := strings.CutPrefix(text, s.level); ok {
			prio, text = s.prio, rest
		}
	}
	text = strings.TrimPrefix(text, "msg=")
	if !priority {
		prio = ""
	}
	return prio + part + ": " + clean(strings.TrimSuffix(text, "\n"), maxLine) + "\n"
}
