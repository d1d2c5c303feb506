package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"muster/api"
	"muster/pxe"
)

// Events come in their order, once each, also those for which core was not
// there at first; one that core refuses keeps no other waiting.
func TestBootEventsReachCore(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "core"))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan api.BootEvent, 8)
	asked := 0
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		var ev api.BootEvent
		switch err := json.NewDecoder(r.Body).Decode(&ev); {
		case err != nil:
			t.Error(err)
		case asked == 1: // core is being restarted
			w.WriteHeader(http.StatusBadGateway)
		case ev.Detail == "refused":
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(api.ErrorReply{Err: &api.Error{Code: api.CodeInvalid, Msg: "no"}})
		default:
			got <- ev
		}
	})}
	defer srv.Close()
	go srv.Serve(l)

	link := newCoreLink(l.Addr().String(), slog.New(slog.DiscardHandler))
	for _, detail := range []string{"1", "refused", "2", "3"} {
		link.Observe(pxe.Event{Detail: detail})
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- link.run(ctx) }()
	for _, want := range []string{"1", "2", "3"} {
		if ev := <-got; ev.Detail != want {
			t.Errorf("event %q came, want %q", ev.Detail, want)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
