package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"muster/api"
	"muster/builder/uki"
	"muster/builder/uki/ukitest"
	"muster/images"
	"muster/internal/need"
	"muster/internal/vm"
)

// site is a cluster with an image that is signed with a key of its own.
type site struct {
	*cluster
	out  string // folder of the image
	cert []byte // DER
}

// signedSite builds the image of the tests once more with this head in it, signed. Only the UKI is
// made anew.
func signedSite(t *testing.T) *site {
	t.Helper()
	if err := vm.InstalledSecureBoot(); err != nil {
		need.Missing(t, "%v", err)
	}
	c := startCluster(t, "--dhcp=full")
	status, err := c.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pair, dir := ukitest.NewPair(t, "a site", 2048, false), t.TempDir()
	m := readTestManifest(t, c.image)
	definition := fmt.Sprintf("name: %s\nfrom: %s\nmedia: [netboot, uki, img]\nsite: {head: 10.77.0.1, pin: %s, label: room 12}\n", m.Name, m.Name, status.Pin)
	for name, text := range map[string][]byte{"key": pair.Key, "cert": pair.Cert, "site.yaml": []byte(definition)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &site{cluster: c, out: filepath.Join(dir, "out")}
	if r := c.muster("", "build", filepath.Join(dir, "site.yaml"), "--output", s.out, "--lock", filepath.Join(c.image, "lock.json"), "--locked",
		"--sign-key", filepath.Join(dir, "key"), "--sign-cert", filepath.Join(dir, "cert")); r.status != 0 {
		t.Fatalf("muster build: %s", r.stderr)
	}
	if got := readTestManifest(t, s.out); got.ID != m.ID {
		t.Errorf("the signed image has the ID %s, the other %s", got.ID, m.ID)
	}
	if r := c.muster("", "verify", s.out, "--cert", filepath.Join(dir, "cert")); r.status != 0 {
		t.Errorf("muster verify: %s", r.stderr)
	}
	if out, err := exec.Command(need.Program(t, "sbverify", "sbsigntool"), "--cert", filepath.Join(dir, "cert"), s.file(t, images.KindUKI)).CombinedOutput(); err != nil {
		t.Errorf("sbverify: %v\n%s", err, out)
	}
	block, _ := pem.Decode(pair.Cert)
	s.cert = block.Bytes
	return s
}

// file is the name of the image's artifact of a kind.
func (s *site) file(t *testing.T, kind images.ArtifactKind) string {
	t.Helper()
	a, ok := readTestManifest(t, s.out).File(kind)
	if !ok {
		t.Fatalf("the image has no %s", kind)
	}
	return filepath.Join(s.out, a.Name)
}

// TestVMSignedUKI boots the site's UKI where its key, and no other, is enrolled: over the network by UEFI
// HTTP boot and from a stick. The same program by others is refused.
func TestVMSignedUKI(t *testing.T) {
	s := signedSite(t)
	t.Run("http", func(t *testing.T) {
		if r := s.muster("", "image", "publish", s.out, "--default"); r.status != 0 {
			t.Fatalf("muster image publish: %s", r.stderr)
		}
		g := s.join(t, vm.Config{Name: "uki-http", Firmware: vm.UEFI, Boot: vm.BootHTTP, SecureBoot: true, Cert: s.cert})
		var loader string
		for _, e := range s.stages(g) {
			switch e.Stage {
			case api.StageLoader:
				loader = e.Client + " " + e.Detail
			case api.StageScript, api.StageKernel:
				t.Errorf("the machine asked for %s", e.Stage)
			}
		}
		if want := "http " + filepath.Base(s.file(t, images.KindUKI)); loader != want {
			t.Errorf("the loader was %q, want %q", loader, want)
		}
	})
	stick := s.file(t, images.KindIMG)
	t.Run("stick", func(t *testing.T) {
		onlyLong(t)
		s.join(t, vm.Config{Name: "uki-stick", Firmware: vm.UEFI, Boot: vm.BootUSB, USB: stick, SecureBoot: true, Cert: s.cert})
	})
	t.Run("disk without Secure Boot", func(t *testing.T) {
		onlyLong(t)
		s.join(t, vm.Config{Name: "uki-disk", Firmware: vm.UEFI, Boot: vm.BootDisk, Disk: stick})
	})
	for name, change := range map[string]func(t *testing.T, program []byte) []byte{
		"not signed": func(t *testing.T, program []byte) []byte {
			im, err := uki.Parse(program)
			if err != nil {
				t.Fatal(err)
			}
			return im.Unsigned()
		},
		"signed by a stranger": func(t *testing.T, program []byte) []byte {
			pair := ukitest.NewPair(t, "a stranger", 2048, false)
			signer, err := uki.NewSigner("key", pair.Key, "cert", pair.Cert)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := uki.Sign(program, signer)
			if err != nil {
				t.Fatal(err)
			}
			return signed
		},
		"one bit of the kernel": func(t *testing.T, program []byte) []byte {
			im, err := uki.Parse(program)
			if err != nil {
				t.Fatal(err)
			}
			kernel, ok := im.Section(".linux")
			if !ok {
				t.Fatal("the UKI has no kernel")
			}
			program[int(kernel.Offset)+len(kernel.Data)/2] ^= 1
			return program
		},
	} {
		t.Run(name, func(t *testing.T) {
			onlyLong(t)
			changed := replaceProgram(t, stick, s.file(t, images.KindUKI), change)
			refused(t, s.cluster, vm.Config{Name: "refused", Firmware: vm.UEFI, Boot: vm.BootUSB, USB: changed, SecureBoot: true, Cert: s.cert},
				`BdsDxe: failed to load .*: (Access Denied|Security Violation)`)
		})
	}
}

func onlyLong(t *testing.T) {
	t.Helper()
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: the signed UKI from a stick and a disk, and what is refused")
	}
}

// join boots a machine to the output of a job.
func (s *site) join(t *testing.T, cfg vm.Config) *guest {
	t.Helper()
	outer := s.t
	s.t = t
	defer func() { s.t = outer }()
	g := s.boot(cfg, nil)
	node := s.ready(g)
	if node.Software.Medium != "uki" {
		t.Errorf("the node says that it was booted from %q, want uki", node.Software.Medium)
	}
	command, want := []string{"hostname"}, node.Name
	if cfg.SecureBoot {
		command, want = []string{"cat", "/sys/kernel/security/lockdown"}, "[integrity]"
	}
	if r := s.muster("", append([]string{"run", "--on", node.Name, "--"}, command...)...); !strings.Contains(r.stdout, want) || r.status != 0 {
		t.Errorf("muster run %s = %q, status %d (%s), want %q", strings.Join(command, " "), r.stdout, r.status, r.stderr, want)
	}
	g.Kill()
	return g
}

// refused boots a machine until it says that it does not start what it was given.
func refused(t *testing.T, c *cluster, cfg vm.Config, says string) {
	t.Helper()
	outer := c.t
	c.t = t
	defer func() { c.t = outer }()
	g := c.boot(cfg, nil)
	defer g.Kill()
	line, err := g.WaitFor(t.Context(), regexp.MustCompile(says+`|EFI stub:|Linux version|muster: state`))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(says).MatchString(line) {
		t.Errorf("the machine says %q, want %s: it started what it should not", line, says)
	}
}

// replaceProgram returns a copy of the stick with another program, which is not longer.
func replaceProgram(t *testing.T, stick, program string, change func(*testing.T, []byte) []byte) string {
	t.Helper()
	disk, err := os.ReadFile(stick)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(disk, old)
	if at < 0 {
		t.Fatal("the program is not on the stick in one piece")
	}
	fresh := change(t, bytes.Clone(old))
	if len(fresh) > (len(old)+511)/512*512 {
		t.Fatalf("the program has %d bytes, there is room for %d", len(fresh), len(old))
	}
	copy(disk[at:], make([]byte, len(old)))
	copy(disk[at:], fresh)
	name := filepath.Join(t.TempDir(), "changed.img")
	if err := os.WriteFile(name, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestVMChangedKernelIsRefused boots an ISO file with one other bit in its kernel, where Secure Boot is on with
// Microsoft's keys.
func TestVMChangedKernelIsRefused(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: boots a medium whose kernel was changed")
	}
	if err := vm.InstalledSecureBoot(); err != nil {
		need.Missing(t, "%v", err)
	}
	c := startCluster(t, "--dhcp=full")
	m := readTestManifest(t, c.image)
	iso, ok := m.File(images.KindISO)
	if !ok {
		t.Fatal("the image has no ISO file")
	}
	medium, err := os.ReadFile(filepath.Join(c.image, iso.Name))
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile(filepath.Join(c.image, "vmlinuz"))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(medium, kernel)
	if at < 0 {
		t.Fatal("the kernel is not on the medium")
	}
	medium[at+len(kernel)/2] ^= 1
	name := filepath.Join(t.TempDir(), "changed.iso")
	if err := os.WriteFile(name, medium, 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, c, vm.Config{Name: "changed-kernel", Firmware: vm.UEFI, Boot: vm.BootCD, CDROM: name, SecureBoot: true}, `bad shim signature`)
}
