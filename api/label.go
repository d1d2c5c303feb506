package api

import (
	"fmt"
	"net"
	"strings"
)

// labelPrefix begins an item of a node list that stands for all nodes with a label.
const labelPrefix = "label:"

// LabelRequest changes the labels of nodes, all or none.
type LabelRequest struct {
	Nodes  []string `json:"nodes" doc:"names, IDs, MACs or fingerprints of nodes and declared machines"`
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty" doc:"a label that a node does not have is passed over"`
}

// CheckLabel tells whether a node may have that label: a letter or digit, then letters, digits,
// dots, dashes and underscores.
func CheckLabel(label string) error {
	ok := len(label) >= 1 && len(label) <= 63
	for i := range len(label) {
		c := label[i]
		word := isLower(c|0x20) || c >= '0' && c <= '9'
		ok = ok && (word || i > 0 && strings.IndexByte("._-", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("%q cannot be a label: want a letter or digit, then letters, digits, dots, dashes and underscores, at most 63", label)
	}
	return nil
}

// CutLabel returns the label that an item of a node list stands for; false: it is a name.
func CutLabel(item string) (label string, ok bool) { return strings.CutPrefix(item, labelPrefix) }

// LabelItem is the item of a node list that stands for all nodes with a label.
func LabelItem(label string) string { return labelPrefix + label }

// ParseNodeList expands a host list in which items may also be fingerprints and MAC addresses, which stay as they are, and
// labels, as in n1,label:gpu. Labels stay items of the result, as [CutLabel] reads them, behind the others.
func ParseNodeList(list string) ([]string, error) {
	items, err := splitHostList(list)
	if err != nil {
		return nil, err
	}
	var hosts, machines, labels []string
	seen := map[string]bool{}
	for _, item := range items {
		label, ok := CutLabel(item)
		if !ok && (IsFingerprint(item) || isMAC(item)) {
			machines = append(machines, item)
			continue
		}
		if !ok {
			hosts = append(hosts, item)
			continue
		}
		if err := CheckLabel(label); err != nil {
			return nil, fmt.Errorf("reading host list %q: %w", list, err)
		}
		if !seen[label] {
			seen[label] = true
			labels = append(labels, item)
		}
	}
	machines = append(machines, labels...)
	if len(hosts) == 0 && len(machines) > 0 {
		return machines, nil
	}
	names, err := ParseHostList(strings.Join(hosts, ","))
	if err != nil {
		return nil, err
	}
	return append(names, machines...), nil
}

func isMAC(item string) bool {
	mac, err := net.ParseMAC(item)
	return err == nil && len(mac) == 6
}
