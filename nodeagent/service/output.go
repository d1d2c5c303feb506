package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLine is how long a line of a log may be; longer ones are cut in pieces.
	maxLine = 900
	// lineBurst lines are taken at once and linesPerSecond in the long run; the node's log has
	// room for others too.
	lineBurst      = 100
	linesPerSecond = 10
)

// output is the agent's end of the pipe that a service writes to.
type output struct{ file *os.File }

// openOutput opens the pipe, which an earlier agent may have made.
func openOutput(name string) (*output, error) {
	if err := unix.Mkfifo(name, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("making pipe %s: %w", name, err)
	}
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return &output{f}, nil
}

// copy logs what the service writes until ctx is done, and hands each line on.
func (o *output) copy(ctx context.Context, log *slog.Logger, line func(string)) {
	defer context.AfterFunc(ctx, func() { o.file.Close() })()
	r := bufio.NewReaderSize(o.file, maxLine)
	limit := limiter{left: lineBurst, at: time.Now()}
	for {
		b, err := r.ReadSlice('\n')
		if text := plain(string(b)); text != "" {
			line(text)
			if dropped, ok := limit.take(time.Now()); ok {
				if dropped > 0 {
					log.Warn("service said too much", "lines_left_out", dropped)
				}
				log.Info("service said", "text", text)
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			o.file.Close()
			return
		}
	}
}

// limiter lets lines through at a bounded pace.
type limiter struct {
	left    float64
	at      time.Time
	dropped int
}

// take says whether a line may pass now, and how many were dropped since the last one that did.
func (l *limiter) take(now time.Time) (dropped int, ok bool) {
	l.left = min(lineBurst, l.left+now.Sub(l.at).Seconds()*linesPerSecond)
	l.at = now
	if l.left < 1 {
		l.dropped++
		return 0, false
	}
	l.left--
	dropped, l.dropped = l.dropped, 0
	return dropped, true
}

// plain is a line without control characters and spaces around it.
func plain(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ' || r == 0x7f || r == '\ufffd':
			return -1
		}
		return r
	}, s))
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - checkTail; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// maxReason is how much of a line is told to people.
const maxReason = 200

// lastLine is the last line that has something in it.
func (t *tail) lastLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := ""
	for line := range strings.Lines(string(t.data)) {
		if text := plain(line); text != "" {
			last = text
		}
	}
	if len(last) > maxReason {
		last = strings.ToValidUTF8(last[:maxReason], "") + "…"
	}
	return last
}
