package builder

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"muster/builder/uki"
	"muster/builder/uki/ukitest"
)

// bootableKernel is a UEFI program that says its release, signed by s or by nobody.
func bootableKernel(t *testing.T, s *uki.Signer) []byte {
	t.Helper()
	b := ukitest.Stub()
	copy(b[headerMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[headerVersion:], 0x100)
	copy(b[0x300:], newKernel+" (builder@host)\x00")
	if s == nil {
		return b
	}
	b, err := uki.Sign(b, s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVerifyLoose reads files of an image that have no manifest beside them.
func TestVerifyLoose(t *testing.T) {
	cfg := testConfig(t, userlandArchive(t), testDefinition+packageList)
	m := mustBuild(t, cfg)
	file := func(name string) []byte { return readBytes(t, filepath.Join(cfg.Out, name)) }
	half := func(b []byte) []byte { return b[:len(b)/2] }
	flip := func(b []byte, at int) []byte { b = bytes.Clone(b); b[at] ^= 1; return b }
	signed := bootableKernel(t, testSigner(t, "site"))
	for name, c := range map[string]struct {
		b       []byte
		what    string // "": it is refused
		against string
		err     string
	}{
		"initramfs":            {file("initramfs.zst"), "initramfs of image " + m.ID[:12], againstList, ""},
		"initramfs, truncated": {half(file("initramfs.zst")), "", "", "reading initramfs"},
		"userland":             {file("userland.sqfs"), "squashfs, ", "", ""},
		"userland, truncated":  {half(half(file("userland.sqfs"))), "", "", "damaged squashfs"},
		"lock":                 {file("lock.json"), "lock of ", "", ""},
		"lock, truncated":      {half(file("lock.json")), "", "", "unexpected EOF"},
		"kernel":               {bootableKernel(t, nil), "kernel " + newKernel + ", not signed", "", ""},
		"kernel, signed":       {signed, "kernel " + newKernel + ", signed by CN=site", againstSignature, ""},
		"kernel, changed":      {flip(signed, 0x400), "", "", "it is of other contents"},
		"kernel, truncated":    {half(signed), "", "", "is truncated"},
		"sources":              {file("SOURCES"), "", "", "are checked in the folder of their manifest.json"},
		"bill of materials":    {file("sbom.spdx.json"), "", "", "are checked in the folder of their manifest.json"},
		"a UEFI program":       {ukitest.Stub(), "", "", "is no UKI of muster"},
		"nothing":              {nil, "", "", "is empty"},
		"a byte":               {[]byte("{"), "", "", "is not an ISO file of muster"},
	} {
		t.Run(name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(name, c.b, 0o644); err != nil {
				t.Fatal(err)
			}
			checked, err := Verify(name)
			if c.what == "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), name) {
					t.Errorf("Verify() = %+v, %v; want %q of %s", checked, err, c.err, name)
				}
				return
			}
			if err != nil || len(checked) != 1 || !strings.HasPrefix(checked[0].What, c.what) || checked[0].Against != c.against {
				t.Errorf("Verify() = %+v, %v; want %q against %q", checked, err, c.what, c.against)
			}
		})
	}
}

// TestVerifyRelease finds a kernel whose modules are elsewhere.
func TestVerifyRelease(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	m := mustBuild(t, cfg)
	kernel := []byte(bzImage("6.1.0-other"))
	if err := os.WriteFile(filepath.Join(cfg.Out, "vmlinuz"), kernel, 0o644); err != nil {
		t.Fatal(err)
	}
	m.Artifacts[0].Size, m.Artifacts[0].SHA256 = int64(len(kernel)), hashBytes(kernel)
	if _, err := verifyArtifact(cfg.Out, m, m.Artifacts[0]); err == nil || !strings.Contains(err.Error(), "says that it is 6.1.0-other, the manifest is of "+newKernel) {
		t.Errorf("Verify of another kernel = %v", err)
	}
	m.Kernel = "6.1.0-other"
	if _, err := verifyArtifact(cfg.Out, m, m.Artifacts[0]); err != nil {
		t.Errorf("Verify of that kernel = %v", err)
	}
}

// TestVerifyPipe does not wait for somebody to write.
func TestVerifyPipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(name); err == nil || !strings.Contains(err.Error(), "is neither a file nor a folder nor a disk") {
		t.Errorf("Verify of a pipe = %v", err)
	}
}

// TestVerifyLock finds a lock beside an image that is not the one of the image.
func TestVerifyLock(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	mustBuild(t, cfg)
	lock := filepath.Join(cfg.Out, lockName)
	good := readBytes(t, lock)
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"as it was": {good, ""},
		"edited":    {bytes.Replace(good, []byte("ipxe"), []byte("ipxf"), 1), "is not the lock that this image was built from"},
		"truncated": {good[:len(good)/2], "unexpected EOF"},
	} {
		if err := os.WriteFile(lock, c.b, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{cfg.Out, lock} {
			checked, err := Verify(what)
			if c.want == "" && (err != nil || len(checked) == 0 || checked[len(checked)-1].Kind != kindLock) {
				t.Errorf("%s: Verify(%s) = %+v, %v; want the lock among what is right", name, what, checked, err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), lock+": "+c.want)) {
				t.Errorf("%s: Verify(%s) = %v, want %q of %s", name, what, err, c.want, lock)
			}
		}
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(cfg.Out); err != nil {
		t.Errorf("Verify of an image whose lock is elsewhere = %v", err)
	}
	if err := os.Remove(filepath.Join(cfg.Out, "vmlinuz")); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(cfg.Out); err == nil || !strings.Contains(err.Error(), "vmlinuz: is missing; the manifest lists it") {
		t.Errorf("Verify of an image without kernel = %v", err)
	}
}
