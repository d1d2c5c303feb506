package images

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testManifest(t testing.TB) (*Manifest, []byte) {
	t.Helper()
	id := strings.Repeat("a", 64)
	m := &Manifest{
		Schema: ManifestSchema, ID: id, RuntimeID: id, Name: "x", Arch: "amd64", Kernel: "6.12", Cmdline: "quiet",
		Time: time.Date(2026, 11, 21, 9, 15, 44, 0, time.UTC), LockHash: id,
		Artifacts: []Artifact{
			{Kind: KindKernel, Name: "vmlinuz", Size: 1, SHA256: id},
			{Kind: KindInitramfs, Name: "initramfs.zst", Size: 2, SHA256: id},
			{Kind: KindLoader, Name: "loaders/snponly.efi", Size: 3, SHA256: id, Client: "uefi", Arch: "amd64", Package: "ipxe 1"},
		},
		Packages: []Package{{Name: "ipxe", Version: "1", Source: "ipxe", SourceVersion: "1", SHA256: id}},
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return m, text
}

func TestParseManifest(t *testing.T) {
	want, text := testManifest(t)
	got, err := ParseManifest("m", text)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("ParseManifest(): %v (-want +got):\n%s", err, diff)
	}
	if a, ok := got.File(KindInitramfs); !ok || a.Size != 2 {
		t.Errorf("File(initramfs) = %+v, %v", a, ok)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown field":  {`"kernel":`, `"kernal":`, `manifest m: json: unknown field "kernal"`},
		"newer":          {`"schema": 1`, `"schema": 9`, "manifest m: format 9 is newer"},
		"no manifest":    {string(text), `{}`, "manifest m: has no schema"},
		"bad id":         {`"id": "a`, `"id": "/`, "manifest m: id "},
		"name":           {`"name": "x"`, `"name": "../x"`, `manifest m: name "../x"`},
		"climbing":       {"loaders/snponly.efi", "../../snponly.efi", `manifest m: artifact name "../../snponly.efi"`},
		"absolute":       {"loaders/snponly.efi", "/etc/passwd", `manifest m: artifact name "/etc/passwd"`},
		"not clean":      {"loaders/snponly.efi", "a/../../b", `manifest m: artifact name "a/../../b"`},
		"backslash":      {"loaders/snponly.efi", `a\\b`, `manifest m: artifact name "a\\b"`},
		"twice":          {"loaders/snponly.efi", "vmlinuz", "manifest m: artifact vmlinuz is there twice"},
		"size":           {`"size": 2`, `"size": 0`, "manifest m: artifact initramfs.zst: size is 0"},
		"no kernel":      {`"kind": "kernel"`, `"kind": "loader"`, "manifest m: has no kernel"},
		"newline in cmd": {`"quiet"`, `"quiet\nboot evil"`, "manifest m: kernel: cmdline has characters"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseManifest("m", []byte(strings.Replace(string(text), c.old, c.new, 1)))
			if got := errorText(err); !strings.HasPrefix(got, c.want) {
				t.Errorf("ParseManifest() = %s\nwant it to begin with %s", got, c.want)
			}
		})
	}
}

func FuzzParseManifest(f *testing.F) {
	_, text := testManifest(f)
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest("m", data)
		if err != nil {
			return
		}
		for _, a := range m.Artifacts {
			if strings.HasPrefix(a.Name, "/") || strings.Contains("/"+a.Name+"/", "/../") {
				t.Errorf("artifact name %q leaves its folder", a.Name)
			}
		}
	})
}
