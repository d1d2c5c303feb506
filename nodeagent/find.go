package nodeagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"muster/api"
)

// Finder looks for heads on the machine's network.
type Finder interface {
	// Find returns those that it found within some seconds, none twice. It is called from one
	// goroutine at a time. An error says that it could not look.
	Find(ctx context.Context) ([]FoundHead, error)
}

// FoundHead is a head that somebody on the network told of. Nothing of it is proved
// before the head has shown its key.
type FoundHead struct {
	Addr string // HOST:PORT
	Pin  string // that it is said to have; "": not said
	By   string // FoundByDHCP or FoundByMDNS
}

// Who tells of heads.
const (
	FoundByDHCP = "DHCP"
	FoundByMDNS = "mDNS"
)

const (
	// findAgain is how long a machine without a head waits before it looks again.
	findAgain = 5 * time.Second
	// lostAfter is how long a head that was known may be out of reach before it is looked for at
	// another address, and how often that is done.
	lostAfter = 10 * time.Second
	// maxFoundShown bounds the heads that a machine's screen lists.
	maxFoundShown = 3
)

// chooseHead returns the head to join, or why there is none. With a pin it is the head that says to have it. Without one
// it is the only one: what the DHCP server names, since who owns the network names it, else
// what answers alone. A machine does not choose between several.
func chooseHead(found []FoundHead, pin string) (head FoundHead, why string) {
	if pin != "" {
		for _, f := range found {
			if f.Pin == pin {
				return f, ""
			}
		}
		// One that says no pin may be it; its key will tell.
		for _, f := range found {
			if f.Pin == "" {
				return f, ""
			}
		}
		if len(found) == 0 {
			return FoundHead{}, fmt.Sprintf("no head answers here; the one that is looked for is %s", api.FingerprintOfPin(pin))
		}
		return FoundHead{}, fmt.Sprintf("the head that is looked for, %s, does not answer here; others do: %s", api.FingerprintOfPin(pin), listHeads(found))
	}
	for _, by := range []string{FoundByDHCP, FoundByMDNS} {
		heads := distinct(found, by)
		switch len(heads) {
		case 0:
		case 1:
			return heads[0], ""
		default:
			return FoundHead{}, fmt.Sprintf("%d heads answer here and nothing says which to join: %s", len(heads), listHeads(heads))
		}
	}
	return FoundHead{}, "no head answers here"
}

// distinct are the heads that somebody told of, each once: one head may have several addresses.
func distinct(found []FoundHead, by string) []FoundHead {
	var list []FoundHead
	for _, f := range found {
		if f.By == by && !slices.ContainsFunc(list, func(o FoundHead) bool {
			if o.Pin != "" && f.Pin != "" {
				return o.Pin == f.Pin
			}
			return o.Addr == f.Addr
		}) {
			list = append(list, f)
		}
	}
	return list
}

// listHeads is for people: address and fingerprint of some heads.
func listHeads(heads []FoundHead) string {
	var words []string
	for _, h := range heads[:min(len(heads), maxFoundShown)] {
		words = append(words, strings.TrimSpace(h.Addr+" "+api.FingerprintOfPin(h.Pin)))
	}
	text := strings.Join(words, ", ")
	if more := len(heads) - maxFoundShown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// target is the head that is spoken to.
type target struct {
	addr string // HOST:PORT
	pin  string // that it must have; "": the first that answers is taken
}

func (a *Agent) target() target {
	a.mu.Lock()
	defer a.mu.Unlock()
	return target{a.head, cmp.Or(a.pin, a.saidPin)}
}

// turnTo makes a head the one that is spoken to.
func (a *Agent) turnTo(h FoundHead) {
	a.mu.Lock()
	a.head, a.saidPin = h.Addr, h.Pin
	a.mu.Unlock()
	a.show(func(s *Status) { s.Phase, s.Head, s.Reason = PhaseConnecting, h.Addr, "" })
}

// findHead looks for a head until there is one to join or ctx is done.
func (a *Agent) findHead(ctx context.Context) {
	for ctx.Err() == nil {
		a.show(func(s *Status) {
			if s.Phase != PhaseNoHead || s.Reason == "" {
				s.Phase, s.Head, s.Reason = PhaseNoHead, "", "looking for a head on the network"
			}
		})
		h, why := a.look(ctx)
		if h.Addr != "" {
			a.log.Info("head found", "head", h.Addr, "fingerprint", api.FingerprintOfPin(h.Pin), "by", h.By)
			a.turnTo(h)
			return
		}
		a.show(func(s *Status) { s.Reason = why + "; " + a.noHead() })
		pause(ctx, findAgain)
	}
}

// look asks the network once.
func (a *Agent) look(ctx context.Context) (FoundHead, string) {
	a.mu.Lock()
	pin := a.pin
	a.mu.Unlock()
	found, err := a.cfg.Finder.Find(ctx)
	if err != nil && len(found) == 0 {
		return FoundHead{}, fmt.Sprintf("looking for a head: %v", err)
	}
	return chooseHead(found, pin)
}

// noHead says what a person can do where no head is known.
func (a *Agent) noHead() string {
	return cmp.Or(a.cfg.NoHead, "give muster.head=ADDRESS on the kernel command line")
}

// search decides when a head that is out of reach is looked for elsewhere.
type search struct {
	lost time.Time // when it was reached last, or this was looked at first
	last time.Time // when it was looked for
}

// due tells whether to look now, after err. A head that is not the one of the pin is looked for at once: another has
// its address.
func (s *search) due(err error, now time.Time) bool {
	var pin *pinError
	if errors.As(err, &pin) {
		return now.Sub(s.last) >= findAgain
	}
	return now.Sub(s.lost) >= lostAfter && now.Sub(s.last) >= lostAfter
}

// follow looks for a lost head by its pin and turns to where it is now; one that is nowhere is
// tried again where it was told to be. Without a pin, a head that was found and is lost is looked for anew.
func (a *Agent) follow(ctx context.Context) {
	a.mu.Lock()
	pin, at := a.pin, a.head
	a.mu.Unlock()
	if pin == "" {
		if at != a.cfg.Head {
			a.turnTo(FoundHead{Addr: a.cfg.Head})
		}
		return
	}
	h, why := a.look(ctx)
	switch {
	case ctx.Err() != nil:
	case h.Addr != "" && h.Addr != at:
		a.log.Info("head has moved", "from", at, "head", h.Addr, "by", h.By)
		a.turnTo(h)
	case h.Addr == "":
		a.log.Info("head not found elsewhere", "head", at, "why", why)
		if a.cfg.Head != "" && at != a.cfg.Head {
			a.turnTo(FoundHead{Addr: a.cfg.Head})
		}
	}
}
