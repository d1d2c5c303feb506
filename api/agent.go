package api

import "time"

// Protocol is the version of the messages between head and agent. A head
// speaks this one and the one before.
const Protocol = 1

// Subjects of the messages between a node and its head. KEY is the public
// nkey of the machine's session ("U..."); a connection may use the subjects
// of its own key only, and a pending one none but join.KEY and its inbox.
//
//	agent to head                          reply
//	join.KEY        JoinRequest            JoinReply
//	hb.KEY          Heartbeat              none
//	ev.KEY          TaskEvent              Ack: the event is durable
//	out.KEY.TASK    Frame (binary)         Ack: durable up to Offset
//	file.KEY        FileRequest            raw bytes, or ErrorReply with header "Error: 1"
//	log.KEY         KernelLog              none
//	put.KEY         FilePut                Ack: next byte that the head wants
//	head to agent
//	node.KEY.start  TaskStart              Ack
//	node.KEY.input  InputChunk (binary)    Ack: taken up to Offset
//	node.KEY.signal TaskSignal             Ack
//	node.KEY.forget TaskRef                Ack: the head has everything of an ended task
//	node.KEY.reboot Empty                  Ack
//	node.KEY.config NodeConfig             Ack: taken; heartbeats say how far it is
//	node.KEY.window TaskWindow             Ack
//	_INBOX.KEY.state JoinReply             none: the machine's state changed
const (
	SubjectJoin  = "join."
	SubjectHB    = "hb."
	SubjectEvent = "ev."
	SubjectOut   = "out."
	SubjectFile  = "file."
	SubjectLog   = "log."
	SubjectPut   = "put."
	SubjectNode  = "node."
	InboxPrefix  = "_INBOX."

	VerbStart  = "start"
	VerbInput  = "input"
	VerbSignal = "signal"
	VerbForget = "forget"
	VerbReboot = "reboot"
	VerbConfig = "config"
	VerbWindow = "window"

	// HeaderError is set on a reply whose body is an ErrorReply.
	HeaderError = "Error"
)

// MaxChunk is the most data bytes in one message with a chunk of a file.
// NATS messages carry 1 MiB at most; smaller chunks keep one loud task from
// delaying the others.
const MaxChunk = 64 << 10

// MaxOutput is the most data bytes in a frame of output. A message passes
// through a dozen goroutines on its way, which costs more than its bytes do.
const MaxOutput = 256 << 10

// MaxInput is the most data bytes in an InputChunk, for the same reason.
const MaxInput = MaxOutput

// JoinRequest is what an agent says of itself: at once after connecting,
// again after each reconnection, and every 30 s while it is pending.
type JoinRequest struct {
	Key      string       `json:"key" doc:"public nkey of the session"`
	BootID   string       `json:"boot_id"`
	IP       string       `json:"ip"`
	Hardware Hardware     `json:"hardware"`
	Software Software     `json:"software"`
	Speed    float64      `json:"speed,omitempty" doc:"0 while it was not measured yet"`
	Uptime   float64      `json:"uptime_seconds"`
	Tasks    []TaskStatus `json:"tasks,omitempty" doc:"every task it still holds"`
	// Stage is what an approved machine still does before it can take tasks, as in a
	// [Heartbeat].
	Stage string `json:"stage,omitempty"`
	// Kexec tells how a start of another image by kexec went in this boot or the one before; nil: there was none.
	Kexec *KexecReport `json:"kexec,omitempty"`
	// Clock is the machine's time, so that the head can say how wrong it is.
	Clock time.Time `json:"clock"`
}

// JoinState is how the head sees a machine that joins.
type JoinState string

// The answers.
const (
	JoinPending  JoinState = "pending"
	JoinApproved JoinState = "approved"
	JoinRejected JoinState = "rejected"
)

// JoinReply answers a JoinRequest. An approved machine that still has the
// rights of a pending one reconnects at once.
type JoinReply struct {
	State     JoinState `json:"state"`
	Name      string    `json:"name,omitempty" doc:"host name of the node"`
	Message   string    `json:"message,omitempty" doc:"for the machine's screen: why it waits, what to type where"`
	Heartbeat Duration  `json:"heartbeat" doc:"interval between heartbeats"`
	Clock     time.Time `json:"clock" doc:"the head's time, for the first step of the node's clock"`
	// Files is the base URL of contents by hash: FILES/blobs/SHA256/NAME, with ranges.
	// A node takes its userland from there. Set with approval. The host is the address of the
	// head that this agent connected to; a link-local one is without zone.
	Files string `json:"files,omitempty"`
	// Boot is the image that the machine is to start by kexec before it takes its first task. It says in its
	// next join how that went, if it is still there. Nil: it goes on with what it runs.
	Boot *BootImage `json:"boot,omitempty"`
	// Reconnect asks for a new connection with the rights of the new state.
	Reconnect bool `json:"reconnect,omitempty"`
}

// Heartbeat is what a node reports at the interval it was told.
type Heartbeat struct {
	BootID string       `json:"boot_id"`
	Seq    uint64       `json:"seq"`
	Speed  float64      `json:"speed,omitempty"`
	Load   Load         `json:"load"`
	Tasks  []TaskStatus `json:"tasks,omitempty"`
	// Stage is what the node still does before it can take tasks, for people, such as
	// "userland 40 %", or why it cannot. Empty: it can. The head shows
	// a node with a stage as booting.
	Stage string `json:"stage,omitempty"`
	// Software is sent with the first heartbeat and whenever it has changed, such as when the
	// node holds its userland. Nil: as before.
	Software *Software `json:"software,omitempty"`
	// Mounts are the shares of the node's [NodeConfig], and ConfigVersion the one that it has.
	Mounts        []MountStatus `json:"mounts,omitempty"`
	ConfigVersion uint64        `json:"config_version,omitempty"`
}

// TaskRef names a task on the wire. The epoch counts its starts, so
// that what an earlier start still says cannot be taken for the present one.
type TaskRef struct {
	Job   uint64 `json:"job"`
	Index int    `json:"index"`
	Epoch int    `json:"epoch"`
}

// TaskStart starts a task. Sent again for a task that runs, it changes
// nothing and is acknowledged.
type TaskStart struct {
	TaskRef
	Argv   []string   `json:"argv"`
	Env    []string   `json:"env,omitempty"`
	Owner  Owner      `json:"owner"`
	Files  []SentFile `json:"files,omitempty"`
	Stdin  bool       `json:"stdin" doc:"input will come; else it is at its end"`
	Cores  int        `json:"cores"`
	MemMiB int64      `json:"mem_mib,omitempty"`
	Host   string     `json:"host" doc:"the host name that the task sees"`
	// Tasks and Nodes tell the task where it stands: MUSTER_TASKS and
	// MUSTER_NODE in its environment beside MUSTER_JOB and MUSTER_TASK.
	Tasks int    `json:"tasks"`
	Node  string `json:"node"`

	// As in [JobSpec].
	Dir        string   `json:"dir,omitempty"`
	Umask      *uint32  `json:"umask,omitempty"`
	Limits     []Limit  `json:"limits,omitempty"`
	Terminal   *Window  `json:"terminal,omitempty"`
	Output     string   `json:"output,omitempty"`
	Errors     string   `json:"errors,omitempty"`
	Fetch      []string `json:"fetch,omitempty"`
	Containers bool     `json:"containers,omitempty"`
	OneOutput  bool     `json:"one_output,omitempty"`
}

// TaskWindow tells a task with a terminal its new size.
type TaskWindow struct {
	TaskRef
	Window
}

// TaskStatus is a task as its node sees it.
type TaskStatus struct {
	TaskRef
	State  JobState `json:"state" doc:"running, or ended and not yet forgotten by the head"`
	PID    int      `json:"pid,omitempty"`
	Output int64    `json:"output_bytes" doc:"what it has written so far"`
	Input  int64    `json:"input_bytes" doc:"input that it has taken"`
	CPUms  int64    `json:"cpu_ms,omitempty"`
	MemMiB int64    `json:"mem_mib,omitempty"`
	// Detail says more of a task that runs: one of the Detail constants, or nothing. Stops
	// counts how often it was stopped.
	Detail string `json:"detail,omitempty"`
	Stops  int    `json:"stops,omitempty"`
}

// TaskEvent tells of a task's start or end. It is repeated until the head
// acknowledges it.
type TaskEvent struct {
	TaskRef
	State    JobState  `json:"state" doc:"running, finished or failed"`
	Time     time.Time `json:"time"`
	ExitCode int       `json:"exit_code"`
	Signal   int       `json:"signal,omitempty"`
	Error    string    `json:"error,omitempty" doc:"why it could not be started"`
	// Output is the whole length of its output. The head holds the end of
	// a task back until it has that much.
	Output int64 `json:"output_bytes"`
	// Fetched tells of an ended task what became of the files that its user wants back. The
	// head has those without an error.
	Fetched []FetchedFile `json:"fetched,omitempty"`
}

// InputChunk is a part of a task's standard input. [AppendInput] is its wire form.
type InputChunk struct {
	TaskRef
	Offset int64  `json:"offset" doc:"position of the first byte of Data"`
	Data   []byte `json:"data,omitempty"`
	EOF    bool   `json:"eof,omitempty" doc:"nothing follows Data"`
}

// TaskSignal sends a signal to a task's processes. SIGKILL ends all of them.
type TaskSignal struct {
	TaskRef
	Signal int `json:"signal"`
}

// FileRequest asks for a part of a file that was sent along with a job.
type FileRequest struct {
	Job    uint64 `json:"job"`
	SHA256 string `json:"sha256"`
	Offset int64  `json:"offset"`
}

// KernelLog is lines of a node's kernel log.
type KernelLog struct {
	Lines []KernelLine `json:"lines"`
}

// KernelLine is a line of a node's kernel log, or of its agent.
type KernelLine struct {
	Micro    int64  `json:"us" doc:"microseconds since the kernel's start"`
	Priority int    `json:"priority" doc:"syslog severity, 0 to 7"`
	Text     string `json:"text"`
}

// Ack answers a request between head and agent. Err set means that nothing
// was done.
type Ack struct {
	Err    *Error `json:"error,omitempty"`
	Offset int64  `json:"offset,omitempty" doc:"first position that is not durable, or not taken, yet"`
	Closed bool   `json:"closed,omitempty" doc:"input: the task does not read any more"`
}

// Duration is a time.Duration that is written as seconds in JSON.
type Duration time.Duration
