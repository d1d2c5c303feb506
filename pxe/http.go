package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

// Times of HTTP. Boot programs keep their connection open and forget it: iPXE
// holds it until the machine is reset, long after the kernel started.
const (
	idleTimeout   = time.Minute
	headerTimeout = 10 * time.Second
	slowestClient = 4 << 10 // bytes a second; slower ones are cut off in the end
	maxHeader     = 16 << 10
	maxLoader     = 64 << 20 // a loader that is no file is read into memory
)

// cleanPath turns the path of a URL into a name for [fs.FS]. It knows what
// firmware does: several slashes for one, backslashes, a leading "./". A path
// with ".." or a control character is refused. Nothing is ever redirected,
// since firmware does not follow. Pure.
func cleanPath(p string) (name string, ok bool) {
	var parts []string
	for part := range strings.SplitSeq(strings.ReplaceAll(p, `\`, "/"), "/") {
		switch part {
		case "", ".":
			continue
		case "..":
			return "", false
		}
		parts = append(parts, part)
	}
	name = strings.Join(parts, "/")
	if name == "" || !fs.ValidPath(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", false
	}
	return name, true
}

// Handler serves scripts and loaders; [Server.Run] uses it on Sockets.HTTP.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveBoot) }

func (s *Server) serveBoot(w http.ResponseWriter, r *http.Request) {
	name, ok := readable(w, r)
	switch {
	case !ok:
	case name == scriptName:
		s.serveScript(w, r)
	default:
		s.serveLoader(w, r, name)
	}
}

// readable checks method and path and answers what is wrong with them.
func readable(w http.ResponseWriter, r *http.Request) (name string, ok bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		plain(w, http.StatusMethodNotAllowed, "only GET and HEAD are served here")
		return "", false
	}
	if name, ok = cleanPath(r.URL.Path); !ok {
		plain(w, http.StatusNotFound, "no such file")
	}
	return name, ok
}

// plain answers with a line of text, whose length is told.
func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
	w.WriteHeader(status)
	io.WriteString(w, text+"\n")
}

// serveScript writes the script of the machine that the mac parameter names.
func (s *Server) serveScript(w http.ResponseWriter, r *http.Request) {
	start := s.now()
	m, known := s.asking(r)
	at := s.siteFor(r)
	if !known {
		s.writeScript(w, r, whoScript(at))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), decisionTime)
	defer cancel()
	b, err := s.cfg.Booter.Boot(ctx, m)
	switch {
	case err != nil:
		s.warn.Warn(s.log, "no decision what a machine boots", "mac", m.MAC, "err", err)
		s.writeScript(w, r, waitScript(at, m, "the head does not answer yet; asking again", scriptTry))
		return
	case b.Refused != "":
		s.watch.Observe(event(m, StageRefused, b.Refused))
		s.writeScript(w, r, waitScript(at, m, "not admitted: "+b.Refused, refusedWait))
		return
	case b.Wait > 0:
		s.writeScript(w, r, waitScript(at, m, "waiting to be admitted", b.Wait))
	case b.Kernel == "":
		s.warn.Warn(s.log, "no kernel to boot", "mac", m.MAC)
		s.writeScript(w, r, waitScript(at, m, "the head names no kernel; asking again", refusedWait))
		return
	default:
		s.writeScript(w, r, bootScript(at, m, b))
	}
	if r.Method == http.MethodGet {
		e := event(m, StageScript, scriptName)
		e.Dur = s.now().Sub(start)
		s.watch.Observe(e)
	}
}

func (s *Server) writeScript(w http.ResponseWriter, r *http.Request, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("Cache-Control", "no-store")
	if r.Method == http.MethodGet {
		io.WriteString(w, text)
	}
}

// asking is the machine that a request speaks for: by its mac parameter, else
// by the address it came from.
func (s *Server) asking(r *http.Request) (Machine, bool) {
	remote := remoteAddr(r)
	q := r.URL.Query()
	m := Machine{Client: ClientIPXE, IP: remote, OwnsLAN: s.ownsLAN(remote)}
	if hw, err := net.ParseMAC(q.Get("mac")); err == nil && len(hw) == len(MAC{}) {
		m.MAC = hw
	} else if mac, ok := s.holder(remote); ok {
		m.MAC = mac[:]
	} else {
		return m, false
	}
	known := s.facts(MAC(m.MAC))
	m.UUID, m.Arch = known.UUID, known.Arch
	if m.UUID == "" {
		m.UUID = cleanUUID(q.Get("uuid"))
	}
	if m.Arch == "" {
		m.Arch = orElse(cleanArch(q.Get("arch")), ipxeArch[q.Get("buildarch")])
	}
	s.learn(remote, MAC(m.MAC))
	return m, true
}

// cleanArch takes an architecture that this server wrote into a URL, and
// nothing else.
func cleanArch(s string) string {
	for _, name := range archNames {
		if s == name {
			return name
		}
	}
	return ""
}

// ipxeArch are the values of iPXE's ${buildarch}, as Debian says them. On
// BIOS iPXE is built for 32 bits whatever the processor.
var ipxeArch = map[string]string{"x86_64": "amd64", "i386": "amd64", "arm64": "arm64", "arm32": "armhf"}

// cleanUUID takes a UUID that somebody wrote into a URL.
func cleanUUID(s string) string {
	s = strings.ToLower(s)
	if len(s) != 36 || strings.Trim(s, "0123456789abcdef-") != "" {
		return ""
	}
	return s
}

func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// siteFor is how the asking machine reaches this server: the address that
// its connection came to.
func (s *Server) siteFor(r *http.Request) site {
	host := netip.Addr{}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		host = a.AddrPort().Addr().Unmap()
	}
	if !host.IsValid() && len(s.ifaces) > 0 {
		host = s.ifaces[0].Network.Server
	}
	return newSite(host, s.cfg.HTTPPort, s.cfg.FilesPort)
}

// serveLoader sends a boot program.
func (s *Server) serveLoader(w http.ResponseWriter, r *http.Request, name string) {
	start := s.now()
	content, info, err := openLoader(s.cfg.Loaders, name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("opening a loader", "file", name, "err", err)
		}
		plain(w, http.StatusNotFound, "no such file")
		return
	}
	defer content.Close()
	// EDK2 looks at the type before the name (UEFI 24.7.4).
	w.Header().Set("Content-Type", contentType(name))
	sent := &countingWriter{ResponseWriter: w}
	setDeadline(w, info.Size())
	http.ServeContent(sent, r, "", info.ModTime(), content)
	if r.Method == http.MethodGet && sent.whole(info.Size()) {
		remote := remoteAddr(r)
		mac, _ := s.holder(remote)
		s.loaderSent(mac, remote, ClientHTTP, name, info.Size(), s.now().Sub(start))
	}
}

// loaderSent tells that a boot program went to a machine.
func (s *Server) loaderSent(mac MAC, ip netip.Addr, c Client, name string, size int64, d time.Duration) {
	known := s.facts(mac)
	m := Machine{IP: ip, UUID: known.UUID, Arch: known.Arch, Client: c}
	if mac != (MAC{}) {
		m.MAC = mac[:]
	}
	e := event(m, StageLoader, name)
	e.Bytes, e.Dur = size, d
	s.watch.Observe(e)
}

// openLoader opens a regular file of fsys for seeking.
func openLoader(fsys fs.FS, name string) (io.ReadSeekCloser, fs.FileInfo, error) {
	if fsys == nil {
		return nil, nil, fs.ErrNotExist
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err == nil && info.Size() > maxLoader {
		err = fmt.Errorf("%s is too long for a loader: %d bytes", name, info.Size())
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	if rs, ok := f.(io.ReadSeekCloser); ok {
		return rs, info, nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLoader))
	if err != nil {
		return nil, nil, err
	}
	return nopCloser{bytes.NewReader(b)}, info, nil
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// contentType is by name alone: what is in a file does not matter.
func contentType(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".efi":
		return "application/efi"
	case ".img":
		return "application/vnd.efi-img"
	case ".iso":
		return "application/vnd.efi-iso"
	}
	return "application/octet-stream"
}

// setDeadline cuts off a client that reads next to nothing.
func setDeadline(w http.ResponseWriter, size int64) {
	d := idleTimeout + time.Duration(size/slowestClient)*time.Second
	// Writers that cannot do it are those of tests.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d))
}

// countingWriter counts what is sent and does not stand in the way of
// sendfile.
type countingWriter struct {
	http.ResponseWriter
	sent   int64
	status int
}

func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *countingWriter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.sent += int64(n)
	return n, err
}

func (c *countingWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.sent += n
	return n, err
}

// whole tells whether the whole content went out in this answer.
func (c *countingWriter) whole(size int64) bool {
	return (c.status == 0 || c.status == http.StatusOK) && c.sent == size
}
