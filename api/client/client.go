package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"muster/api"
)

// defaultPort is the port of the API where an address names none.
const defaultPort = "7443"

// Client speaks with one head.
type Client struct {
	addr  string // as it was given, without the token
	base  string // URL in front of /v1
	token string
	http  *http.Client
}

// New returns a client of the head at addr, which is the path of a Unix
// socket ("/run/muster/head.sock", "unix:head.sock") or
// https://[TOKEN@]HOST[:PORT]#PIN, where PIN is the SHA-256 of the head's
// public key, as muster status shows it. It does not connect yet.
func New(addr string) (*Client, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok || strings.Contains(addr, "/") && !strings.Contains(addr, "://") {
		if !ok {
			path = addr
		}
		return newUnix(path), nil
	}
	u, err := url.Parse(addr)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return nil, &api.Error{
			Code: api.CodeInvalid, Msg: fmt.Sprintf("%q is no address of a head", addr),
			Hint: "write the path of its socket, or https://TOKEN@HOST:7443#PIN",
		}
	}
	return newHTTPS(u)
}

func newUnix(path string) *Client {
	var d net.Dialer
	return &Client{addr: path, base: "http://head", http: &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
		DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
	}}}
}

func newHTTPS(u *url.URL) (*Client, error) {
	pin := strings.ToLower(u.Fragment)
	if b, err := hex.DecodeString(pin); err != nil || len(b) != 32 {
		return nil, &api.Error{
			Code: api.CodeInvalid, Msg: fmt.Sprintf("the address of head %s has no pin", u.Host),
			Hint: "add #PIN, the SHA-256 of its key, which muster status shows on the head",
		}
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), defaultPort)
	}
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // the key decides, not the names and dates of a certificate
		VerifyConnection:   func(cs tls.ConnectionState) error { return checkPin(cs, pin) },
	}
	return &Client{
		addr: "https://" + host, base: "https://" + host, token: u.User.Username(),
		http: &http.Client{Transport: &http.Transport{
			TLSClientConfig: conf, DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: 10 * time.Second,
		}},
	}, nil
}

var errPin = errors.New("the head's key is another one than the pin says")

func checkPin(cs tls.ConnectionState, pin string) error {
	if len(cs.PeerCertificates) == 0 {
		return errPin
	}
	if api.Pin(cs.PeerCertificates[0].RawSubjectPublicKeyInfo) != pin {
		return errPin
	}
	return nil
}

// unreachable is the error for a request that got no answer.
func (c *Client) unreachable(err error) error {
	switch {
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, errPin):
		return &api.Error{Code: api.CodeForbidden, Msg: fmt.Sprintf("%s: %v", c.addr, errPin), Hint: "compare with muster status on the head"}
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op
	}
	text := err.Error()
	var call *os.SyscallError
	if errors.As(err, &call) {
		text = call.Err.Error() // c.addr says where
	}
	return &noAnswer{dial: op != nil && op.Op == "dial", err: &api.Error{Code: api.CodeUnreachable, Msg: fmt.Sprintf("the head at %s does not answer: %s", c.addr, text), Hint: "see whether it runs: systemctl status muster-head, or start it with: muster head"}}
}

// noAnswer is an *api.Error of code unreachable.
type noAnswer struct {
	err  *api.Error
	dial bool // the request surely was not sent
}

func (e *noAnswer) Error() string { return e.err.Error() }
func (e *noAnswer) Unwrap() error { return e.err }

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	u := c.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, &api.Error{Code: api.CodeInvalid, Msg: err.Error()}
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// send sends a request and returns an answer of status 2xx or 101; every
// other one is an error. The caller closes the body.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if e := api.DecodeError(b); e != nil {
		return nil, e
	}
	code := api.CodeInternal
	if resp.StatusCode == http.StatusNotFound {
		code = api.CodeNotFound
	}
	return nil, &api.Error{Code: code, Msg: fmt.Sprintf("%s %s: the head says %s", req.Method, req.URL.Path, resp.Status)}
}

// call sends in (nil: nothing) as JSON and decodes the answer into out (nil:
// ignored).
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return &api.Error{Code: api.CodeInvalid, Msg: err.Error()}
		}
		body = bytes.NewReader(b)
	}
	req, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	if err != nil {
		return c.unreachable(fmt.Errorf("reading its answer to %s %s: %w", method, path, err))
	}
	return nil
}
