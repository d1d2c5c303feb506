package pxe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// golden compares got with a file in testdata; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

func TestScripts(t *testing.T) {
	at := newSite(addr("10.77.0.1"), 80, 7480)
	moved := newSite(addr("10.77.0.1"), 8080, 7480)
	m := Machine{MAC: testMAC, Arch: "amd64", UUID: "11223344-5566-7788-99aa-bbccddeeff00"}
	sum := strings.Repeat("ab", 32)
	boot := Boot{
		Kernel: BlobPath(sum, "vmlinuz"), Initramfs: BlobPath(sum, "initramfs.zst"),
		Cmdline: "console=ttyS0  muster.head={host}:7421\nquiet", HostName: "n1",
	}
	elsewhere := boot
	elsewhere.Kernel, elsewhere.Initramfs = "http://192.0.2.7/k", "http://192.0.2.7/i.img?x=1"
	elsewhere.HostName = ""
	for name, text := range map[string]string{
		"boot":      bootScript(at, m, boot),
		"elsewhere": bootScript(moved, Machine{MAC: testMAC}, elsewhere),
		"wait":      waitScript(at, m, "waiting for ${approval} || boot\n#!ipxe", 5*time.Second),
		"who":       whoScript(moved),
	} {
		golden(t, "script_"+name+".ipxe", text)
		if !strings.HasPrefix(text, "#!ipxe\n") || !strings.HasSuffix(text, " goto retry\n") {
			t.Errorf("%s: a script begins with its mark and ends in a loop:\n%s", name, text)
		}
	}
}

func TestFileName(t *testing.T) {
	for place, want := range map[string]string{
		"/blobs/ab/vmlinuz":           "vmlinuz",
		"http://h/x/initrd.img?mac=1": "initrd.img",
		"/a/we ird$name":              "we_ird_name",
		"":                            "",
		"/":                           "_",
	} {
		if got := fileName(place); got != want {
			t.Errorf("fileName(%q) = %q, want %q", place, got, want)
		}
	}
}
