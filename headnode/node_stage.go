package headnode

import (
	"context"
	"strings"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// A node that was let in may have to get its userland before it can take
// tasks. Until then it is shown as booting, with the stage that its agent tells.

// preparing is what a node that joined still does before it can take tasks, or
// why it cannot; "" when it can.
func (m *machine) preparing() string {
	switch {
	case !m.joined:
		return ""
	case m.said != "":
		return m.said
	case m.starting != "":
		return m.starting
	case lacksUserland(m.runs):
		return "its userland is not there yet"
	}
	return ""
}

// settleFor is how long a node may take to confirm its configuration before it takes tasks without.
const settleFor = 20 * time.Second

// prepares tells whether a node that joined cannot take tasks yet: it still does something, or has not said that it
// has the configuration with its shares, so that it does not know yet what it has to do.
func (m *machine) prepares() bool { return m.joined && !m.settled || m.preparing() != "" }

// lacksUserland tells whether a machine does not hold the userland of its image.
func lacksUserland(s api.Software) bool {
	return s.UserlandWanted != "" && s.Userland != s.UserlandWanted
}

// hasNoUserland tells whether a machine runs an image that has none, such as mini. An agent
// that runs from no image, on an installed system, shows its tasks that system.
func hasNoUserland(s api.Software) bool {
	return s.ImageID != "" && s.Userland == "" && s.UserlandWanted == ""
}

// shownStage is what a machine that boots does now.
func (m *machine) shownStage() string {
	if p := m.preparing(); p != "" && !m.bootSeen.After(m.lastHeard) {
		return p
	}
	if m.joined && !m.settled && m.stage == "" {
		return "waiting for its configuration"
	}
	return m.stage
}

// sameStage tells whether two stages differ in nothing but figures, as
// "userland 40 %" and "userland 41 %" do.
func sameStage(a, b string) bool {
	return strings.Map(dropDigit, a) == strings.Map(dropDigit, b)
}

func dropDigit(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// stageTopic is a stage without how far it is, for texts that are not
// written anew with each heartbeat.
func stageTopic(stage string) string {
	if strings.HasSuffix(stage, "%") {
		return strings.TrimRight(stage, "0123456789., %")
	}
	return stage
}

// stageOf is the step of a boot that a stage belongs to.
func stageOf(stage string) api.BootStage {
	switch {
	case strings.HasPrefix(stage, "userland"):
		return api.StageUserland
	case strings.HasPrefix(stage, "kexec"):
		return api.StageKexec
	}
	return api.StagePreparing
}

// noteStage adds to a node's timeline what changed of its stage, and tells
// watchers of a new one.
func (n *Nodes) noteStage(m *machine, published bool) {
	if !m.joined {
		return
	}
	now, before := m.preparing(), m.noted
	m.noted = now
	switch {
	case now == "" && !m.settled:
	case now == "" && m.arriving:
		m.arriving = false
		n.bootStage(m, api.StageReady, "as "+m.Name)
	case now == "" || now == before:
	case before != "" && sameStage(before, now):
		n.cfg.BootLogs.progress(m.mac(), stageOf(now), now)
	default:
		m.arriving = true
		n.bootStage(m, stageOf(now), now)
		if !published {
			n.announce(m, m.Name)
		}
	}
}

// How often records follow what nodes say of their software.
const (
	softwareEvery = 10 * time.Second // of one node
	softwareBatch = 256              // nodes in one commit, of which there is one a second at most
)

// recordSoftware records what changed of the software of nodes since they
// joined.
func (n *Nodes) recordSoftware(ctx context.Context) {
	now := n.cfg.Now()
	n.mu.Lock()
	due := n.softwareDue(now)
	n.mu.Unlock()
	if len(due) == 0 {
		return
	}
	n.changes.Lock()
	defer n.changes.Unlock()
	var recs []machineRecord
	var ops []store.Op
	n.mu.Lock()
	due = n.softwareDue(now)
	for _, m := range due {
		m.softwareSaved = now
		rec := m.machineRecord
		rec.Software = m.runs
		op, err := machineOp(m.id, rec, m.rev)
		if err != nil {
			n.mu.Unlock()
			n.cfg.Log.Error("recording the software of a node", "node", m.Name, "err", err)
			return
		}
		recs, ops = append(recs, rec), append(ops, op)
	}
	n.mu.Unlock()
	if len(ops) == 0 {
		return
	}
	last, err := n.cfg.Store.Commit(ctx, ops...)
	if err != nil {
		n.cfg.Log.Warn("the software of nodes was not recorded; it is tried again", "nodes", len(ops), "err", err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, m := range due {
		m.machineRecord, m.rev = recs[i], last-uint64(len(ops)-1-i)
		n.announce(m, m.Name)
	}
}

// softwareDue are nodes whose records are to follow their software now; n.mu
// is held.
func (n *Nodes) softwareDue(now time.Time) []*machine {
	var due []*machine
	for _, m := range n.machines {
		if m.isNode() && m.rev != 0 && m.runs != m.Software && now.Sub(m.softwareSaved) >= softwareEvery && len(due) < softwareBatch {
			due = append(due, m)
		}
	}
	return due
}
