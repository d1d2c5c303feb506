package nodeagent

import (
	"fmt"
	"testing"

	"muster/api"
)

// BenchmarkTrue is the way of the shortest task: start, end and removal, as the
// head sees it.
func BenchmarkTrue(b *testing.B) {
	n := newNode(b, nil)
	job := uint64(0)
	for b.Loop() {
		job++
		ref := n.begin(command(job, "true"))
		n.end(ref)
		b.StopTimer()
		n.forget(ref)
		b.StartTimer()
	}
}

// BenchmarkOutput is output on its way from a program to the head.
func BenchmarkOutput(b *testing.B) {
	const size = 256 << 20
	n := newNode(b, nil)
	b.SetBytes(size)
	job := uint64(0)
	for b.Loop() {
		job++
		c := shell(job, fmt.Sprintf("head -c %d /dev/zero", size))
		n.mu.Lock()
		n.outputOf(c.TaskRef.String()).stdoutSink = func([]byte) {}
		n.mu.Unlock()
		n.begin(c)
		if ev := n.end(c.TaskRef); ev.State != api.JobFinished || ev.Output != size {
			b.Fatalf("state %s, %d bytes", ev.State, ev.Output)
		}
		n.forget(c.TaskRef)
	}
}
