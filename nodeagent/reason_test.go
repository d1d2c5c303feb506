package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"

	"muster/api"
)

func TestReason(t *testing.T) {
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{dial(syscall.ENETUNREACH), "there is no way to h:1 (network is unreachable); check cable, address and muster.head"},
		{dial(syscall.EHOSTUNREACH), "there is no way to h:1 (no route to host); check cable, address and muster.head"},
		{dial(syscall.ECONNREFUSED), "h:1 refuses connections; is muster head running there?"},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), "h:1 does not answer; check muster.head and the firewall of the head"},
		{nats.ErrTimeout, "h:1 does not answer; check muster.head and the firewall of the head"},
		{nats.ErrNoServers, "h:1 refuses connections; is muster head running there?"},
		{nats.ErrStaleConnection, "h:1 ended the connection; it is tried again"},
		{nats.ErrNoResponders, "h:1 does not answer requests to join yet; is muster head starting there?"},
		{errors.New("nats: something new"), "something new"},
		{nats.ErrNoInfoReceived, "h:1 does not speak as a head does; check the port in muster.head"},
		{errors.New("nats: Authorization Violation"), "the head refused this machine's key: it was rejected or removed, or another agent uses the same key"},
		{&pinError{want: strings.Repeat("a", 64), got: strings.Repeat("b", 64)}, "the head's key bbbbbbbbbbbbbbbb... is not the pinned aaaaaaaaaaaaaaaa...; boot an image of this head, or check muster.head and muster.pin"},
		{&api.Error{Code: api.CodeConflict, Msg: "this key joined already", Hint: "wait"}, "this key joined already; wait"},
	} {
		if got := reason("h:1", c.err); got != c.want {
			t.Errorf("reason of %v:\n got %q\nwant %q", c.err, got, c.want)
		}
	}
}

func FuzzJoinReply(f *testing.F) {
	f.Add([]byte(`{"state":"approved","name":"n1","heartbeat":1.5,"clock":"2026-01-02T03:04:05Z","reconnect":true}`), false)
	f.Add([]byte(`{"state":"pending"}`), false)
	f.Add([]byte(`{"error":{"code":"conflict","message":"twice"}}`), true)
	f.Add([]byte(`{"state":"approved","heartbeat":-1e300}`), false)
	f.Fuzz(func(t *testing.T, body []byte, isError bool) {
		msg := nats.NewMsg("x")
		msg.Data = body
		if isError {
			msg.Header.Set(api.HeaderError, "1")
		}
		r, err := decodeJoinReply(msg)
		if err == nil && r.State != api.JoinPending && r.State != api.JoinApproved && r.State != api.JoinRejected {
			t.Errorf("state %q is taken", r.State)
		}
	})
}
