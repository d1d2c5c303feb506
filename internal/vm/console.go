package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
)

const (
	maxLine  = 4096 // longer lines are broken
	maxLines = 5000 // how much of the console is kept in memory
)

// console keeps what a machine says on its serial port, as lines of text.
type console struct {
	raw  io.Writer    // gets everything as it comes
	tell func(string) // called for each line; nil: nobody

	mu      sync.Mutex
	lines   []string
	dropped int // lines that were forgotten from the front
	current []byte
	changed chan struct{} // closed and replaced when something was added
	ended   bool

	escape escapeState
}

func newConsole(raw io.Writer, tell func(string)) *console {
	return &console{raw: raw, tell: tell, changed: make(chan struct{})}
}

// read takes everything from r until it ends.
func (c *console) read(r io.Reader) error {
	defer c.end()
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := c.raw.Write(buf[:n]); err != nil {
				return fmt.Errorf("keeping the console: %w", err)
			}
			for _, line := range c.add(buf[:n]) {
				if c.tell != nil {
					c.tell(line)
				}
			}
		}
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// add takes bytes in and returns the lines that they completed.
func (c *console) add(p []byte) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	begin := len(c.lines)
	for _, b := range p {
		switch what, char := c.escape.next(b); what {
		case isText:
			c.current = append(c.current, char)
			if len(c.current) >= maxLine {
				c.newLine()
			}
		case isBreak:
			c.newLine()
		case isErase:
			c.current = c.current[:max(0, len(c.current)-1)]
		}
	}
	done := append([]string(nil), c.lines[begin:]...)
	if extra := len(c.lines) - maxLines; extra > 0 {
		c.lines = append(c.lines[:0], c.lines[extra:]...)
		c.dropped += extra
	}
	c.signal()
	return done
}

// newLine ends the current line; empty ones are left out, since cursor
// movements make many.
func (c *console) newLine() {
	line := strings.TrimRight(string(bytes.ToValidUTF8(c.current, []byte("?"))), " ")
	c.current = c.current[:0]
	if line != "" {
		c.lines = append(c.lines, line)
	}
}

func (c *console) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.signal()
}

// waitFor returns the first line, also an unfinished one, that re matches
// among those that are kept and those to come.
func (c *console) waitFor(ctx context.Context, re *regexp.Regexp) (string, error) {
	seen := 0
	for {
		c.mu.Lock()
		for i := max(0, seen-c.dropped); i < len(c.lines); i++ {
			if re.MatchString(c.lines[i]) {
				defer c.mu.Unlock()
				return c.lines[i], nil
			}
		}
		seen = c.dropped + len(c.lines)
		current := string(bytes.ToValidUTF8(c.current, []byte("?")))
		changed, ended := c.changed, c.ended
		c.mu.Unlock()
		if re.MatchString(current) {
			return current, nil
		}
		if ended {
			return "", fmt.Errorf("the machine ended without %q on its console, whose last lines are:\n%s", re, c.tail(20))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for %q on the console: %w; its last lines are:\n%s", re, context.Cause(ctx), c.tail(20))
		}
	}
}

// tail returns the last n lines.
func (c *console) tail(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := c.lines[max(0, len(c.lines)-n):]
	if len(c.current) > 0 {
		lines = append(lines[:len(lines):len(lines)], string(bytes.ToValidUTF8(c.current, []byte("?"))))
	}
	if len(lines) == 0 {
		return "(nothing)"
	}
	return strings.Join(lines, "\n")
}

// escapeState follows terminal control sequences (ECMA-48).
type escapeState int

const (
	inText escapeState = iota
	afterEscape
	inSequence // ESC [ … until a final byte
	inString   // ESC ] … until BEL or ESC \
)

// meaning is what a byte of the console is.
type meaning int

const (
	isNothing meaning = iota
	isText
	isBreak // the text goes on elsewhere on the screen
	isErase // the last character is taken back
)

// next takes a byte and says what it means for the text.
func (s *escapeState) next(b byte) (meaning, byte) {
	switch *s {
	case afterEscape:
		switch b {
		case '[':
			*s = inSequence
		case ']', 'P', '_', '^':
			*s = inString
		default:
			*s = inText
		}
		return isNothing, 0
	case inSequence:
		if b >= 0x40 && b <= 0x7e {
			*s = inText
			// Cursor positions and erasing: what follows is another line.
			if strings.IndexByte("HfABEFJ", b) >= 0 {
				return isBreak, 0
			}
		}
		return isNothing, 0
	case inString:
		if b == 0x07 || b == '\\' {
			*s = inText
		}
		return isNothing, 0
	}
	switch {
	case b == 0x1b:
		*s = afterEscape
		return isNothing, 0
	case b == '\n' || b == '\r' || b == '\f':
		return isBreak, 0
	case b == '\t':
		return isText, ' '
	case b == '\b':
		return isErase, 0
	case b < 0x20 || b == 0x7f:
		return isNothing, 0
	}
	return isText, b
}
