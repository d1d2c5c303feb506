package api

// NodeFile is where an initramfs says what its node does beside joining, as a
// [NodeSetup] in JSON. An image that asks for nothing does not have the file.
const NodeFile = "/etc/muster/node.json"

// NodeSetup is what a node does beside joining: settings of the kernel, made by PID 1
// before anything else, and services, which the agent starts once the userland is there.
// It comes with the initramfs, whose origin is trusted.
type NodeSetup struct {
	Sysctls  []NodeSysctl  `json:"sysctls,omitempty"`
	Services []NodeService `json:"services,omitempty"` // in the order of starting
}

// NodeSysctl is a setting of the kernel.
type NodeSysctl struct {
	Name  string `json:"name"` // with dots, as sysctl(8) has it; a slash is a dot within a part
	Value string `json:"value"`
}

// NodeService is a program that a node starts. The next one is started when the check of
// this one has passed.
type NodeService struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	// Check passes with exit status 0. Without one a service that runs for ever passes by
	// running, and one that is meant to end passes by ending well.
	Check   []string `json:"check,omitempty"`
	Every   Duration `json:"every"`   // between two checks once it has passed
	Timeout Duration `json:"timeout"` // of one check
	Restart string   `json:"restart"` // always, on-failure or never
	In      string   `json:"in"`      // userland or initramfs: what it sees as its root
	// Required makes the node unfit for tasks whenever the check fails; else it is only before
	// it was ready for the first time.
	Required bool `json:"required,omitempty"`
}
