package nodeagent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"muster/api"
)

// join tells the head what this machine is and returns what it makes of it.
func (s *session) join(ctx context.Context) (api.JoinReply, error) {
	a := s.a
	stage := a.stage() // before the facts: a stage that has ended has left its result
	req := a.cfg.facts()
	req.Stage = stage
	req.Key = a.key.public
	req.Kexec = a.kexecReport()
	req.Software.Protocol = api.Protocol
	req.Speed = a.speed.value()
	req.Tasks = a.tasks.Statuses()
	req.Clock = time.Now().UTC()
	body, err := json.Marshal(req)
	if err != nil {
		return api.JoinReply{}, fmt.Errorf("writing join request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := s.nc.RequestWithContext(ctx, api.SubjectJoin+a.key.public, body)
	if err != nil {
		return api.JoinReply{}, fmt.Errorf("asking the head to join: %w", s.because(err))
	}
	return decodeJoinReply(msg)
}

// because returns why the connection ended, if it did, rather than err, which
// only says that it did.
func (s *session) because(err error) error {
	select {
	case why := <-s.closed:
		s.closed <- why
		return why
	default:
		return err
	}
}

// decodeJoinReply reads the head's answer, which may be an error.
func decodeJoinReply(msg *nats.Msg) (api.JoinReply, error) {
	if msg.Header.Get(api.HeaderError) != "" {
		if e := api.DecodeError(msg.Data); e != nil {
			return api.JoinReply{}, e
		}
	}
	var r api.JoinReply
	if err := json.Unmarshal(msg.Data, &r); err != nil {
		return r, fmt.Errorf("reading the head's answer: %w", err)
	}
	switch r.State {
	case api.JoinPending, api.JoinApproved, api.JoinRejected:
		return r, nil
	}
	if e := api.DecodeError(msg.Data); e != nil {
		return r, e
	}
	return r, fmt.Errorf("reading the head's answer: state %q is unknown; the head may be newer than this image", r.State)
}

// pushed takes what the head says unasked.
func (s *session) pushed(msg *nats.Msg) {
	r, err := decodeJoinReply(msg)
	if err != nil {
		s.a.log.Warn("the head said something strange", "error", err)
		return
	}
	select {
	case s.pushes <- r:
	default: // it says much; the latest is asked for at the next join
	}
}

// apply makes the head's word this machine's state.
func (s *session) apply(r api.JoinReply) error {
	a := s.a
	if a.cfg.Clock != nil && !r.Clock.IsZero() {
		a.cfg.Clock.Apply(r.Clock)
	}
	a.mu.Lock()
	a.known = r.State == api.JoinApproved
	a.mu.Unlock()
	if r.State == api.JoinApproved && r.Name != "" {
		a.setName(r.Name)
	}
	// A userland of an image that is about to end is not fetched.
	if u := a.cfg.Userland; u != nil && r.Boot == nil {
		u.From(filesOf(r))
	}
	a.startServices()
	stage := a.stage()
	a.show(func(st *Status) {
		st.Phase = map[api.JoinState]Phase{
			api.JoinPending: PhasePending, api.JoinApproved: PhaseReady, api.JoinRejected: PhaseRejected,
		}[r.State]
		st.Name, st.Message, st.Reason, st.Stage = r.Name, r.Message, "", stage
	})
	if r.Reconnect {
		return errReconnect
	}
	return nil
}

// filesOf is where an approved machine gets files; "": nowhere.
func filesOf(r api.JoinReply) string {
	if r.State != api.JoinApproved {
		return ""
	}
	return r.Files
}

// setName gives the machine its name, once each.
func (a *Agent) setName(name string) {
	a.mu.Lock()
	news := a.name != name
	a.name = name
	a.mu.Unlock()
	if !news || a.cfg.Named == nil {
		return
	}
	if err := a.cfg.Named(name); err != nil {
		a.log.Error("the machine did not take its name", "name", name, "error", err)
	}
}
