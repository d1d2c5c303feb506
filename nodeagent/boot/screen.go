package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// States that this package knows. The agent may show others: [State] is one
// word for people and for who reads a serial console by program.
const (
	StateBooting    State = "booting"    // no address yet; or a node without all that tasks need
	StateNoHead     State = "no-head"    // an address, but nobody to join
	StateConnecting State = "connecting" // on its way to the head
	StatePending    State = "pending"    // a person must approve it
	StateRejected   State = "rejected"
	StateReady      State = "ready"
)

// State is the word for where a machine stands.
type State string

// Status is what a person before the machine should know. Empty fields are not
// shown.
type Status struct {
	State           State
	Name            string   // of the node
	Address         string   // own address and link
	Head            string   // address of the head
	Fingerprint     string   // of this machine
	HeadFingerprint string   // of the head
	Medium          string   // that it was booted from, where there is one to take out
	Why             string   // why it is not further
	Type            []string // commands that a person may type, at the head
	Problems        []string // what is wrong with the machine
}

// maxText bounds each text on the screen.
const maxText = 300

// screenQueue is how many states a console may be behind: a serial line is
// slow. A console further behind skips some, never the latest.
const screenQueue = 32

// ScreenConfig is what a [Screen] needs.
type ScreenConfig struct {
	// Consoles are the devices, without /dev/. Nil: those of the kernel.
	Consoles []string
	Root     string // where dev and sys are; empty: /
	Log      *slog.Logger
}

// Screen shows a machine's status on its consoles: a page that is drawn anew
// on a display, lines that begin with "muster: " on a serial line.
type Screen struct {
	consoles []*console
	log      *slog.Logger

	mu   sync.Mutex
	last Status
}

// console is one device.
type console struct {
	path   string
	serial bool
	queue  chan Status
}

// NewScreen returns a screen that shows nothing before Run.
func NewScreen(cfg ScreenConfig) *Screen {
	root := cfg.Root
	if root == "" {
		root = "/"
	}
	names := cfg.Consoles
	if names == nil {
		names = kernelConsoles(root)
	}
	s := &Screen{log: cfg.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range names {
		s.consoles = append(s.consoles, &console{
			path:   filepath.Join(root, "dev", name),
			serial: !isDisplay(name),
			queue:  make(chan Status, screenQueue),
		})
	}
	return s
}

// kernelConsoles lists the consoles that the kernel writes to.
func kernelConsoles(root string) []string {
	names := strings.Fields(readWord(root, "sys/class/tty/console/active"))
	if len(names) == 0 {
		return []string{"console"}
	}
	return names
}

// isDisplay tells virtual terminals (tty0, tty1) from serial lines
// (ttyS0, ttyAMA0, hvc0).
func isDisplay(name string) bool {
	rest, ok := strings.CutPrefix(name, "tty")
	return ok && rest != "" && strings.Trim(rest, "0123456789") == ""
}

// Show replaces what the screen says. It does not wait for the consoles.
func (s *Screen) Show(st Status) {
	st = st.cleaned()
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.equal(s.last) {
		return
	}
	s.last = st
	for _, c := range s.consoles {
		for sent := false; !sent; {
			select {
			case c.queue <- st:
				sent = true
			default:
				// The oldest makes room.
				select {
				case <-c.queue:
				default:
				}
			}
		}
	}
}

// Run writes to the consoles until ctx is done. A console that cannot be
// opened or written is left out. Since a serial line may stand still for ever,
// Run does not wait for a write that does not end.
func (s *Screen) Run(ctx context.Context) {
	for _, c := range s.consoles {
		go c.run(ctx, s.log)
	}
	<-ctx.Done()
}

func (c *console) run(ctx context.Context, log *slog.Logger) {
	f, err := os.OpenFile(c.path, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		log.Warn("console not used", "dev", c.path, "err", err)
		return
	}
	defer f.Close()
	var shown Status
	for {
		select {
		case <-ctx.Done():
			return
		case st := <-c.queue:
			text := page(st)
			if c.serial {
				text = lines(shown, st)
			}
			shown = st
			if _, err := f.WriteString(text); err != nil {
				log.Warn("console not used any more", "dev", c.path, "err", err)
				return
			}
		}
	}
}

// fact is one line of a status.
type fact struct{ key, text string }

// facts are the lines of a status in their order. Programs look for
// these words on serial consoles: they are part of the interface.
func (st Status) facts() []fact {
	list := []fact{{"state", string(st.State)}}
	add := func(key, text string) {
		if text != "" {
			list = append(list, fact{key, text})
		}
	}
	add("name", st.Name)
	add("address", st.Address)
	add("head", st.Head)
	fp := ""
	if st.Fingerprint != "" {
		fp = "node " + st.Fingerprint
		if st.HeadFingerprint != "" {
			fp += " head " + st.HeadFingerprint
		}
	}
	add("fingerprint", fp)
	add("medium", st.Medium)
	add("why", st.Why)
	for _, t := range st.Type {
		add("type", t)
	}
	for _, p := range st.Problems {
		add("problem", p)
	}
	return list
}

// lines renders a status for a serial line: all of it when the state changed,
// else what is new.
func lines(before, st Status) string {
	old := make(map[fact]bool)
	if before.State == st.State {
		for _, f := range before.facts() {
			old[f] = true
		}
	}
	var b strings.Builder
	for _, f := range st.facts() {
		if !old[f] {
			fmt.Fprintf(&b, "muster: %s %s\r\n", f.key, f.text)
		}
	}
	return b.String()
}

// page renders a status for a display of at least 80 columns.
func page(st Status) string {
	const (
		home   = "\x1b[H\x1b[2J\x1b[3J" // clear, and forget what was scrolled away
		bold   = "\x1b[1m"
		red    = "\x1b[31;1m"
		plain  = "\x1b[0m"
		indent = "               "
	)
	labels := map[string]string{
		"state": "State", "name": "Name", "address": "Address", "head": "Head",
		"medium": "Medium", "why": "Why", "type": "At the head", "problem": "Problem",
	}
	var b strings.Builder
	b.WriteString(home + bold + "muster" + plain + "\r\n\r\n")
	row := func(label, style, text string) {
		for i, part := range wrap(text, 79-len(indent)) {
			if i == 0 {
				fmt.Fprintf(&b, " %-13s ", label)
			} else {
				b.WriteString(indent)
			}
			b.WriteString(style + part + plain + "\r\n")
		}
	}
	for _, f := range st.facts() {
		switch f.key {
		case "fingerprint":
			row("This machine", bold, st.Fingerprint)
			if st.HeadFingerprint != "" {
				row("The head", bold, st.HeadFingerprint)
			}
		case "problem":
			row(labels[f.key], red, f.text)
		case "state", "type":
			row(labels[f.key], bold, f.text)
		default:
			row(labels[f.key], "", f.text)
		}
	}
	b.WriteString("\r\n Ctrl-Alt-Del starts the machine again. Nothing is written to its disks.\r\n")
	return b.String()
}

// wrap breaks a text at spaces into parts of at most width bytes.
func wrap(s string, width int) []string {
	var parts []string
	for len(s) > width {
		cut := strings.LastIndexByte(s[:width+1], ' ')
		if cut <= 0 {
			cut = width
		}
		parts = append(parts, s[:cut])
		s = strings.TrimPrefix(s[cut:], " ")
	}
	return append(parts, s)
}

// cleaned makes all texts fit for a console: some come over the network.
func (st Status) cleaned() Status {
	c := func(s string) string { return clean(s, maxText) }
	all := func(list []string) []string {
		const most = 8
		var out []string
		for _, s := range list[:min(len(list), most)] {
			out = append(out, c(s))
		}
		return out
	}
	return Status{
		State: State(c(string(st.State))), Name: c(st.Name), Address: c(st.Address), Head: c(st.Head),
		Fingerprint: c(st.Fingerprint), HeadFingerprint: c(st.HeadFingerprint), Medium: c(st.Medium),
		Why: c(st.Why), Type: all(st.Type), Problems: all(st.Problems),
	}
}

func (st Status) equal(o Status) bool {
	a, b := st.facts(), o.facts()
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
