package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"muster/api"
	"muster/images"
	"muster/internal/need"
	"muster/internal/vm"
)

// TestVMKexec boots machines from a medium that was written before the head's image: they go on with that image as the same
// node, or stay with the medium's and say why.
func TestVMKexec(t *testing.T) {
	long := os.Getenv("MUSTER_LONG") == "1"
	if err := vm.InstalledSecureBoot(); err != nil {
		need.Missing(t, "%v", err)
	}
	c := startCluster(t, "--dhcp=full")
	medium := c.personalized(t)
	newer := c.publishVariant(t, "newer", nil)
	for _, b := range []struct {
		name   string
		cfg    vm.Config
		secure bool
		long   bool
	}{
		{name: "bios", cfg: vm.Config{Firmware: vm.BIOS, Boot: vm.BootUSB, USB: medium}},
		{name: "secure-boot", cfg: vm.Config{Firmware: vm.UEFI, Boot: vm.BootCD, CDROM: medium, SecureBoot: true}, secure: true, long: true},
	} {
		t.Run(b.name, func(t *testing.T) {
			if b.long && !long {
				t.Skip("only in make test-vm: starts another image under Secure Boot")
			}
			c.during(t)
			b.cfg.Name = b.name
			g := c.boot(b.cfg, nil)
			c.checkKexec(t, g, newer)
			if b.secure {
				r := c.muster("", "run", "--on", c.waitState(g, api.NodeReady).Name, "--", "cat", "/sys/kernel/security/lockdown")
				if !strings.Contains(r.stdout, "[integrity]") {
					t.Errorf("lockdown is %q (%s), want integrity", r.stdout, r.stderr)
				}
			}
			g.Kill()
		})
	}
	for _, b := range []struct {
		name   string
		cfg    vm.Config
		damage func([]byte) []byte
		why    string
	}{
		{
			name: "garbage", cfg: vm.Config{Firmware: vm.BIOS, Boot: vm.BootUSB, USB: medium},
			damage: func(b []byte) []byte { return bytes.Repeat([]byte("no kernel "), 1000) }, why: "its kernel is none that can be started",
		},
		{
			name: "flipped-bit", cfg: vm.Config{Firmware: vm.UEFI, Boot: vm.BootCD, CDROM: medium, SecureBoot: true},
			damage: func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, why: "its kernel is not signed by a key that this machine trusts",
		},
	} {
		t.Run(b.name, func(t *testing.T) {
			if !long {
				t.Skip("only in make test-vm: an image that cannot be started")
			}
			c.during(t)
			bad := c.publishVariant(t, b.name, b.damage)
			b.cfg.Name = b.name
			g := c.boot(b.cfg, nil)
			n := c.ready(g)
			if n.Software.ImageID == bad.ID || n.Kexec == nil || n.Kexec.ImageID != bad.ID || !strings.Contains(n.Kexec.Error, b.why) {
				t.Errorf("the node runs %.12s and says %+v, want that %.12s was not started since %s", n.Software.ImageID, n.Kexec, bad.ID, b.why)
			}
			if _, err := g.WaitFor(t.Context(), regexp.MustCompile(`muster: problem the image that the head assigns was not started: .*`+regexp.QuoteMeta(b.why))); err != nil {
				t.Error(err)
			}
			if r := c.muster("", "run", "--on", n.Name, "hostname"); r.status != 0 || r.stdout != n.Name+"\n" {
				t.Errorf("muster run hostname = %q, status %d: %s", r.stdout, r.status, r.stderr)
			}
			if r := c.muster("", "node", "list"); !strings.Contains(r.stdout, b.why) {
				t.Errorf("muster node list does not say why:\n%s", r.stdout)
			}
			g.Kill()
		})
	}
}

// checkKexec approves a machine and checks that it comes up with another image as the same node.
func (c *cluster) checkKexec(t *testing.T, g *guest, want images.Manifest) {
	t.Helper()
	pending := c.waitState(g, api.NodePending)
	n := c.ready(g)
	if n.Software.ImageID != want.ID || n.Fingerprint != pending.Fingerprint || n.BootID == pending.BootID {
		t.Errorf("the node runs image %.12s with key %s in boot %s, want image %.12s, key %s and another boot than %s",
			n.Software.ImageID, n.Fingerprint, n.BootID, want.ID, pending.Fingerprint, pending.BootID)
	}
	if n.Software.Medium != "iso" || n.Kexec != nil {
		t.Errorf("the node says medium %q and kexec %+v", n.Software.Medium, n.Kexec)
	}
	r := c.muster("", "run", "--on", n.Name, "--", "cat", "/proc/cmdline")
	if !strings.Contains(r.stdout, "variant="+want.Name) || !strings.Contains(r.stdout, "muster.pin=") {
		t.Errorf("the command line is %q (%s)", r.stdout, r.stderr)
	}
	var steps []string
	var approved time.Time
	for _, e := range c.stages(g) {
		switch {
		case e.Stage == api.StageApproved && approved.IsZero():
			approved = e.Time
		case !approved.IsZero():
			t.Logf("%.1f s after the approval: %s %s", e.Time.Sub(approved).Seconds(), e.Stage, e.Detail)
		}
		if e.Stage == api.StageAgent || e.Stage == api.StagePending || e.Stage == api.StageReady ||
			e.Stage == api.StageKexec && strings.HasPrefix(e.Detail, "image ") {
			steps = append(steps, string(e.Stage))
		}
	}
	if got, want := strings.Join(steps, " "), "agent pending kexec agent ready"; got != want {
		t.Errorf("the timeline is %s, want %s: %+v", got, want, c.stages(g))
	}
	if n := strings.Count(g.ConsoleTail(10000), `room 12"; take it out if you like`); n < 2 {
		t.Errorf("the screen names the medium %d times, want it in both boots", n)
	}
}

// personalized is a copy of the image's ISO file that knows the head.
func (c *cluster) personalized(t *testing.T) string {
	t.Helper()
	iso, ok := readTestManifest(t, c.image).File(images.KindISO)
	if !ok {
		t.Fatal("the image has no ISO file")
	}
	status, err := c.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	medium := filepath.Join(t.TempDir(), "stick.img")
	copyFile(t, filepath.Join(c.image, iso.Name), medium)
	if r := c.muster("", "personalize", medium, "--head", "10.77.0.1", "--pin", status.Pin, "--label", "room 12"); r.status != 0 {
		t.Fatalf("muster personalize: %s", r.stderr)
	}
	return medium
}

// publishVariant publishes an image that differs from that of the tests in its ID, its command line and, where damage is
// not nil, its kernel, and makes it the default.
func (c *cluster) publishVariant(t *testing.T, name string, damage func([]byte) []byte) images.Manifest {
	t.Helper()
	m := readTestManifest(t, c.image).Netboot()
	sum := sha256.Sum256([]byte(name + m.ID))
	m.ID, m.Name = hex.EncodeToString(sum[:]), name
	m.Cmdline += " variant=" + name
	dir := t.TempDir()
	for i := range m.Artifacts {
		a := &m.Artifacts[i]
		data, err := os.ReadFile(filepath.Join(c.image, a.Name))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case a.Kind == images.KindInitramfs:
			data = append(append(data, make([]byte, -len(data)&3)...), idSegment(t, m.ID)...)
		case a.Kind == images.KindKernel && damage != nil:
			data = damage(data)
		}
		sum := sha256.Sum256(data)
		a.Size, a.SHA256 = int64(len(data)), hex.EncodeToString(sum[:])
		file := filepath.Join(dir, a.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(m)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "manifest.json"), raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r := c.muster("", "image", "publish", dir, "--default"); r.status != 0 {
		t.Fatalf("muster image publish: %s", r.stderr)
	}
	return *m
}

// idSegment is an initramfs segment that gives an image another ID.
func idSegment(t *testing.T, id string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	text := fmt.Sprintln(id)
	err := w.WriteHeader(&cpio.Header{Name: "etc/muster/image", Mode: cpio.TypeReg | 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
