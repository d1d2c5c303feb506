package api

import "time"

// JobState is the state of a job or of one of its tasks. Only these
// transitions exist: queued to running, running to finished, failed or
// queued (rerunnable jobs), queued or running to canceled.
type JobState string

// The states.
const (
	JobQueued   JobState = "queued"
	JobRunning  JobState = "running"
	JobFinished JobState = "finished"
	JobFailed   JobState = "failed"
	JobCanceled JobState = "canceled"
)

// Ended tells whether a state is final.
func (s JobState) Ended() bool {
	return s == JobFinished || s == JobFailed || s == JobCanceled
}

// SentFile is a file that travels with a job: its content was uploaded as a
// blob before, and every node that runs a task of the job gets it.
type SentFile struct {
	Path   string `json:"path" doc:"relative, clean, below the task's working directory; may be any bytes"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	Mode   uint32 `json:"mode" doc:"permission bits"`
}

// JobSpec is what a user asks for.
type JobSpec struct {
	Argv     []string   `json:"argv" doc:"program and arguments; never a shell line"`
	Env      []string   `json:"env,omitempty" doc:"KEY=value"`
	Name     string     `json:"name,omitempty"`
	Tasks    int        `json:"tasks" doc:"how many, at least 1"`
	Spread   bool       `json:"spread,omitempty" doc:"no two tasks on one node"`
	On       string     `json:"on,omitempty" doc:"host list of nodes it may run on, also with labels as label:gpu; empty: any"`
	Cores    int        `json:"cores" doc:"cores of each task; 0 means 1"`
	MemMiB   int64      `json:"mem_mib,omitempty" doc:"memory of each task; 0: not known"`
	Files    []SentFile `json:"files,omitempty"`
	Detached bool       `json:"detached,omitempty" doc:"its user may go away"`
	Stdin    bool       `json:"stdin,omitempty" doc:"a client will send input; else it is empty"`
	Label    bool       `json:"label,omitempty" doc:"output lines are shown with their task"`
	// OneOutput has errors come with the output, in the order in which the program wrote both: its
	// user has them in one place.
	OneOutput bool `json:"one_output,omitempty"`

	// Where and how it runs. Argv, Env and the paths may hold any bytes, see
	// [EncodeText].
	Dir      string  `json:"dir,omitempty" doc:"working directory of its user; it is that of the tasks where a share has it"`
	Private  bool    `json:"private,omitempty" doc:"the tasks work in private folders with the files that were sent along, wherever dir is"`
	Umask    *uint32 `json:"umask,omitempty" doc:"absent: 022"`
	Limits   []Limit `json:"limits,omitempty" doc:"resource limits of the user"`
	Terminal *Window `json:"terminal,omitempty" doc:"it gets a terminal of this size; only a job of one task"`
	// StdinFirst gives the input to the first task alone; the others have none. Else every
	// task reads all of it.
	StdinFirst bool   `json:"stdin_first,omitempty"`
	Output     string `json:"output,omitempty" doc:"absolute path in a share that the node writes the output to"`
	Errors     string `json:"errors,omitempty" doc:"the same for standard error; empty: where the output goes"`
	// AutoOutput gives a detached job that works in a share and names no output the file NAME-JOB.out in
	// its working directory. Output of others is kept by the head.
	AutoOutput bool `json:"auto_output,omitempty"`
	// Fetch are files that the user wants back when a task has ended: paths below its private
	// working directory, with %j and %t as in Output. The head keeps them as it keeps output:
	// until newer jobs need the room.
	Fetch []string `json:"fetch,omitempty"`
	// Containers permits user namespaces and FUSE inside the task. Such a task cannot move.
	Containers bool `json:"containers,omitempty"`
	// EachNode runs one task on every node of on, also on those that take no task now. It takes no core,
	// and does not wait for nodes that are not heard. For administrators.
	EachNode bool `json:"each_node,omitempty"`
	// RequestID makes a submission idempotent: a client that lost the
	// answer repeats the request and gets the same job.
	RequestID string `json:"request_id,omitempty"`
}

// Limit is a resource limit, as setrlimit(2) takes it.
type Limit struct {
	Resource int    `json:"resource" doc:"number, as on Linux amd64"`
	Soft     uint64 `json:"soft" doc:"18446744073709551615: none"`
	Hard     uint64 `json:"hard"`
}

// Window is the size of a terminal in characters.
type Window struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// Owner is the user that a job belongs to and runs as.
type Owner struct {
	User   string   `json:"user"`
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty" doc:"supplementary groups"`
}

// Job is what was asked for and how far it is.
type Job struct {
	ID        uint64    `json:"id"`
	Name      string    `json:"name"`
	Owner     Owner     `json:"owner"`
	State     JobState  `json:"state"`
	Reason    string    `json:"reason,omitempty" doc:"why it is queued, failed or canceled"`
	Spec      JobSpec   `json:"spec"`
	Tasks     []Task    `json:"tasks"`
	Submitted time.Time `json:"submitted"`
	Started   time.Time `json:"started,omitzero"`
	Ended     time.Time `json:"ended,omitzero"`
	ExitCode  int       `json:"exit_code" doc:"highest of its tasks; 128 + signal for a signal"`
	Fixed     string    `json:"fixed,omitempty" doc:"why its tasks cannot move to another node"`
}

// Task is one process tree of a job on one node.
type Task struct {
	Job      uint64    `json:"job"`
	Index    int       `json:"index" doc:"from 0"`
	State    JobState  `json:"state"`
	Node     string    `json:"node,omitempty" doc:"name of the node it runs or ran on"`
	Why      string    `json:"why,omitempty" doc:"why it was placed there, or what it waits for"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	ExitCode int       `json:"exit_code"`
	Signal   int       `json:"signal,omitempty" doc:"signal that ended it"`
	Error    string    `json:"error,omitempty" doc:"why it could not start, or node lost"`
	Output   int64     `json:"output_bytes" doc:"output that the head has"`
	Detail   string    `json:"detail,omitempty" doc:"more of a task that runs: stopped, or fetching"`
	Stops    int       `json:"stops,omitempty" doc:"how often it was stopped by a signal"`
}

// SignalRequest sends a signal to every task of a job.
type SignalRequest struct {
	Signal int `json:"signal" doc:"number, as on Linux amd64"`
}
