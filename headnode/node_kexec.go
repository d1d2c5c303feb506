package headnode

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"muster/api"
	"muster/images"
)

// A machine that joins with another image than the one that the head has for it, such as from a stick that was
// written long ago, is told to start that by kexec: at its first join as a node in each boot, before it
// gets a task, and never later.

const (
	// kexecTries is how often in a row a machine is told to start the same image without being heard
	// from it: one that fails on the machine starts it again from its medium, and would for ever.
	kexecTries = 2
	// kexecForget is after how long it is tried again.
	kexecForget = 24 * time.Hour
)

// kexecRecord is what is durable of starts of another image that have not ended well.
type kexecRecord struct {
	Image string    `json:"image"`
	Tries int       `json:"tries"`
	Error string    `json:"error,omitempty"` // "": it was not heard of
	Last  time.Time `json:"last"`
}

// kexecView is what a start by kexec is decided by.
type kexecView struct {
	first    bool // its first join as a node in this boot
	tasks    int  // that it holds
	runs     string
	assigned string // "": none
	archFits bool
	medium   string
	policy   api.KexecPolicy
	report   *api.KexecReport // of the agent
	record   *kexecRecord
	now      time.Time
}

// decideKexec tells whether a machine starts its assigned image now, and what is recorded of it: nil
// for nothing.
func decideKexec(v kexecView) (start bool, record *kexecRecord) {
	if v.assigned == "" || v.runs == v.assigned {
		return false, nil
	}
	record = v.record
	if record != nil && (record.Image != v.assigned || v.now.Sub(record.Last) >= kexecForget) {
		record = nil
	}
	if r := v.report; r != nil && r.ImageID == v.assigned {
		// It has tried in this boot, or came up as something else.
		next := kexecRecord{Image: v.assigned, Tries: 1, Last: v.now}
		if record != nil {
			next.Tries, next.Last = record.Tries, record.Last
		}
		next.Error = cmp.Or(cleanText(r.Error), "another image than that came up")
		return false, &next
	}
	wanted := v.policy == api.KexecAlways || v.policy == api.KexecMedia && (v.medium == images.MediumISO || v.medium == "usb")
	if !v.first || v.tasks > 0 || !wanted || !v.archFits {
		return false, record
	}
	tries := 0
	if record != nil {
		tries = record.Tries
	}
	if tries >= kexecTries {
		next := *record
		next.Error = cmp.Or(next.Error, fmt.Sprintf("it was not heard of after %d starts", tries))
		return false, &next
	}
	return true, &kexecRecord{Image: v.assigned, Tries: tries + 1, Last: v.now}
}

// kexec decides on a node that joined with its rights, and returns the image that it is to start; nil: none.
func (n *Nodes) kexec(ctx context.Context, m *machine, req *api.JoinRequest) *api.BootImage {
	n.mu.Lock()
	if n.images == nil {
		n.mu.Unlock()
		return nil
	}
	image, _ := n.images.forNode(m.Image)
	start, record := decideKexec(kexecView{
		first: m.joining, tasks: len(req.Tasks), runs: req.Software.ImageID, assigned: image.ID,
		archFits: archFits(m.Hardware.Arch, image.Arch) && req.Software.ImageID != "",
		medium:   req.Software.Medium, policy: n.images.kexecPolicy(image.ID), report: req.Kexec, record: m.Kexec, now: n.cfg.Now(),
	})
	if filesURL(m.headIP, n.cfg.FilesPort) == "" && start {
		start, record = false, m.Kexec // it could not fetch it
	}
	before := m.Kexec
	rec := m.machineRecord
	rec.Kexec = record
	same := sameRecord(rec, m.machineRecord)
	m.starting = ""
	n.mu.Unlock()
	if !same {
		// Before it is told: a machine that fails is counted also when this head ends meanwhile.
		rev, err := n.commit(ctx, m.id, rec, m.rev)
		if err != nil {
			n.cfg.Log.Error("recording the start of an image", "node", m.Name, "err", err)
			return nil
		}
		n.mu.Lock()
		m.machineRecord, m.rev = rec, rev
		n.mu.Unlock()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !start {
		if record != nil && record.Error != "" && (before == nil || *before != *record) {
			n.bootStage(m, api.StageKexec, fmt.Sprintf("image %s (%s) was not started: %s", image.Name, shortID(image.ID), record.Error))
			n.cfg.Log.Warn("image not started", "node", m.Name, "image", image.Name, "id", image.ID, "why", record.Error)
			n.announce(m, m.Name)
		}
		return nil
	}
	m.starting = "kexec: image " + image.Name
	m.noted = m.starting
	n.bootStage(m, api.StageKexec, fmt.Sprintf("image %s (%s), from %s", image.Name, shortID(image.ID), shortID(req.Software.ImageID)))
	n.cfg.Log.Info("image to be started", "node", m.Name, "image", image.Name, "id", image.ID, "try", record.Tries)
	return n.bootImage(image, m.headIP)
}

// bootImage is what a machine is told of an image. host is the head's address for it.
func (n *Nodes) bootImage(image images.Manifest, host string) *api.BootImage {
	var d api.BootDecision
	bootFiles(&d, image)
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		host = "[" + host + "]"
	}
	return &api.BootImage{
		ImageID: image.ID, Name: image.Name, Kernel: d.Kernel, Initramfs: d.Initramfs,
		Cmdline: strings.ReplaceAll(n.cfg.BootCmdline(image.Cmdline, image.ID), "{host}", host),
	}
}

// kexecState is what is shown of a start that has not ended well.
func kexecState(m *machine) *api.KexecState {
	r := m.Kexec
	if r == nil || m.starting != "" {
		return nil
	}
	return &api.KexecState{ImageID: r.Image, Tries: r.Tries, Error: r.Error, Time: r.Last}
}
