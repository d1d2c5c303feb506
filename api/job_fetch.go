package api

// FetchedFile is what became of one file of [JobSpec].Fetch in one task, once the task has ended.
type FetchedFile struct {
	Task   int    `json:"task"`
	File   int    `json:"file" doc:"its place in the job's fetch list, from 0"`
	Path   string `json:"path" doc:"as the task has it, relative to its working directory; see EncodeText"`
	SHA256 string `json:"sha256,omitempty"`
	Size   int64  `json:"size,omitempty"`
	Mode   uint32 `json:"mode,omitempty" doc:"permission bits"`
	Error  string `json:"error,omitempty" doc:"why it is not there"`
}

// FilePut is a piece of a file that a user wants back, on its way to the head. The answer's
// Offset says which byte the head wants next; at Size it has all of it, verified and durable.
type FilePut struct {
	TaskRef
	File   int    `json:"file" doc:"its place in the task's fetch list"`
	SHA256 string `json:"sha256" doc:"of the whole file"`
	Size   int64  `json:"size" doc:"of the whole file"`
	Offset int64  `json:"offset" doc:"position of the first byte of data"`
	Data   []byte `json:"data,omitempty" doc:"none: only to ask how much the head has"`
}

// Details of a task that runs, see [TaskStatus].
const (
	DetailStopped  = "stopped"  // by a signal, as Ctrl-Z sends one
	DetailFetching = "fetching" // it has ended; files that its user wants are on their way to the head
)
