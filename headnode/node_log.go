package headnode

import (
	"slices"
	"strings"

	"muster/api"
)

// KernelLog implements nodeAdmin.
func (n *Nodes) KernelLog(ref string) ([]api.KernelLine, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, err := n.find(ref)
	if err != nil {
		return nil, err
	}
	return slices.Clone(m.log.lines), nil
}

// kernelLines takes lines of an agent's kernel log.
func (n *Nodes) kernelLines(key string, lines []api.KernelLine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.byKey[key]; m != nil && m.isNode() {
		m.log.add(lines)
	}
}

// Limits of the kernel log that is kept of a node.
const (
	maxLogLines = 2000
	maxLogBytes = 128 << 10
	maxLogLine  = 1000
)

// kernelLog is the end of a node's kernel log.
type kernelLog struct {
	lines []api.KernelLine
	size  int
}

func (l *kernelLog) add(lines []api.KernelLine) {
	for _, line := range lines {
		line.Text = strings.ToValidUTF8(line.Text[:min(len(line.Text), maxLogLine)], "")
		l.lines = append(l.lines, line)
		l.size += len(line.Text)
	}
	drop := 0
	for drop < len(l.lines) && (len(l.lines)-drop > maxLogLines || l.size > maxLogBytes) {
		l.size -= len(l.lines[drop].Text)
		drop++
	}
	l.lines = slices.Delete(l.lines, 0, drop)
}
