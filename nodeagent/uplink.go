package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"muster/api"
)

// Answers of the head to output and events come to these subjects, so that an
// answer says by itself what it is for: nothing is remembered here.
func (a *Agent) outputInbox() string { return api.InboxPrefix + a.key.public + ".out." }
func (a *Agent) eventInbox() string  { return api.InboxPrefix + a.key.public + ".ev." }

// setLink tells the tasks which connection to the head carries them, nil for
// none.
func (a *Agent) setLink(nc *nats.Conn) {
	a.mu.Lock()
	a.link = nc
	a.mu.Unlock()
	a.tasks.Link(nc != nil)
}

func (a *Agent) linked() (*nats.Conn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.link == nil {
		return nil, &api.Error{Code: api.CodeUnreachable, Msg: "the head is not reached"}
	}
	return a.link, nil
}

// Output implements task.Uplink.
func (a *Agent) Output(ref api.TaskRef, frame []byte) error {
	nc, err := a.linked()
	if err != nil {
		return err
	}
	name := ref.String()
	return nc.PublishRequest(api.SubjectOut+a.key.public+"."+name, a.outputInbox()+name, frame)
}

// Event implements task.Uplink.
func (a *Agent) Event(ev api.TaskEvent) error {
	nc, err := a.linked()
	if err != nil {
		return err
	}
	body, err := json.Marshal(ev)
	if err != nil {
		return fmt.Errorf("writing event of task %s: %w", ev.TaskRef, err)
	}
	reply := a.eventInbox() + ev.TaskRef.String() + "." + string(ev.State)
	return nc.PublishRequest(api.SubjectEvent+a.key.public, reply, body)
}

// File implements task.Uplink. It waits for a lost connection to come back.
func (a *Agent) File(ctx context.Context, req api.FileRequest) ([]byte, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("writing request for a file: %w", err)
	}
	for {
		data, err := a.fileOnce(ctx, body)
		code := api.CodeOf(err)
		if err == nil || ctx.Err() != nil || code != api.CodeUnreachable && code != api.CodeUnavailable {
			return data, err
		}
		pause(ctx, retryAfter)
	}
}

func (a *Agent) fileOnce(ctx context.Context, body []byte) ([]byte, error) {
	return a.askHead(ctx, api.SubjectFile, body, "the head does not send it: ")
}

// Put implements task.Uplink. It waits for a lost connection to come back, and for room on the
// head's disk.
func (a *Agent) Put(ctx context.Context, piece api.FilePut) (api.Ack, error) {
	body, err := json.Marshal(piece)
	if err != nil {
		return api.Ack{}, fmt.Errorf("writing a piece of a file: %w", err)
	}
	for {
		var ack api.Ack
		data, err := a.askHead(ctx, api.SubjectPut, body, "the head does not take it: ")
		if err == nil {
			if err = json.Unmarshal(data, &ack); err == nil && ack.Err != nil {
				err = ack.Err
			}
		}
		if err == nil || ctx.Err() != nil {
			return ack, errors.Join(err, ctx.Err())
		}
		switch api.CodeOf(err) {
		case api.CodeUnreachable, api.CodeUnavailable, api.CodeDiskFull:
			pause(ctx, retryAfter)
		default:
			return ack, err
		}
	}
}

// askHead sends a request and returns the body of the answer; none is an error that begins with
// silent.
func (a *Agent) askHead(ctx context.Context, subject string, body []byte, silent string) ([]byte, error) {
	nc, err := a.linked()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := nc.RequestWithContext(ctx, subject+a.key.public, body)
	if err != nil {
		return nil, &api.Error{Code: api.CodeUnreachable, Msg: silent + err.Error()}
	}
	if msg.Header.Get(api.HeaderError) != "" {
		if e := api.DecodeError(msg.Data); e != nil {
			return nil, e
		}
		return nil, &api.Error{Code: api.CodeInternal, Msg: "the head refused without a reason"}
	}
	return msg.Data, nil
}

// onOutputAck passes on how much output of a task the head has.
func (s *session) onOutputAck(msg *nats.Msg) {
	ref, err := api.ParseTaskRef(strings.TrimPrefix(msg.Subject, s.a.outputInbox()))
	if err != nil {
		return
	}
	if ack, ok := s.acked(msg, ref); ok {
		s.a.tasks.OutputAcked(ref, ack.Offset)
	}
}

// onEventAck passes on that the head has an event of a task.
func (s *session) onEventAck(msg *nats.Msg) {
	name, state, _ := strings.Cut(strings.TrimPrefix(msg.Subject, s.a.eventInbox()), ".")
	ref, err := api.ParseTaskRef(name)
	if err != nil {
		return
	}
	if _, ok := s.acked(msg, ref); ok {
		s.a.tasks.EventAcked(ref, api.JobState(state))
	}
}

// acked reads an answer. One that refuses changes nothing: what was sent is
// sent again later.
func (s *session) acked(msg *nats.Msg, ref api.TaskRef) (api.Ack, bool) {
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		return api.Ack{}, false // nobody at the head listens yet
	}
	var ack api.Ack
	err := json.Unmarshal(msg.Data, &ack)
	if err == nil && ack.Err == nil {
		return ack, true
	}
	if ack.Err != nil {
		err = ack.Err
	}
	s.a.log.Warn("the head did not take it", "task", ref, "subject", msg.Subject, "error", err)
	return ack, false
}
