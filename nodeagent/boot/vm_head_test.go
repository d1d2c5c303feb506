package boot

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"muster/api"
	"muster/internal/vm"
)

// vmHead is as much of a head as a machine on its way needs. Everybody who
// proves a key is let in.
type vmHead struct {
	t     testing.TB
	nc    *nats.Conn
	pub   []byte        // DER SubjectPublicKeyInfo of its key
	ahead time.Duration // its clock before ours
	files string        // base URL of what belongs to the image
	joins chan api.JoinRequest

	mu    sync.Mutex
	reply api.JoinReply // to the next join; guarded by mu, as all below
	log   []string      // of the machine's kernel
}

// Check implements server.Authentication.
func (*vmHead) Check(server.ClientAuthentication) bool { return true }

func startVMHead(t testing.TB, addr string, ahead time.Duration) *vmHead {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, priv)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	h := &vmHead{t: t, pub: spki, ahead: ahead, joins: make(chan api.JoinRequest, 16)}
	h.reply = api.JoinReply{State: api.JoinPending, Message: "waiting for approval"}
	srv, err := server.NewServer(&server.Options{
		Host: addr, Port: 7421, NoSigs: true, NoLog: true, TLS: true, TLSTimeout: 60, AuthTimeout: 60,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: priv}}},
		AlwaysEnableNonce: true, CustomClientAuthentication: h,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the head's server does not start")
	}
	// The dates of its certificate are long gone, on purpose: only the key counts.
	h.nc, err = nats.Connect(srv.ClientURL(), nats.InProcessServer(srv), nats.Secure(&tls.Config{InsecureSkipVerify: true}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.nc.Close)
	h.files = serveImage(t, addr)
	for subject, handle := range map[string]nats.MsgHandler{
		api.SubjectJoin + "*": h.onJoin,
		api.SubjectLog + "*":  h.onLog,
	} {
		if _, err := h.nc.Subscribe(subject, handle); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// serveImage serves the files of the image as a head does, /blobs/SHA256/NAME, and returns
// the base URL.
func serveImage(t testing.TB, addr string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(addr, "7480"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(os.Getenv("MUSTER_IMAGE"), path.Base(r.URL.Path)))
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return "http://" + l.Addr().String()
}

func (h *vmHead) onJoin(m *nats.Msg) {
	var req api.JoinRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		h.t.Errorf("join request %q: %v", m.Data, err)
		return
	}
	h.mu.Lock()
	r := h.reply
	h.mu.Unlock()
	r.Heartbeat = api.Duration(time.Second)
	r.Clock = time.Now().Add(h.ahead)
	h.send(m.Respond, r)
	select {
	case h.joins <- req:
	default:
	}
}

func (h *vmHead) onLog(m *nats.Msg) {
	var log api.KernelLog
	if err := json.Unmarshal(m.Data, &log); err != nil {
		h.t.Errorf("kernel log %q: %v", m.Data, err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range log.Lines {
		h.log = append(h.log, l.Text)
	}
}

func (h *vmHead) send(how func([]byte) error, v any) {
	b, err := json.Marshal(v)
	if err == nil {
		err = how(b)
	}
	if err != nil {
		h.t.Errorf("speaking to the machine: %v", err)
	}
}

// approve lets the machine of a key in.
func (h *vmHead) approve(key, name string) {
	h.mu.Lock()
	h.reply = api.JoinReply{State: api.JoinApproved, Name: name, Files: h.files}
	r := h.reply
	h.mu.Unlock()
	r.Reconnect = true
	h.send(func(b []byte) error { return h.nc.Publish(api.InboxPrefix+key+".state", b) }, r)
}

// next waits for a join request.
func (h *vmHead) next() api.JoinRequest {
	h.t.Helper()
	select {
	case r := <-h.joins:
		return r
	case <-time.After(vmPatience):
		h.t.Fatal("no join request")
		return api.JoinRequest{}
	}
}

// logged waits until the machine's kernel log has a line with text.
func (h *vmHead) logged(text string) {
	h.t.Helper()
	patience := time.After(vmPatience)
	for {
		h.mu.Lock()
		all := strings.Join(h.log, "\n")
		h.mu.Unlock()
		if strings.Contains(all, text) {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-patience:
			h.t.Fatalf("the kernel log has no %q:\n%s", text, all)
		}
	}
}

// A machine's whole way: pending, approved, ready, started again by its head.
func TestVMJoins(t *testing.T) {
	kernel, initramfs := imageFiles(t)
	port := dhcpNetwork(t)
	const ahead = 2 * time.Hour
	head := startVMHead(t, "10.77.0.1", ahead)
	g := startGuest(t, port, vm.Config{
		Kernel: kernel, Initrd: initramfs, UUID: testUUID,
		Append: "muster.head=10.77.0.1 muster.pin=" + api.Pin(head.pub) + " BOOTIF=01-52-54-00-12-34-01",
	})
	pending := g.expect(t, `^muster: state pending`)
	t.Logf("pending after %s", pending.Round(10*time.Millisecond))
	req := head.next()
	fp := "node " + nodeFingerprint(t, g) + " head " + api.Fingerprint(head.pub)
	g.expect(t, `^muster: fingerprint `+fp+`$`)
	g.expect(t, `^muster: why waiting for approval$`)
	g.expect(t, `^muster: type muster node approve `+nodeFingerprint(t, g)+`$`)
	if req.IP != "10.77.0.50" || req.BootID == "" || req.Software.Medium != "pxe" || req.Software.Kernel == "" || req.Software.ImageID == "" {
		t.Errorf("join request = %+v, want IP, boot ID, medium, kernel and image", req)
	}
	if hw := req.Hardware; len(hw.MACs) != 1 || hw.MACs[0] != vmMAC.String() || hw.UUID != testUUID || hw.Cores != 1 || hw.MemoryMiB < 400 || hw.Firmware != "bios" || hw.CPUModel == "" {
		t.Errorf("hardware = %+v, want that of the virtual machine", hw)
	}

	head.approve(req.Key, "n7")
	g.expect(t, `^muster: state ready`)
	g.expect(t, `^muster: name n7$`)
	// The clock was set at the first answer, before it joined again.
	for off := time.Hour; off.Abs() > 30*time.Second; {
		again := head.next()
		off = again.Clock.Sub(time.Now().Add(ahead))
		if again.Uptime > vmPatience.Seconds() {
			t.Fatalf("the machine's clock is off by %s", off)
		}
	}
	head.logged("Linux version ")
	head.logged(`muster-init: "init started"`)
	head.logged(`muster-agent: "address acquired"`)

	var ack api.Ack
	answer, err := head.nc.Request(api.SubjectNode+req.Key+"."+api.VerbReboot, []byte("{}"), vmPatience)
	if err == nil {
		err = json.Unmarshal(answer.Data, &ack)
	}
	if err != nil || ack.Err != nil {
		t.Fatalf("asking for a reboot: %v, %v", err, ack.Err)
	}
	select {
	case <-g.Done():
	case <-time.After(vmPatience):
		t.Error("the machine did not start again")
	}
	if got := g.with("muster: problem"); len(got) > 0 {
		t.Errorf("problems on the console: %q", got)
	}
}

// nodeFingerprint is what the machine shows as its own.
func nodeFingerprint(t *testing.T, g *guest) string {
	t.Helper()
	lines := g.with("muster: fingerprint node ")
	if len(lines) == 0 {
		t.Fatal("no fingerprint on the console")
	}
	return strings.Fields(lines[0])[3]
}
