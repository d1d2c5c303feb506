package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"time"

	"muster/api"
	"muster/pxe"
)

// coreLink is how the processes boot and files speak with core: JSON over
// HTTP on a Unix socket that only the head's own user can open.
type coreLink struct {
	http *http.Client
	log  *slog.Logger

	// events are sent one after the other, so that their order stays.
	events chan api.BootEvent
}

// Bounds of a link.
const (
	coreTimeout = 3 * time.Second
	coreEvents  = 4096 // events that wait; further ones are dropped and said
	coreReply   = 1 << 20
)

func newCoreLink(socket string, log *slog.Logger) *coreLink {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &coreLink{
		http:   &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64}, Timeout: coreTimeout},
		log:    log,
		events: make(chan api.BootEvent, coreEvents),
	}
}

// post sends a value and reads the answer into reply, which may be nil.
func (l *coreLink) post(ctx context.Context, path string, body, reply any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://core"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking core: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, coreReply))
	if err != nil {
		return fmt.Errorf("reading core's answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		if e := api.DecodeError(text); e != nil {
			return fmt.Errorf("asking core: %w", e)
		}
		return fmt.Errorf("asking core: %s", resp.Status)
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(text, reply)
}

// Observe queues an event for core. It implements [pxe.Observer].
func (l *coreLink) Observe(e pxe.Event) {
	select {
	case l.events <- bootEvent(e):
	default:
		l.log.Warn("boot event dropped: core does not take them fast enough", "mac", e.MAC, "stage", e.Stage)
	}
}

// run sends events until ctx is done. One that core does not take is tried
// again until it is up.
func (l *coreLink) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-l.events:
			for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
				err := l.post(ctx, "/internal/boot/event", e, nil)
				if err == nil || ctx.Err() != nil {
					break
				}
				if api.CodeOf(err) == api.CodeInvalid {
					l.log.Error("boot event refused by core", "mac", e.MAC, "stage", e.Stage, "err", err)
					break // it would be refused for ever, and keep all others waiting
				}
				l.log.Warn("boot event not taken by core, trying again", "err", err, "wait", wait)
				select {
				case <-ctx.Done():
				case <-time.After(wait):
				}
			}
		}
	}
}

// contentName is the folder of a boot program in [loaderFS], of no interest to
// people.
var contentName = regexp.MustCompile(`\b[0-9a-f]{64}/`)

func bootEvent(e pxe.Event) api.BootEvent {
	out := api.BootEvent{
		Time: e.Time.UTC(), Stage: api.BootStage(e.Stage), Detail: contentName.ReplaceAllString(e.Detail, ""), Client: string(e.Client), Arch: e.Arch,
		UUID: e.UUID, Bytes: e.Bytes, MS: e.Dur.Milliseconds(),
	}
	if len(e.MAC) > 0 {
		out.MAC = e.MAC.String()
	}
	if e.IP.IsValid() {
		out.IP = e.IP.String()
	}
	return out
}
