package shares

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"muster/api"
)

// Remote asks a [Server] in another process. It implements [Desk].
type Remote struct {
	http http.Client
}

// clientTimeout is more than a start of an engine takes.
const clientTimeout = 40 * time.Second

// Dial returns a client for the server on a Unix socket, which need not be there yet.
func Dial(socket string) *Remote {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Remote{http: http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: clientTimeout}}
}

// Look implements [Desk].
func (c *Remote) Look(ctx context.Context, dir string, driver api.ShareDriver) (Folder, error) {
	return ask[Folder](ctx, c, "/look", lookRequest{dir, driver})
}

// Serve implements [Desk].
func (c *Remote) Serve(ctx context.Context, w Wanted) (Status, error) {
	return ask[Status](ctx, c, "/serve", w)
}

// Status implements [Desk].
func (c *Remote) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, "/status", struct{}{})
}

func ask[A any](ctx context.Context, c *Remote, path string, q any) (A, error) {
	var a A
	raw, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://keeper"+path, bytes.NewReader(raw))
	if err != nil {
		return a, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return a, &api.Error{Code: api.CodeUnavailable, Msg: fmt.Sprintf("the head's keeper, which serves folders, does not answer: %v", errors.Unwrap(err))}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAsked))
	if err != nil {
		return a, fmt.Errorf("reading the keeper's answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		if e := api.DecodeError(text); e != nil {
			return a, e
		}
		return a, fmt.Errorf("asking the keeper: %s", resp.Status)
	}
	return a, json.Unmarshal(text, &a)
}
