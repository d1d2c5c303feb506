package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"muster/api"
	"muster/headnode/scheduler"
)

// fakeFleet is a fleet of agents in this process that keep the contract of a
// real one: starts are idempotent, output is kept until it is acknowledged, the
// end of a task is told until it is taken, and a task is held until it is
// forgotten.
type fakeFleet struct {
	changed chan struct{}

	mu     sync.Mutex
	nodes  []scheduler.Node
	agents map[string]*fakeAgent
	sink   taskSink // nil: no head runs
	back   chan struct{}
}

func newFakeFleet(names ...string) *fakeFleet {
	f := &fakeFleet{changed: make(chan struct{}, 1), agents: map[string]*fakeAgent{}, back: make(chan struct{})}
	for _, n := range names {
		f.nodes = append(f.nodes, scheduler.Node{
			Name: n, Ready: true, Cores: 4, Speed: 1, Weight: 100, MemMiB: 1000, MemFree: 1000,
		})
		f.agents[n] = &fakeAgent{fleet: f, name: n, boot: "boot-" + n + "-1", up: true, tasks: map[api.TaskRef]*fakeTask{}, moved: make(chan struct{})}
	}
	return f
}

func (f *fakeFleet) Snapshot() []scheduler.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.nodes)
}

func (f *fakeFleet) Changed() <-chan struct{} { return f.changed }

func (f *fakeFleet) signal() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// set changes what Snapshot says of a node.
func (f *fakeFleet) set(name string, change func(*scheduler.Node)) {
	f.mu.Lock()
	for i := range f.nodes {
		if f.nodes[i].Name == name {
			change(&f.nodes[i])
		}
	}
	f.mu.Unlock()
	f.signal()
}

// attach gives the fleet a head, or takes it away. The nodes join it.
func (f *fakeFleet) attach(s taskSink) {
	f.mu.Lock()
	f.sink = s
	close(f.back)
	f.back = make(chan struct{})
	agents := make([]*fakeAgent, 0, len(f.agents))
	for _, a := range f.agents {
		agents = append(agents, a)
	}
	f.mu.Unlock()
	if s != nil {
		for _, a := range agents {
			a.join()
		}
	}
}

// head waits for a head.
func (f *fakeFleet) head() taskSink {
	for {
		f.mu.Lock()
		s, back := f.sink, f.back
		f.mu.Unlock()
		if s != nil {
			return s
		}
		<-back
	}
}

func (f *fakeFleet) Request(ctx context.Context, node, verb string, body []byte) ([]byte, error) {
	f.mu.Lock()
	a := f.agents[node]
	f.mu.Unlock()
	if a == nil || !a.isUp() {
		return nil, &api.Error{Code: api.CodeUnreachable, Msg: "node " + node + " does not answer"}
	}
	ack := a.handle(ctx, verb, body)
	return json.Marshal(ack)
}

// fakeAgent is the agent of one node.
type fakeAgent struct {
	fleet *fakeFleet
	name  string

	mu     sync.Mutex
	boot   string
	up     bool
	moved  chan struct{} // closed and replaced when up changes
	tasks  map[api.TaskRef]*fakeTask
	starts int
	log    []string // verbs that were taken
}

func (a *fakeAgent) isUp() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.up
}

// waitUp blocks while the node has no connection.
func (a *fakeAgent) waitUp() {
	for {
		a.mu.Lock()
		up, moved := a.up, a.moved
		a.mu.Unlock()
		if up {
			return
		}
		<-moved
	}
}

// connect cuts the node's connection or gives it back.
func (a *fakeAgent) connect(up bool) {
	a.mu.Lock()
	a.up = up
	close(a.moved)
	a.moved = make(chan struct{})
	a.mu.Unlock()
	a.fleet.set(a.name, func(n *scheduler.Node) { n.Ready, n.Reason = up, "is unreachable" })
	if up {
		a.join()
	}
}

// restart loses everything that runs.
func (a *fakeAgent) restart() {
	a.mu.Lock()
	a.boot += "x"
	for _, t := range a.tasks {
		t.lost = true
	}
	a.tasks = map[api.TaskRef]*fakeTask{}
	a.mu.Unlock()
	a.connect(true)
}

func (a *fakeAgent) held() []api.TaskStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	var held []api.TaskStatus
	for _, t := range a.tasks {
		held = append(held, t.status())
	}
	return held
}

func (a *fakeAgent) join() {
	a.mu.Lock()
	boot := a.boot
	a.mu.Unlock()
	a.fleet.head().NodeJoined(a.name, boot, a.held())
}

// beat sends a heartbeat.
func (a *fakeAgent) beat() { a.fleet.head().NodeHeard(a.name, a.held()) }

func (a *fakeAgent) count(verb string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, v := range a.log {
		if v == verb {
			n++
		}
	}
	return n
}

func refuse(code api.Code, msg string) api.Ack {
	return api.Ack{Err: &api.Error{Code: code, Msg: msg}}
}

func (a *fakeAgent) handle(ctx context.Context, verb string, body []byte) api.Ack {
	a.mu.Lock()
	a.log = append(a.log, verb)
	a.mu.Unlock()
	switch verb {
	case api.VerbStart:
		var s api.TaskStart
		if json.Unmarshal(body, &s) != nil {
			return refuse(api.CodeInvalid, "start is no JSON")
		}
		if s.Argv[0] == "nosuch" {
			return refuse(api.CodeNotFound, "nosuch: not found on "+a.name)
		}
		a.start(s)
		return api.Ack{}
	case api.VerbInput:
		c, err := api.ParseInput(body)
		if err != nil {
			return refuse(api.CodeInvalid, err.Error())
		}
		t := a.task(c.TaskRef)
		if t == nil {
			return refuse(api.CodeNotFound, "no such task")
		}
		return t.takeInput(ctx, c)
	case api.VerbSignal:
		var s api.TaskSignal
		if json.Unmarshal(body, &s) != nil {
			return refuse(api.CodeInvalid, "signal is no JSON")
		}
		t := a.task(s.TaskRef)
		if t == nil {
			return refuse(api.CodeNotFound, "no such task")
		}
		t.signal(s.Signal)
		return api.Ack{}
	case api.VerbForget:
		var ref api.TaskRef
		if json.Unmarshal(body, &ref) != nil {
			return refuse(api.CodeInvalid, "forget is no JSON")
		}
		a.mu.Lock()
		delete(a.tasks, ref)
		a.mu.Unlock()
		return api.Ack{}
	}
	return refuse(api.CodeInvalid, "verb "+verb)
}

func (a *fakeAgent) task(ref api.TaskRef) *fakeTask {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tasks[ref]
}

func (a *fakeAgent) start(s api.TaskStart) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tasks[s.TaskRef] != nil {
		return
	}
	a.starts++
	t := &fakeTask{agent: a, start: s, state: api.JobRunning, signals: make(chan int, 16)}
	t.cond = sync.NewCond(&t.mu)
	if !s.Stdin {
		t.eof = true
	}
	a.tasks[s.TaskRef] = t
	go t.run()
}

// fakeTask is a task with a program of this file.
type fakeTask struct {
	agent   *fakeAgent
	start   api.TaskStart
	signals chan int

	mu    sync.Mutex
	cond  *sync.Cond
	out   []api.Frame // not acknowledged
	next  int64       // offset of the next output
	acked int64
	in    []byte // taken, not read
	taken int64
	eof   bool
	shut  bool
	state api.JobState
	exit  int
	sig   int
	lost  bool
}

func (t *fakeTask) status() api.TaskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	return api.TaskStatus{TaskRef: t.start.TaskRef, State: t.state, Output: t.next, Input: t.taken}
}

func (t *fakeTask) signal(n int) {
	select {
	case t.signals <- n:
	default:
	}
}

const fakeWindow = 4 << 20

// write adds output; it waits while too much of it is not acknowledged.
func (t *fakeTask) write(stream api.Stream, data []byte) {
	for chunk := range slices.Chunk(data, api.MaxChunk) {
		t.mu.Lock()
		for t.next-t.acked > fakeWindow {
			t.cond.Wait()
		}
		f := api.Frame{Type: api.FrameOutput, Stream: stream, Task: t.start.Index, Offset: t.next, Data: slices.Clone(chunk)}
		t.out = append(t.out, f)
		t.next += int64(len(chunk))
		t.mu.Unlock()
		t.deliver(f)
	}
}

// deliver sends one frame; what is not taken is sent again by resend.
func (t *fakeTask) deliver(f api.Frame) {
	t.agent.waitUp()
	t.agent.fleet.head().TaskOutput(t.agent.name, t.start.TaskRef, f, t.ack)
}

func (t *fakeTask) ack(off int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && off > t.acked {
		t.acked = off
		for len(t.out) > 0 && t.out[0].Offset+int64(len(t.out[0].Data)) <= off {
			t.out = t.out[1:]
		}
	}
	t.cond.Broadcast()
}

// drain sends everything again until it is acknowledged.
func (t *fakeTask) drain() {
	for {
		t.mu.Lock()
		out := slices.Clone(t.out)
		t.mu.Unlock()
		if len(out) == 0 || t.lost {
			return
		}
		for _, f := range out {
			t.deliver(f)
		}
		time.Sleep(20 * time.Millisecond) // of the fake agent, not of the test
	}
}

// read returns input, nil at its end.
func (t *fakeTask) read() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.in) == 0 && !t.eof {
		t.cond.Wait()
	}
	b := t.in
	t.in = nil
	t.cond.Broadcast()
	return b
}

func (t *fakeTask) takeInput(ctx context.Context, c api.InputChunk) api.Ack {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		return api.Ack{Offset: t.taken, Closed: true}
	}
	end := c.Offset + int64(len(c.Data))
	if c.Offset <= t.taken && end > t.taken {
		t.in = append(t.in, c.Data[t.taken-c.Offset:]...)
		t.taken = end
	}
	if c.EOF && end == t.taken {
		t.eof = true
	}
	t.cond.Broadcast()
	return api.Ack{Offset: t.taken}
}

// run is the life of the task.
func (t *fakeTask) run() {
	ref := t.start.TaskRef
	t.tell(api.TaskEvent{TaskRef: ref, State: api.JobRunning, Time: time.Now()})
	exit, sig := t.program()
	t.mu.Lock()
	t.state, t.exit, t.sig, t.shut = api.JobFinished, exit, sig, true
	if exit != 0 || sig != 0 {
		t.state = api.JobFailed
	}
	ev := api.TaskEvent{TaskRef: ref, State: t.state, Time: time.Now(), ExitCode: exit, Signal: sig, Output: t.next}
	t.mu.Unlock()
	go t.drain()
	t.tell(ev)
}

func (t *fakeTask) tell(ev api.TaskEvent) {
	for !t.lost {
		t.agent.waitUp()
		if t.agent.fleet.head().TaskEvent(context.Background(), t.agent.name, ev) == nil {
			return
		}
		time.Sleep(20 * time.Millisecond) // of the fake agent, not of the test
	}
}

// program does what argv says.
func (t *fakeTask) program() (exit, sig int) {
	argv := t.start.Argv
	switch argv[0] {
	case "true":
	case "exit":
		exit, _ = strconv.Atoi(argv[1])
	case "echo":
		t.write(api.Stdout, []byte(strings.Join(argv[1:], " ")+"\n"))
	case "warn":
		t.write(api.Stderr, []byte(strings.Join(argv[1:], " ")+"\n"))
	case "where":
		t.write(api.Stdout, []byte(fmt.Sprintf("%s %d/%d\n", t.start.Node, t.start.Index, t.start.Tasks)))
	case "cat":
		for b := t.read(); b != nil; b = t.read() {
			t.write(api.Stdout, b)
		}
	case "head1":
		b := t.read()
		t.write(api.Stdout, b[:min(1, len(b))])
		t.mu.Lock()
		t.shut = true
		t.mu.Unlock()
		return t.untilSignal()
	case "sleep":
		return t.untilSignal()
	case "stubborn":
		for n := range t.signals {
			if n == int(syscall.SIGKILL) {
				return 128 + n, n
			}
		}
	case "spew":
		n, _ := strconv.ParseInt(argv[1], 10, 64)
		io.Copy(taskWriter{t}, io.LimitReader(&pattern{}, n))
	}
	return exit, 0
}

func (t *fakeTask) untilSignal() (exit, sig int) {
	n := <-t.signals
	return 128 + n, n
}

type taskWriter struct{ t *fakeTask }

func (w taskWriter) Write(b []byte) (int, error) {
	w.t.write(api.Stdout, b)
	return len(b), nil
}

// pattern is bytes that depend on nothing but their position.
type pattern struct{ off uint64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		x := p.off * 0x9e3779b97f4a7c15
		b[i] = byte(x >> 56)
		p.off++
	}
	return len(b), nil
}
