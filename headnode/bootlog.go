package headnode

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"muster/api"
)

// Limits of what is kept of boots.
const (
	bootEvents   = 64   // of one machine
	bootMachines = 8192 // the one that was silent longest is dropped first
)

// BootLogs keeps the timeline of each machine's latest boots, in memory: a
// boot is of interest while it happens or has just failed.
type BootLogs struct {
	mu   sync.Mutex
	logs map[string][]api.BootEvent // by MAC, oldest first
}

func newBootLogs() *BootLogs {
	return &BootLogs{logs: map[string][]api.BootEvent{}}
}

// add takes an event; one without a MAC is dropped.
func (b *BootLogs) add(ev api.BootEvent) {
	mac, ok := normalMAC(ev.MAC)
	if !ok {
		return
	}
	ev.MAC, ev.Detail, ev.UUID, ev.Arch, ev.Client = mac, cleanText(ev.Detail), cleanText(ev.UUID), cleanText(ev.Arch), cleanText(ev.Client)
	b.mu.Lock()
	defer b.mu.Unlock()
	log := b.logs[mac]
	if log == nil && len(b.logs) >= bootMachines {
		b.dropOldest()
	}
	// Firmware repeats its questions: equal ones in a row are one with the
	// latest time.
	if n := len(log); n > 0 && sameStep(log[n-1], ev) {
		log[n-1].Time = ev.Time
		return
	}
	if len(log) >= bootEvents {
		log = slices.Delete(log, 0, len(log)-bootEvents+1)
	}
	b.logs[mac] = append(log, ev)
}

// progress says in the latest step of a machine how far it is; its time stays
// that of its beginning.
func (b *BootLogs) progress(mac string, stage api.BootStage, detail string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	log := b.logs[mac]
	if n := len(log); n > 0 && log[n-1].Stage == stage {
		log[n-1].Detail = cleanText(detail)
	}
}

func sameStep(a, b api.BootEvent) bool {
	return a.Stage == b.Stage && a.Detail == b.Detail && a.Client == b.Client && b.Time.Sub(a.Time) < time.Minute &&
		(a.Stage == api.StageDHCP || a.Stage == api.StageRefused)
}

func (b *BootLogs) dropOldest() {
	var oldest string
	var when time.Time
	for mac, log := range b.logs {
		if t := log[len(log)-1].Time; oldest == "" || t.Before(when) {
			oldest, when = mac, t
		}
	}
	delete(b.logs, oldest)
}

// of returns a copy of a machine's timeline.
func (b *BootLogs) of(mac string) []api.BootEvent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.logs[mac])
}

// stopped is after how long without a step a boot is taken for stopped.
var stopped = map[api.BootStage]time.Duration{
	api.StageDHCP: 20 * time.Second, api.StageLoader: 20 * time.Second, api.StageScript: 20 * time.Second,
	api.StageKernel: 60 * time.Second, api.StageInitramfs: 90 * time.Second,
	api.StageKexec: 3 * time.Minute, api.StageAgent: 20 * time.Second, api.StagePending: 0, api.StageRefused: 0, api.StageStuck: 0,
	api.StageApproved: 20 * time.Second, api.StageUserland: 60 * time.Second, api.StagePreparing: 60 * time.Second,
}

// adviceFor says where a boot that stopped stands, the likely cause and what
// to try; "" while the boot goes on or is done.
func adviceFor(log []api.BootEvent, now time.Time) string {
	if len(log) == 0 {
		return ""
	}
	last := log[len(log)-1]
	if last.Stage == api.StageReady {
		return ""
	}
	since := now.Sub(last.Time)
	if since < stopped[last.Stage] {
		return ""
	}
	switch last.Stage {
	case api.StageRefused:
		return fmt.Sprintf("It was not answered: %s.", last.Detail)
	case api.StageStuck:
		return fmt.Sprintf("Its boot goes in circles: %s. Look at its screen; a disk or another boot server may come first in its boot order.", last.Detail)
	case api.StagePending:
		return fmt.Sprintf("It waits for a person. Compare the fingerprint on its screen, then: muster node approve %s", last.MAC)
	case api.StageDHCP:
		return stoppedAt(since, "after it was offered an address", dhcpAdvice(last))
	case api.StageLoader:
		if last.Client == "http" {
			return stoppedAt(since, "with a program that it fetched by HTTP, before anything more was heard",
				"Secure Boot refused it: enroll the certificate that a UKI is signed with (docs/media.md), or switch Secure Boot off in the firmware's setup; "+
					"or it has no driver for the network card: look at the machine's screen")
		}
		return stoppedAt(since, "with the boot program loaded, before it asked for the script",
			"Secure Boot refused the program, or the program has no driver for the network card: "+
				"switch Secure Boot off in the firmware's setup, boot a signed UKI by HTTP (docs/media.md), or try its other mode (UEFI or legacy BIOS)")
	case api.StageScript:
		return stoppedAt(since, "with the boot script, before it fetched the kernel",
			"the bulk port of the head (7480/tcp) may be blocked: look at the firewall between the machine and the head")
	case api.StageKernel:
		return stoppedAt(since, "with the kernel, before it had the initramfs",
			"the transfer may be slow or broken: look at cable and switch; less than 512 MiB of memory is too little")
	case api.StageInitramfs:
		return stoppedAt(since, "with kernel and initramfs, before its agent was heard",
			"the kernel may have no driver for the network card, or 7421/tcp of the head is blocked: look at the machine's screen, "+
				"which says what it waits for; drivers are added under modules: and firmware: of the definition")
	case api.StageKexec:
		return stoppedAt(since, "when it was to start another image, before that image's agent was heard",
			"that kernel does not run on this machine: look at its screen. It starts from its medium again; "+
				"after two starts in a row it stays with it, and muster image set IMAGE --kexec=never keeps all from trying")
	case api.StageAgent:
		return stoppedAt(since, "with its agent heard once", "its connection may be lost: look at the machine's screen")
	case api.StageApproved:
		return stoppedAt(since, "after it was let in, before it joined as a node", "its connection may be lost: look at the machine's screen")
	case api.StageUserland:
		return fmt.Sprintf("It does so for %s now: %s. If it does not go on: the files port of the head (7480/tcp) may be blocked, "+
			"or the machine has too little memory for its userland; its agent says more in: muster node log", since.Round(time.Second), last.Detail)
	case api.StagePreparing:
		return fmt.Sprintf("It does so for %s now: %s. Its agent says more in: muster node log", since.Round(time.Second), last.Detail)
	}
	return ""
}

func stoppedAt(since time.Duration, where, advice string) string {
	return fmt.Sprintf("It stopped %s, %s ago. Likely: %s.", where, since.Round(time.Second), advice)
}

func dhcpAdvice(last api.BootEvent) string {
	if last.Client == "ipxe" {
		return "iPXE did not fetch the script: port 80/tcp of the head may be blocked, or another DHCP server answered with other options"
	}
	return "the boot program did not reach it: TFTP (69/udp and high ports) may be blocked, or another DHCP server named another boot file"
}
