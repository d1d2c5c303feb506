package shares

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
	"muster/internal/powercut"
)

// kernelModules are what the kernel's server needs, in the order in which they are loaded.
var kernelModules = []string{"sunrpc", "auth_rpcgss", "grace", "nfs_acl", "lockd", "nfsd"}

// TestVMKernel runs TestKernelInside in a machine with a kernel of Debian and this system's nfs-kernel-server.
func TestVMKernel(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: boots a machine")
	}
	files := map[string]string{"init": powercut.Build(t, "./testdata/kernelvm")}
	for _, name := range []string{"exportfs", "rpc.mountd"} {
		program, err := exec.LookPath(name)
		if err != nil {
			program = "/usr/sbin/" + name
		}
		if _, err := os.Stat(program); err != nil {
			t.Skip("only in make test-vm after: apt install nfs-kernel-server")
		}
		files["sbin/"+name] = program
		for _, lib := range libraries(t, program) {
			files[strings.TrimPrefix(lib, "/")] = lib
		}
	}
	kernel := powercut.Kernel(t)
	for i, m := range unpackModules(t) {
		files[fmt.Sprintf("modules/%d.ko", i)] = m
	}
	binary := filepath.Join(t.TempDir(), "shares.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the test: %v\n%s", err, out)
	}
	files["shares.test"] = binary
	m := powercut.Machine{Kernel: kernel, Initrd: powercut.System(t, files), Disk: powercut.NewDisk(t), MemMiB: 640}
	if r := m.Run(t, "kernel", "", 1); !slices.Equal(r.Acknowledged, []string{"passed"}) {
		t.Errorf("the machine said %q", r.Acknowledged)
	}
}

// libraries are what a program links, by absolute paths.
func libraries(t *testing.T, program string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ldd", program).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", program, err)
	}
	return regexp.MustCompile(`/\S+\.so\S*`).FindAllString(string(out), -1)
}

// unpackModules takes the modules out of the image of the tests.
func unpackModules(t *testing.T) []string {
	t.Helper()
	f, err := os.Open(need.File(t, filepath.Join(os.Getenv("MUSTER_IMAGE"), "modules.tar"), "run the tests with make, which builds the image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := t.TempDir()
	files := make([]string, len(kernelModules))
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		i := slices.Index(kernelModules, strings.TrimSuffix(path.Base(h.Name), ".ko.xz"))
		if i < 0 {
			continue
		}
		xz := exec.CommandContext(t.Context(), need.Program(t, "xz", "xz-utils"), "-dc")
		xz.Stdin = tr
		raw, err := xz.Output()
		if err != nil {
			t.Fatalf("unpacking %s: %v", h.Name, err)
		}
		files[i] = filepath.Join(dir, kernelModules[i])
		if err := os.WriteFile(files[i], raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if i := slices.Index(files, ""); i >= 0 {
		t.Fatalf("the image has no module %s", kernelModules[i])
	}
	return files
}

// startNFSD does what the package's services do at a start of the system: load the modules, start
// the daemon that answers the kernel's questions, and the kernel's threads.
func startNFSD(t *testing.T) {
	t.Helper()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for i, name := range kernelModules {
		raw, err := os.ReadFile(fmt.Sprintf("/modules/%d.ko", i))
		must(name, err)
		must("loading "+name, unix.InitModule(raw, ""))
	}
	lo, err := netlink.LinkByName("lo")
	must("lo", err)
	must("lo", netlink.LinkSetUp(lo))
	for _, dir := range []string{"/var/lib/nfs/v4recovery", "/run"} {
		must(dir, os.MkdirAll(dir, 0o755))
	}
	for name, text := range map[string]string{"/etc/exports": "", "/var/lib/nfs/etab": "", "/etc/hosts": "127.0.0.1 localhost\n", "/etc/nsswitch.conf": "hosts: files\npasswd: files\n", "/etc/passwd": "root:x:0:0::/:\n"} {
		must(name, os.WriteFile(name, []byte(text), 0o644))
	}
	must("/etc/mtab", os.Symlink("/proc/self/mounts", "/etc/mtab"))
	must("mounting nfsd", unix.Mount("nfsd", "/proc/fs/nfsd", "nfsd", 0, ""))
	mountd := exec.Command("/sbin/rpc.mountd", "-F", "-N", "3")
	mountd.Stdout, mountd.Stderr = t.Output(), t.Output()
	must("rpc.mountd", mountd.Start())
	t.Cleanup(func() { _ = mountd.Process.Kill(); _ = mountd.Wait() })
	for _, w := range [][2]string{{"nfsv4leasetime", "10"}, {"nfsv4gracetime", "10"}, {"versions", "-3 +4 +4.1 +4.2"}, {"portlist", "tcp 2049"}, {"threads", "4"}} {
		must(w[0], os.WriteFile("/proc/fs/nfsd/"+w[0], []byte(w[1]+"\n"), 0o644))
	}
}

// TestKernelInside drives a real server of the kernel.
func TestKernelInside(t *testing.T) {
	if os.Getenv(inVM) == "" {
		t.Skip("run by TestVMKernel in a machine")
	}
	startNFSD(t)
	const a, b, foreign = "/disk/a b#ü", "/disk/b", "/disk/foreign"
	for _, dir := range []string{a, b, foreign, "/tmp/state"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/file", []byte("of "+dir), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("/sbin/exportfs", "-o", "ro,insecure,no_subtree_check", "127.0.0.9:"+foreign).CombinedOutput(); err != nil {
		t.Fatalf("exportfs: %v: %s", err, out)
	}
	start := func() *Server {
		t.Helper()
		s, err := NewServer(Config{State: "/tmp/state", Exportfs: "/sbin/exportfs"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := start()
	serve := func(list ...Export) {
		t.Helper()
		w := Wanted{Driver: api.ShareKernel, Exports: list}
		if len(list) == 0 {
			w.Driver = ""
		}
		if st, err := s.Serve(t.Context(), w); err != nil || len(st.Failed) > 0 {
			t.Fatalf("Serve: %+v, %v", st, err)
		}
	}
	read := func(from, export string) (string, error) {
		t.Helper()
		return readNFS(t, from, nfsPort, export, "file")
	}
	reads := func(from, export string) {
		t.Helper()
		if got, err := read(from, export); err != nil || got != "of "+export {
			t.Errorf("%s reads %q of %s, %v", from, got, export, err)
		}
	}
	refused := func(from, export string) {
		t.Helper()
		got, err := read(from, export)
		var status nfsError
		if !errors.As(err, &status) {
			t.Errorf("%s reads %q of %s, %v; want it refused", from, got, export, err)
		}
	}
	f, err := s.Look(t.Context(), a, "")
	if err != nil || f.Driver != api.ShareKernel || f.Type != "ext4" || f.Mount != "/disk" || !f.Durable {
		t.Fatalf("Look: %+v, %v", f, err)
	}
	if _, err := s.Look(t.Context(), foreign, ""); err == nil || !strings.Contains(err.Error(), "exports "+foreign+" itself already") {
		t.Errorf("Look at what others export: %v", err)
	}
	ea := Export{ID: 1, Dir: a, Mount: "/disk", Clients: clients("127.0.0.2")}
	eb := Export{ID: 2, Dir: b, ReadOnly: true, Clients: clients("127.0.0.2", "127.0.0.3")}
	serve(ea)
	reads("127.0.0.2", a)
	refused("127.0.0.3", a)
	held, err := dialNFS("127.0.0.2", nfsPort, false)
	if err != nil {
		t.Fatal(err)
	}
	defer held.conn.Close()
	goesOn := func(when string) {
		t.Helper()
		if got, err := held.read(a, "file"); err != nil || got != "of "+a {
			t.Errorf("%s: a client of the first share reads %q, %v", when, got, err)
		}
	}
	serve(ea, eb)
	reads("127.0.0.3", b)
	goesOn("a second share was added")
	eb.Clients = clients("127.0.0.2")
	serve(ea, eb)
	refused("127.0.0.3", b)
	reads("127.0.0.2", b)
	goesOn("a client was removed")
	for i := range 50 {
		want := fmt.Sprint("turn ", i)
		if err := os.WriteFile(a+"/turn", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := held.read(a, "turn"); err != nil || got != want {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}
	// The keeper ends and starts: what is exported stays throughout.
	s = start()
	goesOn("the keeper started again")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	eventually(t, 10*time.Second, "it knows what it served", func() bool {
		st, err := s.Status(ctx)
		return err == nil && len(st.Wanted.Exports) == 2
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	goesOn("and ended")
	serve(ea)
	refused("127.0.0.2", b)
	goesOn("the second share was removed")
	reads("127.0.0.9", foreign)
	serve()
	refused("127.0.0.2", a)
	reads("127.0.0.9", foreign)
	if _, err := os.Stat("/etc/exports.d/muster.exports"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("our file is there still: %v", err)
	}
}
