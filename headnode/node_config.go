package headnode

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"muster/api"
)

// configTexts are what all nodes get for the tasks' /etc.
type configTexts struct {
	passwd, group, resolv string
}

// Bounds of what is sent to a node: a message holds 1 MiB.
const (
	maxAccounts   = 256 << 10
	maxHosts      = 256 << 10
	textsEvery    = 10 * time.Second
	configTimeout = 10 * time.Second
	configAgain   = 5 * time.Second // after one that was not taken
	maxConfigs    = 32              // on their way at a time
	maxWhole      = 32              // versions that are remembered until a node has one
)

// readTexts reads the head's own files.
func readTexts() configTexts {
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			return ""
		}
		return wholeLines(string(b), maxAccounts)
	}
	resolv := read("/etc/resolv.conf")
	if strings.Contains(resolv, "127.0.0.53") { // systemd-resolved has the servers elsewhere
		resolv = read("/run/systemd/resolve/resolv.conf")
	}
	return configTexts{read("/etc/passwd"), read("/etc/group"), withoutLoopback(resolv)}
}

// wholeLines is s as far as its lines fit into n bytes.
func wholeLines(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:strings.LastIndexByte(s[:n], '\n')+1]
}

// withoutLoopback leaves out name servers that only the head itself can ask.
func withoutLoopback(resolv string) string {
	var b strings.Builder
	for line := range strings.Lines(resolv) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil && a.IsLoopback() {
				continue
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// hostsText names the nodes of the cluster, and the one that it is for.
func hostsText(own string, nodes []shareNode) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, n := range nodes {
		if n.ip != "" {
			fmt.Fprintf(&b, "%s\t%s\n", n.ip, n.name)
		}
	}
	if !slices.ContainsFunc(nodes, func(n shareNode) bool { return n.name == own && n.ip != "" }) {
		fmt.Fprintf(&b, "127.0.1.1\t%s\n", own)
	}
	return wholeLines(b.String(), maxHosts)
}

// version names the content of a configuration; it is never 0.
func configVersion(c api.NodeConfig) uint64 {
	c.Version = 0
	b, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("encoding %T: %v", c, err)) // strings and numbers
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:]) | 1
}

// shareNodes lists the nodes as the share side needs them, by name.
func (n *Nodes) shareNodes() []shareNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.shareNodesLocked()
}

func (n *Nodes) shareNodesLocked() []shareNode {
	var list []shareNode
	for _, m := range n.machines {
		if m.isNode() {
			list = append(list, shareNode{
				name: m.Name, ip: m.ip, labels: m.Labels, up: m.joined && m.link == api.LinkUp || m.link == api.LinkBooting && m.joined, mounts: m.mounts,
				headIP: m.headIP, runs: m.runs, memoryMiB: m.Hardware.MemoryMiB,
			})
		}
	}
	slices.SortFunc(list, func(a, b shareNode) int { return api.CompareNames(a.name, b.name) })
	return list
}

// strangers are the addresses that machines have which are no nodes.
func (n *Nodes) strangers() map[string]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	ips := map[string]bool{}
	for _, m := range n.machines {
		if !m.isNode() && m.ip != "" {
			ips[m.ip] = true
		}
	}
	return ips
}

// configure sends nodes at once what has changed for them.
func (n *Nodes) configure() {
	select {
	case n.configs <- struct{}{}:
	default:
	}
}

// runConfigs sends nodes their configuration, as soon as one differs from what its node has, until
// ctx is done.
func (n *Nodes) runConfigs(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.configs:
		case <-tick.C:
		}
		n.sendConfigs(ctx)
	}
}

// sendConfigs sends configurations to the nodes that lack theirs, many at a time.
func (n *Nodes) sendConfigs(ctx context.Context) {
	now := n.cfg.Now()
	n.mu.Lock()
	if now.Sub(n.textsRead) > textsEvery {
		n.texts, n.textsRead = readTexts(), now
	}
	nodes, texts := n.shareNodesLocked(), n.texts
	n.mu.Unlock()
	for _, node := range nodes {
		if !node.up {
			continue
		}
		whole := true
		c := api.NodeConfig{Passwd: texts.passwd, Group: texts.group, Resolv: texts.resolv, Hosts: hostsText(node.name, nodes)}
		if n.mountsOf != nil {
			c.Mounts, whole = n.mountsOf(node)
		}
		if n.userlandOf != nil {
			c.Userland, c.UserlandSoon = n.userlandOf(node, c.Mounts)
		}
		c.Version = configVersion(c)
		n.mu.Lock()
		m := n.named(node.name)
		if m != nil && !m.settled && whole && !slices.Contains(m.whole, c.Version) {
			m.whole = append(m.whole[max(0, len(m.whole)-maxWhole):], c.Version)
		}
		due := m != nil && m.config != c.Version && !m.configFlying && !now.Before(m.configNext) && n.configsFlying < maxConfigs
		if due {
			m.configFlying = true
			n.configsFlying++
		}
		n.mu.Unlock()
		if !due {
			continue
		}
		go n.sendConfig(ctx, node.name, c)
	}
}

// sendConfig sends a node its configuration. Whether it has it is told by its next heartbeat.
func (n *Nodes) sendConfig(ctx context.Context, node string, c api.NodeConfig) {
	ctx, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	reply, err := n.Request(ctx, node, api.VerbConfig, mustJSON(c))
	var ack api.Ack
	if err == nil {
		err = json.Unmarshal(reply, &ack)
	}
	if err == nil && ack.Err != nil {
		err = ack.Err
	}
	if err != nil && ctx.Err() == nil {
		n.cfg.Log.Warn("a node did not take its configuration; it is sent again", "node", node, "err", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.configsFlying--
	m := n.named(node)
	if m == nil {
		return
	}
	m.configFlying = false
	if err == nil {
		m.config = c.Version
	} else {
		m.configNext = n.cfg.Now().Add(configAgain)
	}
}
