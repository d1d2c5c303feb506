package pxe

import (
	"log/slog"
	"sync"
	"time"
)

// warnEvery is how often the same warning is logged. A thousand machines that
// ask again and again meet the same fault.
const warnEvery = 10 * time.Second

// throttle logs each message once in a while and counts the others.
type throttle struct {
	now func() time.Time

	mu   sync.Mutex
	said map[string]saying // by message; messages are constants
}

type saying struct {
	at      time.Time
	skipped int
}

func newThrottle(now func() time.Time) *throttle {
	return &throttle{now: now, said: map[string]saying{}}
}

// Warn logs msg, unless it was logged less than ten seconds ago.
func (t *throttle) Warn(log *slog.Logger, msg string, attrs ...any) {
	t.mu.Lock()
	s, now := t.said[msg], t.now()
	if !s.at.IsZero() && now.Sub(s.at) < warnEvery {
		s.skipped++
		t.said[msg] = s
		t.mu.Unlock()
		return
	}
	t.said[msg] = saying{at: now}
	t.mu.Unlock()
	if s.skipped > 0 {
		attrs = append(attrs, "before", s.skipped)
	}
	log.Warn(msg, attrs...)
}
