package headnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// kindSetting are the records of settings, of enrollment among them.
const kindSetting = "setting"

const enrollID = "enrollment"

// enrollRecord is what a person said of enrollment.
type enrollRecord struct {
	Schema int       `json:"schema"`
	Open   bool      `json:"open"`
	Until  time.Time `json:"until,omitzero"`
	By     string    `json:"by"`
}

// Enroll says whether unknown machines are answered when they boot from the
// network: what a person said while that holds, else yes where muster gives
// out the addresses and no beside another DHCP server.
type Enroll struct {
	store store.Interface
	now   clock
	owns  func() []string // interfaces where muster gives out the addresses

	mu    sync.Mutex
	said  *enrollRecord
	write sync.Mutex // through a Set, taken before mu
}

var _ enrollment = (*Enroll)(nil)

func newEnroll(s store.Interface, now clock, owns func() []string) (*Enroll, error) {
	e := &Enroll{store: s, now: now, owns: owns}
	if r, ok := s.Get(kindSetting, enrollID); ok {
		e.said = &enrollRecord{}
		if err := json.Unmarshal(r.Data, e.said); err != nil {
			return nil, fmt.Errorf("reading record of enrollment: %w", err)
		}
	}
	return e, nil
}

// holds is what a person said, nil when that is over.
func (e *Enroll) holds() *enrollRecord {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.said == nil || !e.said.Until.IsZero() && !e.now().Before(e.said.Until) {
		return nil
	}
	return e.said
}

// Get implements enrollment.
func (e *Enroll) Get() api.Enrollment {
	if said := e.holds(); said != nil {
		verb := "closed"
		if said.Open {
			verb = "opened"
		}
		return api.Enrollment{Open: said.Open, Until: said.Until, Policy: verb + " by " + said.By}
	}
	if owned := e.owns(); len(owned) > 0 {
		return api.Enrollment{Open: true, Policy: "muster gives out the addresses on " + strings.Join(owned, ", ")}
	}
	return api.Enrollment{Policy: "muster does not give out the addresses here"}
}

// openFor tells whether an unknown machine is answered on a network.
func (e *Enroll) openFor(ownsLAN bool) bool {
	if said := e.holds(); said != nil {
		return said.Open
	}
	return ownsLAN
}

// Set implements enrollment.
func (e *Enroll) Set(ctx context.Context, actor string, req api.EnrollmentRequest) (api.Enrollment, error) {
	if req.ForSecs < 0 || req.ForSecs > 366*24*3600 {
		return api.Enrollment{}, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("%d seconds are no time to open for", req.ForSecs), Hint: "as in: muster enroll open 30m"}
	}
	said := &enrollRecord{Schema: 1, Open: req.Open, By: actor}
	if req.ForSecs > 0 {
		said.Until = e.now().UTC().Add(time.Duration(req.ForSecs) * time.Second).Truncate(time.Second)
	}
	data, err := json.Marshal(said)
	if err != nil {
		return api.Enrollment{}, err
	}
	e.write.Lock()
	defer e.write.Unlock()
	if _, err := e.store.Commit(ctx, store.Op{Kind: kindSetting, ID: enrollID, Expect: store.AnyRev, Data: data}); err != nil {
		return api.Enrollment{}, recordError(err)
	}
	e.mu.Lock()
	e.said = said
	e.mu.Unlock()
	return e.Get(), nil
}

// bootView is what a boot is decided by.
type bootView struct {
	state api.NodeState // of the machine that asks, "" for an unknown one
	open  bool          // enrollment
	mac   string
}

// decideBoot tells whether a machine that boots from the network is answered,
// or why not.
func decideBoot(v bootView) (answer bool, reason string) {
	switch {
	case v.state == api.NodeReady || v.state == api.NodeDeclared:
		return true, ""
	case v.state == api.NodeRejected:
		return false, "an administrator rejected it; muster node remove " + v.mac + " forgets that"
	case v.open:
		return true, ""
	}
	return false, "enrollment is closed; take it with: muster node add " + v.mac + ", or muster enroll open 30m"
}

// bootState is the record of a machine that boots, an empty one when it is not known.
func (n *Nodes) bootState(mac, uuid string) (rec machineRecord) {
	n.mu.Lock()
	defer n.mu.Unlock()
	asks := api.Hardware{UUID: uuid, MACs: []string{mac}}
	order := []api.NodeState{api.NodeReady, api.NodeDeclared, api.NodeRejected}
	best := len(order)
	for _, m := range n.machines {
		if i := slices.Index(order, m.State); i >= 0 && i < best && sameAddress(m.Hardware, asks) {
			best, rec = i, m.machineRecord
		}
	}
	return rec
}

// errNoImage is why a machine that would be answered is not.
var errNoImage = errors.New("no image is published; publish one with: muster image publish DIR")
