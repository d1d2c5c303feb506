package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"muster/api"
)

func TestNew(t *testing.T) {
	pin := strings.Repeat("0a", 32)
	tests := map[string]struct {
		addr string
		base string // "" for an error of code invalid
	}{
		"socket":             {"/run/muster/head.sock", "http://head"},
		"socket with prefix": {"unix:head.sock", "http://head"},
		"port is added":      {"https://head#" + pin, "https://head:7443"},
		"token":              {"https://abc@head:99#" + pin, "https://head:99"},
		"IPv6":               {"https://[fe80::1]#" + pin, "https://[fe80::1]:7443"},
		"no pin":             {"https://head", ""},
		"short pin":          {"https://head#0a", ""},
		"plain HTTP":         {"http://head#" + pin, ""},
		"a word":             {"head", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := New(tt.addr)
			if tt.base == "" {
				if api.CodeOf(err) != api.CodeInvalid {
					t.Errorf("New(%q) = %v, want invalid", tt.addr, err)
				}
				return
			}
			if err != nil || c.base != tt.base {
				t.Errorf("New(%q) = %+v, %v; want %s", tt.addr, c, err, tt.base)
			}
			if err == nil && strings.Contains(c.addr, "abc") {
				t.Errorf("the address for messages is %q and shows the token", c.addr)
			}
		})
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MUSTER_HEAD", "")
	t.Setenv("XDG_STATE_HOME", dir)
	if got, err := Find("given"); got != "given" || err != nil {
		t.Errorf("Find(given) = %q, %v", got, err)
	}
	t.Setenv("MUSTER_HEAD", "/from/env")
	if got, err := Find(""); got != "/from/env" || err != nil {
		t.Errorf("Find() = %q, %v; want that of MUSTER_HEAD", got, err)
	}
	t.Setenv("MUSTER_HEAD", "")
	if _, err := os.Stat(SystemSocket); err == nil { // a head runs on this machine
		if got, err := Find(""); got != SystemSocket || err != nil {
			t.Errorf("Find() = %q, %v; want the system's head", got, err)
		}
		return
	}
	if _, err := Find(""); api.CodeOf(err) != api.CodeUnreachable || !strings.Contains(err.Error(), SystemSocket) {
		t.Errorf("Find() without a head = %v, want unreachable and where it looked", err)
	}
}

func TestNoHead(t *testing.T) {
	c, err := New(filepath.Join(t.TempDir(), "head.sock"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Run(context.Background(), api.JobSpec{Argv: []string{"true"}}, RunOptions{})
	if api.CodeOf(err) != api.CodeUnreachable || !strings.Contains(err.Error(), "muster head") {
		t.Errorf("Run() without a head = %v, want unreachable with a hint", err)
	}
}

// TestLeave: while the head does not answer, the second Ctrl-C ends the run.
func TestLeave(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	c, err := New(sock)
	if err != nil {
		t.Fatal(err)
	}
	sigs := make(chan os.Signal, 2)
	sigs <- syscall.SIGINT
	sigs <- syscall.SIGINT
	_, err = c.Attach(context.Background(), 1, RunOptions{Signals: sigs})
	if !errors.Is(err, ErrLeft) {
		t.Errorf("Attach() = %v, want ErrLeft", err)
	}
}

// TestBrokenStream: a head that says nonsense, or the same output again, or
// skips some, does not get any of it into the output; a frame that ends the
// job does.
func TestBrokenStream(t *testing.T) {
	out := func(off int64, s string) []byte {
		return api.AppendFrame(nil, api.Frame{Type: api.FrameOutput, Stream: api.Stdout, Offset: off, Data: []byte(s)})
	}
	end := api.AppendFrame(nil, api.Frame{Type: api.FrameEnd, Data: []byte(`{"id":1,"state":"finished"}`)})
	streams := [][]byte{
		append(out(0, "ab"), out(5, "gap")...),
		append(out(1, "bcd"), "\xff\xff\xff\xff nonsense that is no frame"...),
		append(append(out(0, "abcd"), out(2, "cdef")...), end...),
	}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int32
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.StreamProtocol+"\r\n\r\n")
		conn.Write(streams[min(int(n.Add(1)), len(streams))-1])
	})}
	go srv.Serve(ln)
	defer srv.Close()
	c, err := New(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var got bytes.Buffer
	j, err := c.Attach(ctx, 1, RunOptions{Output: func(_ int, _ api.Stream, b []byte) error { got.Write(b); return nil }})
	if err != nil || j.State != api.JobFinished || got.String() != "abcdef" || n.Load() != 3 {
		t.Errorf("Attach() = %s, %v, output %q after %d connections; want finished, abcdef, 3", j.State, err, got.String(), n.Load())
	}
}
