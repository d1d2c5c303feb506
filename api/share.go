package api

import "time"

// ShareDriver says who serves a share.
type ShareDriver string

// The drivers.
const (
	ShareExternal ShareDriver = "external" // an NFS server that is not muster's
	ShareKernel   ShareDriver = "kernel"   // the head's nfs-kernel-server
	ShareGanesha  ShareDriver = "ganesha"  // nfs-ganesha, a child of the head
)

// Share is a directory that nodes mount at one path.
type Share struct {
	// ID is the export's number. It never changes and is never used again, because
	// the handles that clients hold are made of it.
	ID       uint16      `json:"id"`
	Path     string      `json:"path" doc:"where nodes mount it"`
	Driver   ShareDriver `json:"driver"`
	Source   string      `json:"source" doc:"HOST:/EXPORT of an external server, or a folder of the head"`
	ReadOnly bool        `json:"read_only,omitempty"`
	// To says which nodes mount it: none for all, else networks as
	// 10.1.0.0/16, host lists as n[1-4] or labels as label:gpu.
	To           []string `json:"to,omitempty"`
	NoRootSquash bool     `json:"no_root_squash,omitempty"`

	State  string       `json:"state" doc:"served, starting, failed or unreachable"`
	Reason string       `json:"reason,omitempty" doc:"why it is not served"`
	Limits []string     `json:"limits,omitempty" doc:"what this driver or file system cannot do"`
	Allow  []string     `json:"allow,omitempty" doc:"external: addresses that its server has to let in"`
	Mounts []ShareMount `json:"mounts,omitempty"`
	Added  time.Time    `json:"added"`
}

// ShareMount is a share on one node.
type ShareMount struct {
	Node   string    `json:"node"`
	State  string    `json:"state" doc:"mounted, mounting, failed, stalled or leaving"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Tasks  int       `json:"tasks,omitempty" doc:"tasks that run with it"`
}

// ShareRequest adds a share.
type ShareRequest struct {
	Source       string   `json:"source" doc:"HOST:/EXPORT, or an absolute folder of the head"`
	At           string   `json:"at,omitempty" doc:"path on nodes; empty: that of the folder or export"`
	ReadOnly     bool     `json:"read_only,omitempty"`
	To           []string `json:"to,omitempty"`
	NoRootSquash bool     `json:"no_root_squash,omitempty"`
}

// NodeConfig is what a node needs of the cluster to run tasks. The head sends it
// after approval and whenever it has changed; the node makes itself so.
type NodeConfig struct {
	Version uint64      `json:"version" doc:"names the content; never 0"`
	Mounts  []NodeMount `json:"mounts,omitempty"`
	// Files that tasks see in /etc, whole.
	Passwd string `json:"passwd,omitempty"`
	Group  string `json:"group,omitempty"`
	Hosts  string `json:"hosts,omitempty"`
	Resolv string `json:"resolv,omitempty"`
	// Userland is where the userland of the node's image can be read. Nil: nowhere, it has to be held.
	Userland *UserlandSource `json:"userland,omitempty"`
	// UserlandSoon says that the head is about to serve it: there is nothing to decide yet.
	UserlandSoon bool `json:"userland_soon,omitempty"`
}

// NodeMount is a share as a node mounts it, with mount(2) as NFS 4.2.
type NodeMount struct {
	ID       uint16 `json:"id"`
	Path     string `json:"path"`
	Server   string `json:"server" doc:"address, without port"`
	Port     int    `json:"port,omitempty" doc:"0: 2049"`
	Export   string `json:"export"`
	ReadOnly bool   `json:"read_only,omitempty"`
	Minor    int    `json:"minor,omitempty" doc:"of NFS 4, which is tried first; 0: 2"`
}

// MountStatus is what a node says of a mount in its heartbeats.
type MountStatus struct {
	ID     uint16 `json:"id"`
	Path   string `json:"path"`
	State  string `json:"state" doc:"mounted, mounting, failed, stalled or leaving"`
	Reason string `json:"reason,omitempty"`
	Tasks  int    `json:"tasks,omitempty"`
}
