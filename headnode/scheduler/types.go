package scheduler

// Node is a node as the scheduler sees it.
type Node struct {
	Name      string
	Ready     bool   // takes tasks now
	Reason    string // why not, when Ready is false
	Cores     int
	Speed     float64  // of one core, 1.0 is the reference; 0 counts as 1
	Weight    int      // 0 to 200 percent; at 0 it gets no task
	MemMiB    int64    // total
	MemFree   int64    // MiB that are free by its last report
	Running   int      // cores asked for by tasks placed there and not ended, ours included
	MemPlaced int64    // MiB asked for by those tasks
	Runnable  float64  // load by its last report
	Shares    []string // paths of the shares that are mounted there
	Labels    []string // that its administrator gave it
	// NoUserland: its tasks see next to nothing, so it takes only those that name it.
	NoUserland bool
	ImageID    string
	RuntimeID  string
}
