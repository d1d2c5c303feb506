package headnode

import (
	"bufio"
	"context"
	"net"
	"testing"
	"time"

	"muster/api"
)

// FuzzRunStream lets a client of a run say anything: its connection ends at
// the first nonsense, and the head is as before.
func FuzzRunStream(f *testing.F) {
	in := api.AppendFrame(nil, api.Frame{Type: api.FrameInput, Data: []byte("hello")})
	f.Add(in)
	f.Add(api.AppendFrame(in, api.Frame{Type: api.FrameInputEOF, Offset: 5}))
	f.Add(api.AppendFrame(in, api.Frame{Type: api.FrameInputEOF, Offset: 2}))
	f.Add(api.AppendFrame(nil, api.Frame{Type: api.FrameSignal, Offset: 1 << 40}))
	f.Add(api.AppendFrame(nil, api.Frame{Type: api.FrameInput, Offset: 1 << 62, Data: []byte("x")}))
	f.Add(api.AppendFrame(nil, api.Frame{Type: 99}))
	f.Add([]byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255})
	r := newStoppedRig(f, "n1")
	js, err := newJobs(jobsConfig{Store: r.mem, Fleet: r.fleet, Dir: r.dir})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- js.Run(ctx) }()
	f.Cleanup(func() { cancel(); <-done })
	r.fleet.attach(js)
	j, err := js.Submit(ctx, api.Owner{User: "x", UID: 1000}, api.JobSpec{Argv: []string{"stubborn"}, Stdin: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := js.watch(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		head, peer := net.Pipe()
		st := &runStream{js: js, job: w, follow: newFollower(js, j.ID, upTo(1), 1), sends: true, client: -1}
		go func() {
			peer.SetDeadline(time.Now().Add(5 * time.Second))
			peer.Write(b)
			peer.Close()
		}()
		go func() {
			for {
				if _, err := api.ReadFrame(peer); err != nil {
					return
				}
			}
		}()
		st.run(t.Context(), head, bufio.NewReader(head))
	})
}
