package headnode

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/api"
	"muster/api/client"
)

// testServer is the API of a rig's head without a socket; who sends the
// requests is in their context.
func testServer(t testing.TB, r *rig, change func(*httpConfig)) *httpServer {
	t.Helper()
	cfg := httpConfig{
		Jobs: r.js, Events: &fakeEvents{}, Nodes: fakeNodes{fleet: r.fleet}, Images: fakeImages{}, Settings: fakeSettings{},
		Enroll: fakeEnroll{}, Boot: fakeBoot{}, HeadUID: 12345678, Status: func() api.Status { return api.Status{} },
	}
	if change != nil {
		change(&cfg)
	}
	s, err := newHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask sends a request of a local user.
func ask(s *httpServer, uid uint32, method, path, body string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req = req.WithContext(context.WithValue(req.Context(), peerKey{}, peer{uid: uid, gid: uid}))
	w := httptest.NewRecorder()
	s.users.ServeHTTP(w, req)
	return w
}

func TestHTTPErrors(t *testing.T) {
	r := newRig(t, "n1")
	s := testServer(t, r, nil)
	tests := map[string]struct {
		method, path, body string
		status             int
		code               api.Code
		msg                string
	}{
		"no such path":       {"GET", "/v1/nothing", "", 404, api.CodeNotFound, "there is no GET /v1/nothing"},
		"no such method":     {"DELETE", "/v1/jobs", "", 404, api.CodeNotFound, "there is no DELETE"},
		"no such job":        {"GET", "/v1/jobs/99", "", 404, api.CodeNotFound, "there is no job 99"},
		"job is no number":   {"GET", "/v1/jobs/x", "", 400, api.CodeInvalid, "path.id"},
		"no such node":       {"GET", "/v1/nodes/n9", "", 404, api.CodeNotFound, "n9"},
		"not JSON":           {"POST", "/v1/jobs", "{", 400, api.CodeInvalid, ""},
		"unknown key":        {"POST", "/v1/jobs", `{"argv":["x"],"taks":3}`, 400, api.CodeInvalid, "taks"},
		"wrong type":         {"POST", "/v1/jobs", `{"argv":"x"}`, 400, api.CodeInvalid, "argv"},
		"no program":         {"POST", "/v1/jobs", `{}`, 400, api.CodeInvalid, "no program"},
		"wrong state":        {"GET", "/v1/jobs?state=asleep", "", 400, api.CodeInvalid, "asleep"},
		"wrong page":         {"GET", "/v1/jobs?page=x1", "", 400, api.CodeInvalid, "page"},
		"no hash":            {"PUT", "/v1/blobs/abc", "x", 400, api.CodeInvalid, "SHA-256"},
		"blob for nobody":    {"PUT", "/v1/blobs/" + strings.Repeat("a", 64) + "?for=fun", "x", 400, api.CodeInvalid, "fun"},
		"stream of no job":   {"GET", "/v1/jobs/99/stream", "", 404, api.CodeNotFound, "no job 99"},
		"logs of no job":     {"GET", "/v1/jobs/99/logs", "", 404, api.CodeNotFound, "no job 99"},
		"since is no number": {"GET", "/v1/events?since=x", "", 400, api.CodeInvalid, "revision"},
		"too large":          {"POST", "/v1/jobs", `{"argv":["` + strings.Repeat("x", maxBody+1) + `"]}`, 413, api.CodeTooLarge, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := ask(s, 0, tt.method, tt.path, tt.body)
			e := api.DecodeError(w.Body.Bytes())
			if e == nil {
				t.Fatalf("%s %s = %d %.200s, want an ErrorReply", tt.method, tt.path, w.Code, w.Body)
			}
			if e.Code != tt.code || w.Code != tt.status || !strings.Contains(e.Msg, tt.msg) {
				t.Errorf("%s %s = %d, %s, %q; want %d, %s, %q", tt.method, tt.path, w.Code, e.Code, e.Msg, tt.status, tt.code, tt.msg)
			}
			if ct := w.Header().Get("Content-Type"); !strings.HasPrefix(ct, "application/json") {
				t.Errorf("content type is %q", ct)
			}
		})
	}
}

// TestRights: users see the cluster, see and end their own jobs only, and change
// nothing of the cluster.
func TestRights(t *testing.T) {
	const alice, bob = 4000001, 4000002 // have no account here: known by number
	r := newRig(t, "n1")
	s := testServer(t, r, nil)
	w := ask(s, alice, "POST", "/v1/jobs", `{"argv":["sleep"],"detached":true,"env":["SECRET=1"]}`)
	var j api.Job
	if err := json.Unmarshal(w.Body.Bytes(), &j); err != nil || w.Code != 200 {
		t.Fatalf("submitting = %d %s", w.Code, w.Body)
	}
	if j.Owner.UID != alice {
		t.Fatalf("owner is %+v", j.Owner)
	}
	job := fmt.Sprintf("/v1/jobs/%d", j.ID)
	tests := []struct {
		uid          uint32
		method, path string
		body         string
		want         int
	}{
		{bob, "GET", "/v1/nodes", "", 200},
		{bob, "GET", job, "", 403},
		{bob, "GET", "/v1/status", "", 200},
		{bob, "GET", "/v1/enrollment", "", 200},
		{bob, "POST", job + "/cancel", "", 403},
		{bob, "POST", job + "/signal", `{"signal":15}`, 403},
		{bob, "GET", job + "/logs", "", 403},
		{bob, "GET", job + "/stream", "", 403},
		{bob, "POST", "/v1/nodes/approve", `{"all":true}`, 403},
		{bob, "POST", "/v1/nodes", `{"mac":"52:54:00:00:00:01"}`, 403},
		{bob, "DELETE", "/v1/nodes/n1", "", 403},
		{bob, "POST", "/v1/nodes/n1/reboot", "", 403},
		{bob, "POST", "/v1/nodes/image", `{"nodes":["n1"]}`, 403},
		{bob, "POST", "/v1/nodes/n1/rename", `{"name":"x"}`, 403},
		{bob, "POST", "/v1/nodes/n1/admin", `{"admin":"paused"}`, 403},
		{bob, "POST", "/v1/nodes/n1/reject", "", 403},
		{bob, "PUT", "/v1/enrollment", `{"open":true}`, 403},
		{bob, "PUT", "/v1/config/rejoin", `{"value":"x"}`, 403},
		{bob, "PUT", "/v1/config-document", `{"yaml":""}`, 403},
		{bob, "POST", "/v1/images", `{"manifest":"e30="}`, 403},
		{bob, "DELETE", "/v1/images/x", "", 403},
		{bob, "POST", "/v1/images/x/default", "", 403},
		{bob, "PUT", "/v1/blobs/" + strings.Repeat("a", 64) + "?for=image", "x", 403},
		{alice, "GET", job + "/logs", "", 200},
		{0, "GET", job + "/logs", "", 200},
		{0, "POST", "/v1/nodes/approve", `{"all":true}`, 200},
		{12345678, "POST", "/v1/nodes/approve", `{"all":true}`, 200}, // who started the head
		{alice, "POST", job + "/cancel", "", 200},
	}
	for _, tt := range tests {
		if w := ask(s, tt.uid, tt.method, tt.path, tt.body); w.Code != tt.want {
			t.Errorf("user %d: %s %s = %d %s, want %d", tt.uid, tt.method, tt.path, w.Code, w.Body, tt.want)
		}
	}
	if w := ask(s, alice, "GET", job, ""); !strings.Contains(w.Body.String(), "SECRET") {
		t.Error("the owner does not see the environment of a job")
	}
	if w := ask(s, alice, "GET", "/v1/jobs", ""); strings.Contains(w.Body.String(), "SECRET") {
		t.Error("a listing shows the environment of jobs")
	}
}

// TestPeer: the kernel says who is at the other end of the socket.
func TestPeer(t *testing.T) {
	r := newRig(t, "n1")
	who, err := r.client.WhoAmI(context.Background())
	if err != nil || who.Owner.UID != uint32(os.Getuid()) || !who.Admin {
		t.Errorf("WhoAmI() = %+v, %v; want uid %d", who, err, os.Getuid())
	}
}

// testCert is a head's certificate, of a year that has passed, and its pin.
func testCert(t testing.TB) (cert tls.Certificate, pin string) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, public, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, api.Pin(leaf.RawSubjectPublicKeyInfo)
}

func TestToken(t *testing.T) {
	r := newRig(t, "n1")
	cert, pin := testCert(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(t.TempDir(), "tokens")
	sum := sha256.Sum256([]byte("s3cret"))
	if err := os.WriteFile(tokens, []byte("# who  what\nroot "+hex.EncodeToString(sum[:])+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := testServer(t, r, func(c *httpConfig) {
		c.TCP, c.TLS, c.Tokens = ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}, tokens
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()

	at := func(token, pin string) error {
		c, err := client.New("https://" + token + "@" + ln.Addr().String() + "#" + pin)
		if err != nil {
			return err
		}
		who, err := c.WhoAmI(ctx)
		if err == nil && (who.Owner.User != "root" || !who.Admin) {
			return fmt.Errorf("the head takes the token's user for %+v", who)
		}
		if err != nil {
			return err
		}
		j, err := c.Run(ctx, api.JobSpec{Argv: []string{"echo", "over TLS"}}, client.RunOptions{})
		if err == nil && j.ExitCode != 0 {
			return fmt.Errorf("job ended with %d", j.ExitCode)
		}
		return err
	}
	if err := at("s3cret", pin); err != nil {
		t.Errorf("right token, right pin: %v", err)
	}
	if err := at("wrong", pin); api.CodeOf(err) != api.CodeUnauthenticated || !strings.Contains(err.Error(), "Bearer") {
		t.Errorf("wrong token: %v, want unauthenticated with a hint", err)
	}
	if err := at("", pin); api.CodeOf(err) != api.CodeUnauthenticated {
		t.Errorf("no token: %v, want unauthenticated", err)
	}
	if err := at("s3cret", strings.Repeat("0", 64)); api.CodeOf(err) != api.CodeForbidden {
		t.Errorf("wrong pin: %v, want forbidden", err)
	}
	if err := at("s3cret", ""); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("no pin: %v, want invalid", err)
	}
}

// TestOpenAPI: the description has every plain operation, and its parts refer
// to each other.
func TestOpenAPI(t *testing.T) {
	s := testServer(t, newRig(t, "n1"), nil)
	w := ask(s, 0, "GET", "/v1/openapi.json", "")
	var doc struct {
		OpenAPI    string                    `json:"openapi"`
		Paths      map[string]map[string]any `json:"paths"`
		Components struct {
			Schemas map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"post /v1/jobs", "get /v1/jobs", "get /v1/jobs/{id}", "post /v1/jobs/{id}/cancel", "post /v1/jobs/{id}/signal",
		"get /v1/nodes", "get /v1/nodes/{ref}", "post /v1/nodes/approve", "post /v1/nodes/image", "get /v1/status", "get /v1/images",
		"get /v1/config", "put /v1/config/{key}", "get /v1/boot/{ref}", "put /v1/enrollment",
	} {
		method, path, _ := strings.Cut(want, " ")
		op, ok := doc.Paths[path][method].(map[string]any)
		if !ok {
			t.Errorf("%s is not described", want)
			continue
		}
		b, _ := json.Marshal(op["responses"])
		if !bytes.Contains(b, []byte("ErrorReply")) {
			t.Errorf("%s does not say how its errors look", want)
		}
	}
	for _, part := range bytes.Split(w.Body.Bytes(), []byte(`"$ref":"#/components/schemas/`))[1:] {
		name, _, _ := bytes.Cut(part, []byte(`"`))
		if doc.Components.Schemas[string(name)] == nil {
			t.Errorf("schema %s is referred to and not there", name)
		}
	}
}

func TestEvents(t *testing.T) {
	r := newRig(t, "n1")
	j := r.submit(api.JobSpec{Argv: []string{"true"}, Detached: true})
	stop := errors.New("enough")
	var states []api.JobState
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := r.client.Events(ctx, 0, func(e api.Event) error {
		if e.Job == nil || e.Job.ID != j.ID {
			return nil
		}
		if states = append(states, e.Job.State); e.Job.State.Ended() {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || states[0] != api.JobQueued || states[len(states)-1] != api.JobFinished {
		t.Errorf("events say %v, %v; want queued ... finished", states, err)
	}
}

func TestLogs(t *testing.T) {
	r := newRig(t, "n1", "n2")
	j := r.submit(api.JobSpec{Argv: []string{"where"}, Tasks: 3, Detached: true})
	r.ended(j.ID)
	var all, one bytes.Buffer
	if err := r.client.Logs(context.Background(), j.ID, -1, true, &all, io.Discard); err != nil || strings.Count(all.String(), "\n") != 3 {
		t.Errorf("Logs() = %q, %v; want three lines", all.String(), err)
	}
	if err := r.client.Logs(context.Background(), j.ID, 1, false, &one, io.Discard); err != nil || !strings.HasSuffix(one.String(), " 1/3\n") {
		t.Errorf("Logs(1) = %q, %v", one.String(), err)
	}
	if err := r.client.Logs(context.Background(), j.ID, 3, false, io.Discard, io.Discard); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("Logs(3) = %v, want not_found", err)
	}
	cat := r.submit(api.JobSpec{Argv: []string{"cat"}, Stdin: true})
	rd, wr := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- r.client.Logs(context.Background(), cat.ID, -1, true, wr, io.Discard)
		wr.Close()
	}()
	in, feed := io.Pipe()
	go r.client.Attach(context.Background(), cat.ID, client.RunOptions{Stdin: in})
	for _, line := range []string{"a\n", "b\n"} {
		io.WriteString(feed, line)
		got := make([]byte, 2)
		if _, err := io.ReadFull(rd, got); err != nil || string(got) != line {
			t.Fatalf("followed logs say %q, %v; want %q", got, err, line)
		}
	}
	feed.Close()
	if err := <-done; err != nil {
		t.Errorf("Logs(follow) = %v", err)
	}
}

func TestPages(t *testing.T) {
	r := newRig(t, "n1")
	for range 7 {
		r.submit(api.JobSpec{Argv: []string{"sleep"}, Detached: true})
	}
	var ids []uint64
	page := ""
	for {
		l, err := r.client.ListJobs(context.Background(), map[string][]string{"limit": {"3"}, "page": {page}, "state": {"active"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range l.Items {
			ids = append(ids, j.ID)
		}
		if page = l.Next; page == "" {
			break
		}
	}
	if fmt.Sprint(ids) != "[7 6 5 4 3 2 1]" {
		t.Errorf("pages list %v, want 7 to 1", ids)
	}
}

func TestBootRoutes(t *testing.T) {
	s := testServer(t, newRig(t, "n1"), nil)
	w := httptest.NewRecorder()
	s.boot.ServeHTTP(w, httptest.NewRequest("POST", "/internal/boot/decide", strings.NewReader(`{"mac":"52:54:00:00:00:01"}`)))
	var d api.BootDecision
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || !d.Answer || d.HostName != "52:54:00:00:00:01" {
		t.Errorf("decide = %d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	s.boot.ServeHTTP(w, httptest.NewRequest("POST", "/internal/boot/event", strings.NewReader(`{`)))
	if w.Code != http.StatusBadRequest || api.DecodeError(w.Body.Bytes()) == nil {
		t.Errorf("broken event = %d %s, want 400", w.Code, w.Body)
	}
	if w := ask(s, 0, "POST", "/internal/boot/decide", `{}`); w.Code != 404 {
		t.Errorf("users reach /internal/boot/decide: %d", w.Code)
	}
}

func TestPanicIsAnError(t *testing.T) {
	s := testServer(t, newRig(t, "n1"), nil)
	w := ask(s, 0, "GET", "/v1/images", "") // the fake has no images
	if e := api.DecodeError(w.Body.Bytes()); w.Code != 500 || e == nil || e.Code != api.CodeInternal {
		t.Errorf("a panic = %d %s, want an internal error", w.Code, w.Body)
	}
}

// FuzzHTTP sends anything: the answer is JSON of ours, or output, never a crash.
func FuzzHTTP(f *testing.F) {
	for _, s := range []struct{ method, path, body string }{
		{"POST", "/v1/jobs", `{"argv":["x"],"tasks":-1,"on":"n[1-","files":[{"path":"a"}]}`},
		{"GET", "/v1/jobs?page=h1&limit=-3&state=active", ""},
		{"GET", "/v1/jobs/1/logs?from=0:9223372036854775807&frames=1", ""},
		{"GET", "/v1/jobs/1/stream?from=0:1&input=-1", ""},
		{"POST", "/v1/jobs/1/signal", `{"signal":9999}`},
		{"HEAD", "/v1/blobs/..%2f..%2fetc", ""},
	} {
		f.Add(s.method, s.path, s.body)
	}
	r := newStoppedRig(f, "n1")
	js, err := newJobs(jobsConfig{Store: r.mem, Fleet: r.fleet, Dir: r.dir})
	if err != nil {
		f.Fatal(err)
	}
	r.js = js
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- js.Run(ctx) }()
	f.Cleanup(func() { cancel(); <-done })
	s := testServer(f, r, nil)
	f.Fuzz(func(t *testing.T, method, path, body string) {
		req, err := http.NewRequest(method, "http://head"+path, strings.NewReader(body))
		if err != nil || !strings.HasPrefix(req.URL.Path, "/v1/jobs") && !strings.HasPrefix(req.URL.Path, "/v1/blobs") {
			return
		}
		short, stop := context.WithTimeout(context.WithValue(t.Context(), peerKey{}, peer{uid: 0}), 2*time.Second)
		defer stop()
		w := httptest.NewRecorder()
		s.users.ServeHTTP(w, req.WithContext(short))
		if w.Code == http.StatusInternalServerError {
			t.Fatalf("%s %s = %d %s", method, path, w.Code, w.Body)
		}
	})
}
