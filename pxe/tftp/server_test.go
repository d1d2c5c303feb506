package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// TestBadNetworks fetches whole files over networks that lose, repeat and reorder.
func TestBadNetworks(t *testing.T) {
	type network struct{ up, down wire }
	networks := map[string]func() network{
		"good":          func() network { return network{perfect, perfect} },
		"10% lost":      func() network { return network{lossy(1, 10), lossy(2, 10)} },
		"30% lost":      func() network { return network{lossy(3, 30), lossy(4, 30)} },
		"all twice":     func() network { return network{twice, twice} },
		"reordered":     func() network { return network{late(5), late(6)} },
		"all ACK twice": func() network { return network{twice, perfect} },
	}
	requests := map[string][]string{
		"plain":   nil,
		"window":  {"blksize", "1024", "windowsize", "8"},
		"largest": {"tsize", "0", "blksize", "1468", "windowsize", "64"},
	}
	large, small := content(300_000), content(20_000)
	for netName, makeNetwork := range networks {
		for reqName, options := range requests {
			file := large
			if strings.HasPrefix(netName, "30%") {
				file = small // each block may be lost six times in a row
			}
			t.Run(netName+"/"+reqName, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := makeNetwork()
					l := newLab(t, Config{Source: FS(mapFS(map[string][]byte{"f": file}))}, n.up, n.down)
					c := l.client(2070)
					got, err := c.get("f", options...)
					if err != nil || !bytes.Equal(got, file) {
						t.Fatalf("get() = %d bytes, %v, want %d", len(got), err, len(file))
					}
					c.linger(40 * time.Second)
					if r := l.reports.next(t); r.Outcome != Done && !strings.Contains(netName, "lost") {
						t.Errorf("report = %+v, want done", r)
					}
				})
			})
		}
	}
}

// TestRollOver sends more blocks than there are numbers.
func TestRollOver(t *testing.T) {
	file := content(8*140_000 + 3)
	for _, window := range []string{"1", "64"} {
		t.Run("window "+window, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, Config{Source: FS(mapFS(map[string][]byte{"f": file}))}, perfect, perfect)
				got, err := l.client(2070).get("f", "blksize", "8", "windowsize", window)
				if err != nil || !bytes.Equal(got, file) {
					t.Errorf("get() = %d bytes, %v, want %d", len(got), err, len(file))
				}
			})
		})
	}
}

// TestNoApprentice counts datagrams when every ACK comes twice: a server that
// answers old ones doubles its traffic with each block.
func TestNoApprentice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := content(512*12 - 1)
		l := newLab(t, Config{Source: FS(mapFS(map[string][]byte{"f": file}))}, twice, perfect)
		if got, err := l.client(2070).get("f"); err != nil || !bytes.Equal(got, file) {
			t.Fatalf("get() = %d bytes, %v", len(got), err)
		}
		if r := l.reports.next(t); r.Outcome != Done {
			t.Errorf("report = %+v, want done", r)
		}
		if l.sends != 12 {
			t.Errorf("the server sent %d datagrams for 12 blocks", l.sends)
		}
	})
}

// TestSilentClient measures when a client that is gone is sent to, and that it
// is given up.
func TestSilentClient(t *testing.T) {
	for name, c := range map[string]struct {
		options []string
		want    []time.Duration
	}{
		"data":    {nil, []time.Duration{0, 1, 3, 7, 15, 23}},
		"options": {[]string{"tsize", "0"}, []time.Duration{0, 1, 3, 7, 15, 23}},
		"timeout": {[]string{"timeout", "10"}, []time.Duration{0, 10, 20, 30, 40, 50}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, Config{Source: FS(mapFS(map[string][]byte{"f": content(3000)}))}, perfect, perfect)
				began := time.Now()
				client := l.client(2070)
				client.ask(rrq(append([]string{"f", "octet"}, c.options...)...))
				var got []time.Duration
				for range c.want {
					if p, _ := client.receive(time.Minute); p != nil {
						got = append(got, time.Since(began)/time.Second)
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("sent after %v seconds, want %v", got, c.want)
				}
				if p, _ := client.receive(5 * time.Minute); p != nil {
					t.Errorf("sent once more: % x", p)
				}
				if r := l.reports.next(t); r.Outcome != TimedOut || r.Resends != 5 || r.Bytes != 0 {
					t.Errorf("report = %+v, want timed out with 5 repetitions", r)
				}
			})
		})
	}
}

// TestSizeProbe does what EDK2 does: it asks for the size, aborts, and asks for
// the content in the same moment from the same port.
func TestSizeProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := content(100_000)
		l := newLab(t, Config{Source: FS(mapFS(map[string][]byte{"f": file}))}, perfect, perfect)
		c := l.client(2070)
		c.ask(rrq("f", "octet", "tsize", "0"))
		p, port := c.receive(time.Second)
		if want := "\x00\x06tsize\x00100000\x00"; string(p) != want {
			t.Fatalf("answer to the probe = %q, want %q", p, want)
		}
		c.reply(port, errorPacket(8, "User aborted"))
		got, err := c.get("f", "tsize", "0", "blksize", "1468", "windowsize", "4")
		if err != nil || !bytes.Equal(got, file) {
			t.Fatalf("get() = %d bytes, %v, want %d", len(got), err, len(file))
		}
		outcomes := map[Outcome]int{}
		for range 2 {
			outcomes[l.reports.next(t).Outcome]++
		}
		if outcomes[Done] != 1 || outcomes[Aborted]+outcomes[Stopped] != 1 {
			t.Errorf("outcomes = %v, want done and one that was aborted or replaced", outcomes)
		}
		if p, _ := c.receive(time.Minute); p != nil {
			t.Errorf("sent after both ended: % x", p)
		}
	})
}

func TestRepeatedRequest(t *testing.T) {
	source := func() Source { return FS(mapFS(map[string][]byte{"f": content(3000), "g": content(100)})) }
	// oacks counts the transfers that answer within the time.
	ports := func(c *labClient, wait time.Duration) map[int]bool {
		seen := map[int]bool{}
		for end := time.Now().Add(wait); time.Now().Before(end); {
			if _, port := c.receive(time.Until(end)); port != 0 {
				seen[port] = true
			}
		}
		return seen
	}
	t.Run("is dropped while the first is answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, Config{Source: source()}, perfect, perfect)
			c := l.client(2070)
			for range 5 {
				c.ask(rrq("f", "octet"))
			}
			if got := ports(c, 4*time.Second); len(got) != 1 {
				t.Errorf("answers from %d ports, want 1", len(got))
			}
		})
	})
	t.Run("begins anew after a restart", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, Config{Source: source()}, perfect, perfect)
			c := l.client(2070)
			c.ask(rrq("f", "octet"))
			ports(c, repeatTime+time.Second)
			if got, err := c.get("f"); err != nil || len(got) != 3000 {
				t.Errorf("get() = %d bytes, %v, want 3000", len(got), err)
			}
			got := map[Outcome]error{}
			for range 2 {
				r := l.reports.next(t)
				got[r.Outcome] = r.Err
			}
			if err, done := got[Done]; !done || err != nil || !errors.Is(got[Stopped], errAgain) {
				t.Errorf("outcomes = %v, want one done and one stopped because of it", got)
			}
		})
	})
	t.Run("for another file replaces the first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, Config{Source: source()}, perfect, perfect)
			c := l.client(2070)
			c.ask(rrq("f", "octet"))
			c.receive(time.Second)
			if got, err := c.get("g"); err != nil || len(got) != 100 {
				t.Errorf("get() = %d bytes, %v, want 100", len(got), err)
			}
		})
	})
}

func TestTooManyTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, Config{Source: FS(mapFS(map[string][]byte{"f": content(3000)})), MaxTransfers: 2}, perfect, perfect)
		first, second, third := l.client(1001), l.client(1002), l.client(1003)
		first.ask(rrq("f", "octet"))
		second.ask(rrq("f", "octet"))
		_, port := first.receive(time.Second)
		third.ask(rrq("f", "octet"))
		if p, _ := third.receive(500 * time.Millisecond); p != nil {
			t.Fatalf("a third transfer was answered: % x", p[:4])
		}
		first.reply(port, errorPacket(0, "enough"))
		if got, err := third.get("f"); err != nil || len(got) != 3000 {
			t.Errorf("get() with a free place = %d bytes, %v, want 3000", len(got), err)
		}
	})
}

func TestRefusals(t *testing.T) {
	broken := errors.New("disk on fire at /srv/secret")
	source := SourceFunc(func(_ context.Context, r Request) (File, error) {
		switch r.Name {
		case "forbidden":
			return nil, fmt.Errorf("opening: %w", fs.ErrPermission)
		case "broken":
			return nil, broken
		case "half":
			return unreadable{Bytes(content(3000))}, nil
		case "nothing":
			return nil, nil
		}
		return nil, fmt.Errorf("opening: %w", fs.ErrNotExist)
	})
	cases := map[string]struct {
		request     []byte
		want        string // of the answer; "": none
		wantOutcome Outcome
	}{
		"missing":       {rrq("x", "octet"), "\x00\x05\x00\x01x: no such file\x00", Refused},
		"nil file":      {rrq("nothing", "octet"), "\x00\x05\x00\x01nothing: no such file\x00", Refused},
		"forbidden":     {rrq("forbidden", "octet"), "\x00\x05\x00\x02forbidden: not allowed\x00", Refused},
		"broken":        {rrq("broken", "octet"), "\x00\x05\x00\x00broken: cannot be sent now\x00", Failed},
		"not readable":  {rrq("half", "octet"), "\x00\x05\x00\x00the file cannot be read\x00", Failed},
		"traversal":     {rrq("../../etc/passwd", "octet"), "\x00\x05\x00\x02no such file name\x00", Refused},
		"write":         {[]byte("\x00\x02x\x00octet\x00"), "\x00\x05\x00\x02this server is read-only\x00", Refused},
		"text":          {rrq("x", "netascii"), "\x00\x05\x00\x04this server sends in mode octet (binary) only\x00", Refused},
		"nothing asked": {[]byte{0, 1}, "\x00\x05\x00\x04request without file name or mode\x00", Refused},
		"an ACK":        {ack(1), "", ""},
		"an ERROR":      {errorPacket(1, "no"), "", ""},
		"empty":         {nil, "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, Config{Source: source}, perfect, perfect)
				client := l.client(2070)
				client.ask(c.request)
				p, _ := client.receive(time.Minute)
				if string(p) != c.want {
					t.Errorf("answer = %q, want %q", p, c.want)
				}
				if p, _ := client.receive(time.Minute); p != nil {
					t.Errorf("a second answer: %q", p)
				}
				if c.wantOutcome == "" {
					if len(l.reports.c) != 0 {
						t.Errorf("a transfer was reported: %+v", l.reports.next(t))
					}
					return
				}
				if r := l.reports.next(t); r.Outcome != c.wantOutcome || r.Err == nil {
					t.Errorf("report = %+v, want %s with an error", r, c.wantOutcome)
				}
			})
		})
	}
}

// unreadable is a file whose content cannot be read.
type unreadable struct{ File }

func (unreadable) ReadAt([]byte, int64) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestStop ends the server in the middle of a transfer.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, Config{Source: FS(mapFS(map[string][]byte{"f": content(3000)}))}, perfect, perfect)
		c := l.client(2070)
		c.ask(rrq("f", "octet"))
		c.receive(time.Second)
		began := time.Now()
		l.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("Run took %s to end", took)
		}
		if r := l.reports.next(t); r.Outcome != Stopped {
			t.Errorf("report = %+v, want stopped", r)
		}
	})
}

func TestFSWithoutReadAt(t *testing.T) {
	want := content(5000)
	f, err := openFS(streamFS{want}, "f")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5000)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) || f.Size() != 5000 {
		t.Errorf("openFS() = %d bytes, %v; want the file", f.Size(), err)
	}
	if _, err := openFS(mapFS(map[string][]byte{"dir/f": want}), "dir"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("openFS(folder) = %v, want not found", err)
	}
}

// streamFS has one file that can only be read from the beginning.
type streamFS struct{ data []byte }

func (s streamFS) Open(name string) (fs.File, error) {
	f, err := mapFS(map[string][]byte{"f": s.data}).Open("f")
	return streamFile{f, iotest.OneByteReader(bytes.NewReader(s.data))}, err
}

type streamFile struct {
	inner fs.File
	r     io.Reader
}

func (f streamFile) Stat() (fs.FileInfo, error) { return f.inner.Stat() }
func (f streamFile) Read(p []byte) (int, error) { return f.r.Read(p) }
func (f streamFile) Close() error               { return f.inner.Close() }

func TestNewChecks(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("New() without a socket passed")
	}
	if _, err := New(Config{Conn: labServer{newMailbox()}, Source: FS(mapFS(nil)), MTU: 40}); err == nil || !strings.Contains(err.Error(), "MTU") {
		t.Errorf("New() with an MTU of 40 = %v, want an error about it", err)
	}
}

// FuzzServer sends datagrams from some ports in any order: the server must
// neither fail nor answer with more than a few times what it was sent.
func FuzzServer(f *testing.F) {
	f.Add([]byte("\x00\x10\x00\x01f\x00octet\x00\x01\x04\x00\x04\x00\x01"))
	f.Add(append([]byte{0, 9}, rrq("f", "octet", "blksize", "8", "windowsize", "64")...))
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, Config{Source: FS(mapFS(map[string][]byte{"f": content(2000)})), MaxTransfers: 3}, perfect, perfect)
			var clients [4]*labClient
			for i := range clients {
				clients[i] = l.client(3000 + i)
			}
			// port, length, datagram, and again; every second goes to the transfer.
			for i := 0; len(script) >= 2 && i < 50; i++ {
				c, n := clients[script[0]%4], int(script[1])
				script = script[2:]
				p := script[:min(n, len(script))]
				script = script[len(p):]
				if _, port := c.receive(10 * time.Millisecond); port != 0 && i%2 == 1 {
					c.reply(port, p)
				} else {
					c.ask(p)
				}
			}
			synctest.Wait()
		})
	})
}
