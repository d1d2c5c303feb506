package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestConsoleLines(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"lines":             {"one\r\ntwo\n\nthree\n", []string{"one", "two", "three"}},
		"unfinished":        {"one\nlogin: ", []string{"one"}},
		"SeaBIOS":           {"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1)\r\n\n\niPXE \x1b[0;1mbold\x1b[0m\r\n", []string{"SeaBIOS (version 1)", "iPXE bold"}},
		"taken back":        {"Press a key...\b \b\b \bX\n", []string{"Press a key.X"}},
		"cursor":            {"\x1b[01;01HBdsDxe: loading\x1b[02;01H>>Start PXE\n", []string{"BdsDxe: loading", ">>Start PXE"}},
		"title":             {"\x1b]0;title\x07a\x1b]x\x1b\\b\n", []string{"ab"}},
		"control and bytes": {"a\x00\x01b\tc\xff\n", []string{"ab c?"}},
		"blank":             {"   \n", nil},
		"long":              {strings.Repeat("x", maxLine+1) + "\n", []string{strings.Repeat("x", maxLine), "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			var told []string
			var raw bytes.Buffer
			con := newConsole(&raw, func(l string) { told = append(told, l) })
			if err := con.read(iotestReader(c.in)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, told); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if raw.String() != c.in {
				t.Errorf("raw = %q, want %q", raw.String(), c.in)
			}
		})
	}
}

// iotestReader gives the text in pieces of three bytes.
func iotestReader(s string) io.Reader { return &pieces{strings.NewReader(s)} }

type pieces struct{ r io.Reader }

func (p *pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(3, len(b))]) }

func TestConsoleWaitFor(t *testing.T) {
	re := regexp.MustCompile
	t.Run("seen before, to come, unfinished", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			con := newConsole(io.Discard, nil)
			ended := make(chan error, 1)
			go func() { ended <- con.read(r) }()
			write := func(s string) {
				if _, err := io.WriteString(w, s); err != nil {
					t.Error(err)
				}
			}
			write("early\n")
			if got, err := con.waitFor(t.Context(), re("^early$")); err != nil || got != "early" {
				t.Errorf("waitFor(seen) = %q, %v", got, err)
			}
			time.AfterFunc(time.Hour, func() { write("late line\nlog") })
			if got, err := con.waitFor(t.Context(), re("late")); err != nil || got != "late line" {
				t.Errorf("waitFor(to come) = %q, %v", got, err)
			}
			time.AfterFunc(time.Hour, func() { write("in: ") })
			if got, err := con.waitFor(t.Context(), re("login: $")); err != nil || got != "login: " {
				t.Errorf("waitFor(unfinished) = %q, %v", got, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := con.waitFor(ctx, re("never")); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "late line\nlogin: ") {
				t.Errorf("waitFor(never) = %v, want the end of time and the last lines", err)
			}
			time.AfterFunc(time.Hour, func() { w.Close() })
			if _, err := con.waitFor(t.Context(), re("never")); err == nil || !strings.Contains(err.Error(), "ended without") {
				t.Errorf("waitFor(ended) = %v, want an error about the end", err)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("forgets old lines", func(t *testing.T) {
		con := newConsole(io.Discard, nil)
		con.add([]byte("first\n"))
		con.add([]byte(strings.Repeat("more\n", maxLines)))
		con.end()
		if _, err := con.waitFor(t.Context(), re("first")); err == nil {
			t.Error("a line that was forgotten was found")
		}
		if len(con.lines) != maxLines {
			t.Errorf("%d lines are kept, want %d", len(con.lines), maxLines)
		}
	})
}

func FuzzConsole(f *testing.F) {
	f.Add([]byte("\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS\r\n\b\b\x1b]x\x07"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, parts := newConsole(io.Discard, nil), newConsole(io.Discard, nil)
		lines := whole.add(in)
		var again []string
		for _, b := range in {
			again = append(again, parts.add([]byte{b})...)
		}
		if diff := cmp.Diff(lines, again); diff != "" && len(lines)+len(again) > 0 {
			t.Errorf("lines depend on how the bytes come:\n%s", diff)
		}
		for _, l := range lines {
			if !utf8.ValidString(l) || strings.ContainsAny(l, "\x1b\r\n\x00") {
				t.Errorf("line %q has control characters", l)
			}
		}
	})
}
