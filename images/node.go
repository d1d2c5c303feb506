package images

import (
	"encoding/json"
	"fmt"
)

// NodeFile is where an initramfs says what its nodes do beside joining, as a [Node] in
// JSON: what package api says to agents, which may not know this one.
const NodeFile = "/etc/muster/node.json"

// Node is what a node does beside joining.
type Node struct {
	Sysctls  []NodeSysctl  `json:"sysctls,omitempty"`
	Services []NodeService `json:"services,omitempty"` // in the order of starting
}

// NodeSysctl is a kernel setting.
type NodeSysctl struct {
	Name  string `json:"name"` // with dots
	Value string `json:"value"`
}

// NodeService is a [Service] with its defaults filled in; times are in seconds.
type NodeService struct {
	Name     string   `json:"name"`
	Command  []string `json:"command"`
	Check    []string `json:"check,omitempty"`
	Every    float64  `json:"every"`
	Timeout  float64  `json:"timeout"`
	Restart  Restart  `json:"restart"`
	In       Place    `json:"in"` // initramfs or userland
	Required bool     `json:"required,omitempty"`
}

// IsEmpty says whether there is nothing to do.
func (n Node) IsEmpty() bool { return len(n.Sysctls) == 0 && len(n.Services) == 0 }

// JSON returns the one text form of n.
func (n Node) JSON() []byte {
	b, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("encoding node: %v", err)) // plain data only
	}
	return append(b, '\n')
}
