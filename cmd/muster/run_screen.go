package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"muster/api"
)

// screen is the terminal of the caller while a command on a node uses it.
type screen struct {
	in, out int         // descriptors; -1: not a terminal
	window  *api.Window // its size at the beginning
	before  *term.State // nil: it was not changed
}

// usualWindow is the size of a terminal that nobody sees.
var usualWindow = api.Window{Rows: 24, Columns: 80}

// openScreen makes the terminal pass on each key as it is typed: what they mean is for the
// terminal of the command. Where in and out are no terminal nothing is changed.
func openScreen(in io.Reader, out io.Writer) *screen {
	s := &screen{in: terminalOf(in), out: terminalOf(out)}
	size := s.size()
	s.window = &size
	s.raw()
	return s
}

// raw makes the terminal pass on each key, until close.
func (s *screen) raw() {
	if s.in >= 0 {
		s.before, _ = term.MakeRaw(s.in)
	}
}

// close gives the terminal back as it was.
func (s *screen) close() {
	if s.before != nil {
		_ = term.Restore(s.in, s.before)
	}
}

func (s *screen) size() api.Window {
	for _, fd := range []int{s.out, s.in} {
		if fd < 0 {
			continue
		}
		if columns, rows, err := term.GetSize(fd); err == nil && columns > 0 && rows > 0 {
			return api.Window{Rows: uint16(rows), Columns: uint16(columns)}
		}
	}
	return usualWindow
}

// sizes are the sizes that the terminal gets until ctx is done.
func (s *screen) sizes(ctx context.Context) <-chan api.Window {
	sizes := make(chan api.Window)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(changed)
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			select {
			case sizes <- s.size():
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

// terminalOf is the descriptor of a terminal, -1 for everything else.
func terminalOf(v any) int {
	f, ok := v.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return -1
	}
	return int(f.Fd())
}
