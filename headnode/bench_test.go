package headnode

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"muster/api"
	"muster/api/client"
	"muster/headnode/store"
)

// realStore puts the rig on a store on the disk.
func realStore(t testing.TB, r *rig) *store.Store {
	t.Helper()
	st, err := store.Open(context.Background(), store.Config{Dir: filepath.Join(r.dir, "nats")})
	if err != nil {
		t.Fatal(err)
	}
	r.store = st
	return st
}

func benchRig(b *testing.B, disk bool) *rig {
	b.Helper()
	r := newStoppedRig(b, "n1", "n2")
	if disk {
		st := realStore(b, r)
		b.Cleanup(func() { st.Close() })
	}
	r.startHead()
	b.Cleanup(r.stopHead)
	return r
}

// BenchmarkRunTrue is a whole `muster run true` but for the node: submission,
// placement, start, end and stream over the socket.
func BenchmarkRunTrue(b *testing.B) {
	for _, disk := range []bool{false, true} {
		b.Run(fmt.Sprintf("disk=%v", disk), func(b *testing.B) {
			r := benchRig(b, disk)
			for b.Loop() {
				if got := r.run(api.JobSpec{Argv: []string{"true"}}, client.RunOptions{}); got.err != nil {
					b.Fatal(got.err)
				}
			}
		})
	}
}

func BenchmarkSubmit(b *testing.B) {
	r := benchRig(b, true)
	for b.Loop() {
		if _, err := r.client.Submit(context.Background(), api.JobSpec{Argv: []string{"sleep"}, Detached: true, Cores: 4}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOutput sends output from an agent through the head's disk to a
// client.
func BenchmarkOutput(b *testing.B) {
	r := benchRig(b, false)
	const size = 256 << 20
	b.SetBytes(size)
	for b.Loop() {
		n := int64(0)
		j, err := r.client.Run(context.Background(), api.JobSpec{Argv: []string{"spew", fmt.Sprint(size)}}, client.RunOptions{
			Output: func(_ int, _ api.Stream, d []byte) error { n += int64(len(d)); return nil },
		})
		if err != nil || n != size || j.ExitCode != 0 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkInput sends input from a client to a task, and back.
func BenchmarkInput(b *testing.B) {
	r := benchRig(b, false)
	const size = 32 << 20
	b.SetBytes(size)
	for b.Loop() {
		n := int64(0)
		j, err := r.client.Run(context.Background(), api.JobSpec{Argv: []string{"cat"}}, client.RunOptions{
			Stdin:  io.LimitReader(&pattern{}, size),
			Output: func(_ int, _ api.Stream, d []byte) error { n += int64(len(d)); return nil },
		})
		if err != nil || n != size || j.ExitCode != 0 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkSweep runs a job of many short tasks on a hundred nodes, with the
// records on the disk.
func BenchmarkSweep(b *testing.B) {
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	r := newStoppedRig(b, names...)
	st := realStore(b, r)
	b.Cleanup(func() { st.Close() })
	r.startHead()
	b.Cleanup(r.stopHead)
	const tasks = 5000
	for b.Loop() {
		if got := r.run(api.JobSpec{Argv: []string{"where"}, Tasks: tasks}, client.RunOptions{}); got.err != nil || got.job.State != api.JobFinished {
			b.Fatal(got.err, got.job.Reason)
		}
	}
	b.ReportMetric(float64(tasks*b.N)/b.Elapsed().Seconds(), "tasks/s")
}
