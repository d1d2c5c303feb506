package nodeagent

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"muster/api"
)

// The requests of the head that may wait here; more are dropped, and asked
// again by the head.
const (
	pendingMessages = 512
	pendingBytes    = 8 << 20
)

// replyWithin is how long the head lets a reply take.
const replyWithin = 25 * time.Second

// takeRequests subscribes to what the head asks of a node.
func (s *session) takeRequests() error {
	if s.served {
		return nil
	}
	key := s.a.key.public
	for subject, handle := range map[string]nats.MsgHandler{
		api.SubjectNode + key + "." + api.VerbStart:  s.onStart,
		api.SubjectNode + key + "." + api.VerbInput:  s.onInput,
		api.SubjectNode + key + "." + api.VerbSignal: s.onSignal,
		api.SubjectNode + key + "." + api.VerbForget: s.onForget,
		api.SubjectNode + key + "." + api.VerbReboot: s.onReboot,
		api.SubjectNode + key + "." + api.VerbWindow: s.onWindow,
		api.SubjectNode + key + "." + api.VerbConfig: s.onConfig,
		s.a.outputInbox() + "*":                      s.onOutputAck,
		s.a.eventInbox() + "*.*":                     s.onEventAck,
	} {
		sub, err := s.nc.Subscribe(subject, handle)
		if err == nil {
			err = sub.SetPendingLimits(pendingMessages, pendingBytes)
		}
		if err != nil {
			return fmt.Errorf("listening to the head: %w", err)
		}
	}
	// The head must know of them before it hears that this node is ready.
	if err := s.nc.FlushTimeout(requestTimeout); err != nil {
		return fmt.Errorf("listening to the head: %w", s.because(err))
	}
	s.served = true
	return nil
}

func (s *session) onStart(msg *nats.Msg) {
	var t api.TaskStart
	if s.decode(msg, &t) {
		s.ack(msg, s.a.tasks.Start(t))
	}
}

func (s *session) onInput(msg *nats.Msg) {
	c, err := api.ParseInput(msg.Data)
	if err != nil {
		s.ack(msg, &api.Error{Code: api.CodeInvalid, Msg: err.Error()})
		return
	}
	came := time.Now()
	err = s.a.tasks.Input(c, func(ack api.Ack) {
		if time.Since(came) < replyWithin {
			s.reply(msg, ack)
		}
	})
	if err != nil {
		s.ack(msg, err)
	}
}

func (s *session) onSignal(msg *nats.Msg) {
	var t api.TaskSignal
	if s.decode(msg, &t) {
		s.ack(msg, s.a.tasks.Signal(t))
	}
}

func (s *session) onWindow(msg *nats.Msg) {
	var w api.TaskWindow
	if s.decode(msg, &w) {
		s.ack(msg, s.a.tasks.Window(w))
	}
}

func (s *session) onForget(msg *nats.Msg) {
	var ref api.TaskRef
	if s.decode(msg, &ref) {
		s.ack(msg, s.a.tasks.Forget(ref))
	}
}

func (s *session) onReboot(msg *nats.Msg) {
	if s.a.cfg.Reboot == nil {
		s.ack(msg, &api.Error{Code: api.CodeForbidden, Msg: "this agent may not reboot its machine", Hint: "it does not run as the machine's own system"})
		return
	}
	s.ack(msg, nil)
	_ = s.nc.FlushTimeout(time.Second) // the answer goes out before the machine does
	if err := s.a.cfg.Reboot(); err != nil {
		s.a.log.Error("the machine does not reboot", "error", err)
	}
}

// decode reads a request, or answers that it cannot.
func (s *session) decode(msg *nats.Msg, v any) bool {
	if err := json.Unmarshal(msg.Data, v); err != nil {
		s.ack(msg, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("reading request %s: %v", msg.Subject, err)})
		return false
	}
	return true
}

func (s *session) ack(msg *nats.Msg, err error) {
	s.reply(msg, api.Ack{Err: api.AsError(err)})
}

func (s *session) reply(msg *nats.Msg, ack api.Ack) {
	if msg.Reply == "" {
		return
	}
	body, err := json.Marshal(ack)
	if err == nil {
		err = msg.Respond(body)
	}
	if err != nil && !s.nc.IsClosed() {
		s.a.log.Warn("the head got no answer", "subject", msg.Subject, "error", err)
	}
}
