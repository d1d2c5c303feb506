package api

import "time"

// NodeState is the one word that is shown for a machine or node.
//
// A machine is booting (it asked for something by network, its agent was not
// heard yet), pending, rejected, or refused an answer (unanswered). An
// approved machine is a node: its state joins the administrator's wish
// ([AdminState]) and its link ([LinkState]); unreachable and booting win.
type NodeState string

// The states that are shown.
const (
	NodeUnanswered  NodeState = "unanswered" // asked by network while enrollment was closed
	NodeBooting     NodeState = "booting"
	NodePending     NodeState = "pending"
	NodeRejected    NodeState = "rejected"
	NodeDeclared    NodeState = "declared" // added beforehand, never heard
	NodeReady       NodeState = "ready"
	NodeDraining    NodeState = "draining"
	NodePaused      NodeState = "paused"
	NodeLate        NodeState = "late"
	NodeUnreachable NodeState = "unreachable"
)

// AdminState is what the administrator wants of a node.
type AdminState string

// The administrator's states.
const (
	AdminReady    AdminState = "ready"
	AdminDraining AdminState = "draining"
	AdminPaused   AdminState = "paused"
)

// LinkState is how well the head hears a node.
type LinkState string

// The states of a link: heartbeats arrive (up), one is overdue (late), the
// node was given up for now (unreachable), it boots.
const (
	LinkBooting     LinkState = "booting"
	LinkUp          LinkState = "up"
	LinkLate        LinkState = "late"
	LinkUnreachable LinkState = "unreachable"
)

// Identity is how firmly a machine can be recognized at its next boot.
type Identity string

// The identities: by a TPM's primary key, or by MAC and UUID alone.
const (
	IdentityTPM     Identity = "tpm"
	IdentityAddress Identity = "address"
)

// Hardware is what an agent found in its machine.
type Hardware struct {
	MACs      []string `json:"macs" doc:"hardware addresses, the one it booted from first"`
	UUID      string   `json:"uuid,omitempty" doc:"SMBIOS system UUID, lower case"`
	Vendor    string   `json:"vendor,omitempty"`
	Product   string   `json:"product,omitempty"`
	Arch      string   `json:"arch" doc:"as Debian names it: amd64, arm64"`
	CPUModel  string   `json:"cpu_model,omitempty"`
	Cores     int      `json:"cores" doc:"CPUs that the scheduler may use"`
	MemoryMiB int64    `json:"memory_mib"`
	Firmware  string   `json:"firmware,omitempty" doc:"bios or uefi"`
}

// Software is what an agent runs from.
type Software struct {
	Agent     string `json:"agent" doc:"version of the agent"`
	Protocol  int    `json:"protocol" doc:"version of the messages it speaks"`
	Kernel    string `json:"kernel" doc:"release, as uname -r says it"`
	ImageID   string `json:"image_id,omitempty"`
	RuntimeID string `json:"runtime_id,omitempty"`
	Medium    string `json:"medium,omitempty" doc:"pxe, http, iso, usb, uki (a unified kernel image, by HTTP or from a stick) or unknown"`
	// Userland is what the node's tasks see, once it is there. A node whose image has none
	// is empty here and in UserlandWanted, and takes only tasks that name it.
	Userland       string `json:"userland,omitempty" doc:"SHA-256 of the userland that it holds"`
	UserlandWanted string `json:"userland_wanted,omitempty" doc:"SHA-256 of the userland that its image has"`
	// Where it has it, once it has.
	UserlandIn      UserlandIn `json:"userland_in,omitempty" doc:"memory or share"`
	UserlandFrom    string     `json:"userland_from,omitempty" doc:"HOST:/FOLDER that it is read from"`
	UserlandStalled string     `json:"userland_stalled,omitempty" doc:"why what reads it waits"`
	UserlandBytes   int64      `json:"userland_bytes,omitempty" doc:"of the node's memory that it takes for good"`
}

// Load is what a node reports with each heartbeat.
type Load struct {
	Runnable     float64 `json:"runnable" doc:"mean number of runnable threads"`
	CPUBusy      float64 `json:"cpu_busy" doc:"share of all cores that was busy, 0 to 1"`
	MemTotalMiB  int64   `json:"mem_total_mib"`
	MemFreeMiB   int64   `json:"mem_free_mib" doc:"MemAvailable of the kernel"`
	MemPressure  float64 `json:"mem_pressure" doc:"PSI some avg10 of memory, 0 to 100"`
	Tasks        int     `json:"tasks" doc:"tasks that run on it"`
	UptimeSecond float64 `json:"uptime_seconds"`
}

// Node is a machine or node as the API lists it. Fields that a machine does
// not have yet are empty.
type Node struct {
	ID          string     `json:"id" doc:"stable while the head remembers the machine"`
	Name        string     `json:"name,omitempty" doc:"given at approval; also its host name"`
	State       NodeState  `json:"state"`
	Stage       string     `json:"stage,omitempty" doc:"what a booting machine does now, or why it is not answered or takes no tasks"`
	Admin       AdminState `json:"admin,omitempty"`
	Link        LinkState  `json:"link,omitempty"`
	MAC         string     `json:"mac,omitempty" doc:"the address it booted from"`
	IP          string     `json:"ip,omitempty"`
	Fingerprint string     `json:"fingerprint,omitempty" doc:"of its session key; the machine shows the same on its screen"`
	Identity    Identity   `json:"identity,omitempty" doc:"what recognizes it at its next boot"`
	BootID      string     `json:"boot_id,omitempty" doc:"of the running kernel"`
	Speed       float64    `json:"speed,omitempty" doc:"measured speed of one core, 1.0 is the reference"`
	Weight      int        `json:"weight" doc:"0 to 200 percent, set by the administrator"`
	Labels      []string   `json:"labels,omitempty" doc:"that the administrator gave it"`
	Hardware    Hardware   `json:"hardware"`
	Software    Software   `json:"software"`
	Image       NodeImage  `json:"image"`
	Load        Load       `json:"load"`
	// Kexec is a start of another image that has not ended well.
	Kexec      *KexecState `json:"kexec,omitempty"`
	Hint       string      `json:"hint,omitempty" doc:"the command that would take it further"`
	FirstHeard time.Time   `json:"first_heard,omitzero"`
	LastHeard  time.Time   `json:"last_heard,omitzero"`
	Since      time.Time   `json:"since,omitzero" doc:"when it came into its present state"`
}

// ApproveRequest approves machines. Exactly one of Machines and All is set.
type ApproveRequest struct {
	Machines []string `json:"machines,omitempty" doc:"MACs, fingerprints or IDs of pending machines"`
	All      bool     `json:"all,omitempty" doc:"every machine that is pending now, in order of arrival"`
	Names    string   `json:"names,omitempty" doc:"host list to take the names from, as n[1-24]; empty: lowest free n1, n2, ..."`
}

// DeclareRequest makes a machine known before it boots: it is let in
// without a person's approval when it first joins.
type DeclareRequest struct {
	MAC  string `json:"mac,omitempty"`
	UUID string `json:"uuid,omitempty"`
	Name string `json:"name,omitempty"`
	IP   string `json:"ip,omitempty" doc:"fixed address, where muster's DHCP owns the network"`
}

// RenameRequest gives a node another name.
type RenameRequest struct {
	Name string `json:"name"`
}

// Enrollment says whether unknown machines are answered when they boot from
// the network.
type Enrollment struct {
	Open   bool      `json:"open"`
	Until  time.Time `json:"until,omitzero" doc:"when it closes by itself; absent: never"`
	Policy string    `json:"policy" doc:"why: opened by a person, or the default of this kind of network"`
}

// EnrollmentRequest opens or closes enrollment.
type EnrollmentRequest struct {
	Open    bool `json:"open"`
	ForSecs int  `json:"for_seconds,omitempty" doc:"close again after this time; 0: stay"`
}

// AdminRequest changes what the administrator wants of a node.
type AdminRequest struct {
	Admin AdminState `json:"admin" doc:"ready, draining or paused"`
}
