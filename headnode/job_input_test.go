package headnode

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"muster/api"
	"muster/api/client"
)

// TestRelay sends an input to tasks that take as much as they like and end
// when they like, from clients that come and go: each task gets a beginning of
// the input, without a gap or a repetition, and one that stays gets all of it.
func TestRelay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(t, "tasks")
		input := rapid.SliceOfN(rapid.Byte(), 0, 500).Draw(t, "input")
		r := newRelay(n, &feed{})
		got := make([][]byte, n)
		ended, eof := make([]bool, n), make([]bool, n)
		acked := int64(0) // what the client does not have any more
		client := r.attach(acked)
		sent := acked
		step := func(what int) {
			switch what {
			case 0: // the client sends on
				k := rapid.Int64Range(0, int64(len(input))-sent).Draw(t, "send")
				if err := r.write(client, sent, input[sent:sent+k]); err != nil {
					t.Fatal(err)
				}
				if sent += k; sent == int64(len(input)) {
					if err := r.end(client, sent); err != nil {
						t.Fatal(err)
					}
				}
			case 1: // it connects again and repeats what was not acknowledged
				old := client
				client, sent = r.attach(acked), acked
				if r.write(old, sent, nil) != errNewerClient {
					t.Fatal("a client that was replaced may write")
				}
			case 2: // it hears how far the tasks are
				off, _ := r.state()
				if off < acked {
					t.Fatalf("acknowledged %d after %d", off, acked)
				}
				acked, sent = off, max(sent, off)
			case 3: // a task takes some
				i := rapid.IntRange(0, n-1).Draw(t, "task")
				off, data, last, ok, _, _ := r.next(i, nil)
				if !ok || ended[i] {
					return
				}
				have := int64(len(got[i]))
				if off > have {
					t.Fatalf("task %d has %d bytes and is sent what begins at %d", i, have, off)
				}
				take := rapid.IntRange(0, len(data)).Draw(t, "take")
				if end := off + int64(take); end > have {
					got[i] = append(got[i], data[have-off:take]...)
				}
				all := take == len(data)
				eof[i] = eof[i] || last && all
				r.took(i, int64(len(got[i])), last && all, false)
			case 4: // a task ends
				if rapid.IntRange(0, 20).Draw(t, "end") == 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "task")
					ended[i] = true
					r.shut(i)
				}
			case 5: // the head is restarted: only the tasks know what they took
				r = newRelay(n, &feed{})
				for i := range ended {
					if ended[i] {
						r.shut(i)
					}
				}
				client, sent = r.attach(acked), acked
			}
		}
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			step(rapid.IntRange(0, 5).Draw(t, "what"))
		}
		for range 20 { // to the end
			if err := r.write(client, sent, input[sent:]); err != nil {
				t.Fatal(err)
			}
			sent = int64(len(input))
			if err := r.end(client, sent); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				for !ended[i] {
					off, data, last, ok, _, _ := r.next(i, nil)
					if !ok {
						break
					}
					if off < int64(len(got[i])) {
						data = data[min(int64(len(got[i]))-off, int64(len(data))):]
					}
					got[i] = append(got[i], data...)
					eof[i] = eof[i] || last
					r.took(i, int64(len(got[i])), last, false)
				}
			}
		}
		for i := range n {
			if !bytes.HasPrefix(input, got[i]) {
				t.Fatalf("task %d got %q of %q", i, got[i], input)
			}
			if !ended[i] && (len(got[i]) != len(input) || !eof[i]) {
				t.Fatalf("task %d got %d of %d bytes, end %v", i, len(got[i]), len(input), eof[i])
			}
		}
		if off, _ := r.state(); off != int64(len(input)) {
			t.Fatalf("acknowledged %d of %d bytes at the end", off, len(input))
		}
	})
}

func TestRelayLimits(t *testing.T) {
	r := newRelay(1, &feed{})
	c := r.attach(0)
	if err := r.write(c, 5, []byte("x")); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("write behind a gap = %v, want invalid", err)
	}
	if err := r.write(c, 0, make([]byte, inputWindow)); err != nil {
		t.Errorf("write of a whole window = %v", err)
	}
	if err := r.write(c, inputWindow, []byte("x")); api.CodeOf(err) != api.CodeTooLarge {
		t.Errorf("write beyond the window = %v, want too_large", err)
	}
	if err := r.end(c, 5); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("end before what was sent = %v, want invalid", err)
	}
	r.shut(0)
	if _, shut := r.state(); !shut {
		t.Error("state() says that somebody reads")
	}
	if err := r.write(c, inputWindow, make([]byte, 3*inputWindow)); err != nil {
		t.Errorf("write when nobody reads = %v: it is dropped", err)
	}
}

// TestInputWaitsForQueuedTasks: each task reads all of the input, so one that is not placed yet holds it up;
// that is said.
func TestInputWaitsForQueuedTasks(t *testing.T) {
	r := newRig(t, "n1") // with four cores
	in, stop := io.Pipe()
	defer stop.Close()
	go func() {
		for {
			if _, err := stop.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan uint64, 1)
	go r.client.Run(ctx, api.JobSpec{Argv: []string{"cat"}, Tasks: 5}, client.RunOptions{Stdin: in, Changed: func(j api.Job) {
		if strings.HasPrefix(j.Reason, "its input waits until every task has started") {
			select {
			case seen <- j.ID:
			default:
			}
		}
	}})
	select {
	case id := <-seen:
		if _, err := r.client.Cancel(t.Context(), id); err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody says that the input waits")
	}
}
