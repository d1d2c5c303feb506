package images

import (
	"crypto/ed25519"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestShippedDefinitionsAreGood(t *testing.T) {
	for _, name := range Shipped() {
		d, err := Load(name)
		if err != nil {
			t.Fatalf("Load(%s): %v", name, err)
		}
		if d.Name != name || d.From != "" {
			t.Errorf("Load(%s) has name %q and from %q, want the name and no from", name, d.Name, d.From)
		}
	}
}

func TestComputeVMInherits(t *testing.T) {
	d, err := Load("compute-vm")
	if err != nil {
		t.Fatal(err)
	}
	if d.Suite != "trixie" || d.Kernel.Package != "linux-image-cloud-amd64" || len(d.Firmware) != 0 {
		t.Errorf("compute-vm is %+v; want suite of compute, its own kernel and no firmware", d)
	}
}

// base is what a definition needs to be whole.
const base = "name: x\narch: amd64\nsuite: trixie\nkernel: {package: linux-image-amd64}\n"

func TestParseErrors(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":      {"name: x\nkernal: y\n", `d.yaml:2:1: unknown key "kernal" (did you mean "kernel"?); known here are: arch, commands, files, firmware, from, go-commands, groups, kernel, keyring, media, mirror, modules, name, packages, schema, services, site, suite, sysctls, userland, userland-in, users`},
		"unknown deep key": {"kernel:\n  pakage: y\n", `d.yaml:2:3: unknown key "pakage" (did you mean "package"?); known here are: cmdline, deb, file, modules, package`},
		"unknown in list":  {"files:\n- path: /x\n  contnet: y\n", `d.yaml:3:3: unknown key "contnet" (did you mean "content"?); known here are: content, from, in, mode, owner, path, public, replace, source, tar, to`},
		"nothing alike":    {"xyzzy: 1\n", `d.yaml:1:1: unknown key "xyzzy" (it may be of a newer muster); known here are: arch, commands, files, firmware, from, go-commands, groups, kernel, keyring, media, mirror, modules, name, packages, schema, services, site, suite, sysctls, userland, userland-in, users`},
		"twice":            {"name: x\nname: y\n", `d.yaml:2:1: mapping key "name" already defined at [1:1]`},
		"wrong type":       {"packages: x\n", "d.yaml:1:11: string was used where sequence is expected"},
		"not YAML":         {"a: [\n", "d.yaml:1:4: sequence end token ']' not found"},
		"empty":            {"# nothing\n", "d.yaml: is empty; a definition has at least a name and a from"},
		"a list":           {"- a\n", "d.yaml:1:1: sequence was used where mapping is expected"},
		"two documents":    {"name: a\n---\nname: b\n", "d.yaml: has 2 YAML documents; a definition is one"},
		"bad mode":         {"files:\n- path: /x\n  mode: 0888\n", "d.yaml:3:9: mode 0888 is not an octal number from 0 to 7777, such as 0644"},
		"bad owner":        {"files:\n- path: /x\n  owner: www-data\n", `d.yaml:3:10: owner www-data: "www-data" is neither a number nor root; give its number`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("d.yaml", []byte(c.text))
			if got := errorText(err); got != c.want {
				t.Errorf("Parse() = %s\nwant     %s", got, c.want)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

func TestCheckErrors(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"arch":          {strings.Replace(base, "amd64", "arm64", 1), "arch: arm64 images cannot be built"},
		"suite":         {strings.Replace(base, "trixie", "trixy", 1), `suite: suite "trixy" is not known (did you mean "trixie"?)`},
		"no kernel":     {"name: x\narch: amd64\nsuite: trixie\n", "kernel: package is missing"},
		"no arch":       {"name: x\n", "arch: is missing"},
		"bad name":      {strings.Replace(base, "name: x", "name: X/y", 1), `name: "X/y" has to be`},
		"module group":  {base + "modules: {groups: [ethernt]}\n", `modules: groups: there is no group "ethernt" (did you mean "ethernet"?)`},
		"module rest":   {base + "modules: {rest: fecth}\n", `modules: rest: "fecth" (did you mean "fetch"?); can be: fetch, none`},
		"rest alone":    {base + "modules: {rest: fetch}\n", "modules: rest: fetch needs a userland"},
		"module name":   {base + "modules: {names: [../x]}\n", `modules: names: "../x" cannot be`},
		"firmware":      {base + "firmware: [realtec]\n", `firmware: there is no group "realtec" (did you mean "realtek"?)`},
		"mirror":        {base + "mirror: ftp://x\n", `mirror: "ftp://x" is no http`},
		"package":       {base + "packages: [Open MPI]\n", `packages: "Open MPI" cannot be`},
		"go command":    {base + "go-commands: [example.com/tool]\n", "go-commands: example.com/tool needs a version (example.com/tool@v1.2.3)"},
		"relative path": {base + "files: [{path: etc/x}]\n", `files: path "etc/x" has to be absolute`},
		"climbing path": {base + "files: [{path: /etc/../init}]\n", `files: path "/etc/../init" has to be absolute and without`},
		"reserved":      {base + "files: [{path: /init}]\n", "files: /init belongs to muster"},
		"reserved deep": {base + "files: [{path: /lib/modules/x}]\n", "files: /lib/modules/x belongs to muster"},
		"twice":         {base + "files: [{path: /x}, {path: /x}]\n", "files: /x is there twice"},
		"both contents": {base + "files: [{path: /x, content: a, source: b}]\n", "file /x has content and source"},
		"no source":     {base + "files: [{path: /x, source: nowhere}]\n", "does not exist"},
		"cmdline":       {base + "kernel: x\n", "d.yaml:5:1: mapping key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(write(t, "d.yaml", c.text))
			if got := errorText(err); !strings.Contains(got, c.want) {
				t.Errorf("Load() = %s\nwant it to contain %s", got, c.want)
			}
		})
	}
}

// write writes a file to a new folder and returns its name.
func write(t *testing.T, name, text string) string {
	t.Helper()
	return filepath.Join(writeAll(t, map[string]string{name: text}), name)
}

// writeAll writes files to a new folder and returns its name.
func writeAll(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPrivateKeysAreRefused(t *testing.T) {
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data   string
		secret bool
	}{
		"PEM":         {"# mine\n-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n", true},
		"RSA":         {"-----BEGIN RSA PRIVATE KEY-----\n", true},
		"encrypted":   {"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", true},
		"OpenSSH":     {"-----BEGIN OPENSSH PRIVATE KEY-----\n", true},
		"OpenPGP":     {"-----BEGIN PGP PRIVATE KEY BLOCK-----\n", true},
		"PuTTY":       {"PuTTY-User-Key-File-3: ssh-ed25519\n", true},
		"DER":         {string(der), true},
		"public key":  {"-----BEGIN PUBLIC KEY-----\n", false},
		"certificate": {"-----BEGIN CERTIFICATE-----\n", false},
		"ssh public":  {"ssh-ed25519 AAAA me@x\n", false},
		"zero byte":   {"0 is where DER begins", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := File{Path: "/etc/key", Data: []byte(c.data)}
			if got := (&Definition{}).checkFile(&f, []Place{InInitramfs}) != nil; got != c.secret {
				t.Errorf("refused = %v, want %v", got, c.secret)
			}
			f.Public = true
			if err := (&Definition{}).checkFile(&f, []Place{InInitramfs}); err != nil {
				t.Errorf("with public: true: %v", err)
			}
		})
	}
}

func TestFromMerges(t *testing.T) {
	dir := writeAll(t, map[string]string{
		"base.yaml": `
name: x
arch: amd64
suite: trixie
kernel: {package: linux-image-amd64, cmdline: a b}
modules: {groups: [base, virtio], names: [nfs]}
commands: [ls, cat]
files:
- {path: /etc/one, content: base}
- {path: /etc/two, content: base}
`,
		"child.yaml": `
name: child
from: ./base.yaml
kernel: {cmdline: ... c}
modules: {groups: [..., ethernet]}
commands: []
firmware: [..., realtek]
files:
- {path: /etc/two, source: two.txt, mode: "0600", owner: 3:4}
`,
		"two.txt": "child",
	})
	got, err := Load(filepath.Join(dir, "child.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Definition{
		Name: "child", Arch: "amd64", Suite: "trixie",
		Kernel:   Kernel{Package: "linux-image-amd64", Cmdline: "a b c"},
		Modules:  Modules{Groups: []string{"base", "virtio", "ethernet"}, Names: []string{"nfs"}},
		Firmware: []string{"realtek"}, Commands: []string{},
		Files: []File{
			{Path: "/etc/one", Content: "base", Mode: 0o644, Data: []byte("base"), SHA256: hash("base")},
			{Path: "/etc/two", Source: filepath.Join(dir, "two.txt"), Mode: 0o600, Owner: Owner{3, 4}, Data: []byte("child"), SHA256: hash("child")},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Definition{}, "At"), cmpopts.IgnoreFields(File{}, "At")); diff != "" {
		t.Errorf("Load() differs (-want +got):\n%s", diff)
	}
}

func hash(s string) string {
	f := File{Content: s}
	if err := f.read(); err != nil {
		panic(err)
	}
	return f.SHA256
}

func TestFromErrors(t *testing.T) {
	dir := writeAll(t, map[string]string{
		"a.yaml":      "name: a\nfrom: ./b.yaml\n",
		"b.yaml":      "name: b\nfrom: a.yaml\n",
		"self.yaml":   "name: self\nfrom: ./self.yaml\n",
		"orphan.yaml": "name: orphan\nfrom: ./nosuch.yaml\n",
		"typo.yaml":   "name: typo\nfrom: compte\n",
	})
	for ref, want := range map[string]string{
		filepath.Join(dir, "a.yaml"):      "definitions inherit in a circle",
		filepath.Join(dir, "self.yaml"):   "definitions inherit in a circle",
		filepath.Join(dir, "orphan.yaml"): "nosuch.yaml: no such file or directory",
		filepath.Join(dir, "typo.yaml"):   `(did you mean "compute"?)`,
		"nosuch":                          `definition "nosuch" is not one of those that muster has (compute, compute-vm, mini); a file is named with a slash or by its ending, ./nosuch.yaml`,
		"./nosuch.yaml":                   "reading image definition: open nosuch.yaml: no such file or directory",
	} {
		if _, err := Load(ref); !strings.Contains(errorText(err), want) {
			t.Errorf("Load(%s) = %v\nwant it to contain %s", ref, err, want)
		}
	}
}

func TestHashIgnoresTheFolder(t *testing.T) {
	text := base + "files: [{path: /x, source: f}]\ngo-commands: [./tool]\n"
	var hashes []string
	for range 2 {
		file := write(t, "d.yaml", text)
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), "f"), []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Load(file)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, d.Hash())
	}
	if hashes[0] != hashes[1] {
		t.Errorf("the hash depends on the folder: %v", hashes)
	}
}

func TestHashSeesEverything(t *testing.T) {
	seen := map[string]string{}
	for name, more := range map[string]string{
		"nothing": "", "module": "modules: {names: [nfs]}\n", "group": "modules: {groups: [base]}\n", "firmware": "firmware: [realtek]\n",
		"command": "commands: [ls]\n", "package": "packages: [vim]\n", "rest": "modules: {rest: none}\n",
		"file": "files: [{path: /x}]\n", "content": "files: [{path: /x, content: y}]\n", "mode": "files: [{path: /x, mode: 0600}]\n",
		"owner": "files: [{path: /x, owner: 1}]\n",
	} {
		d, err := Load(write(t, "d.yaml", base+more))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if other, ok := seen[d.Hash()]; ok {
			t.Errorf("%s and %s have the same hash", name, other)
		}
		seen[d.Hash()] = name
	}
}

func TestKeyrings(t *testing.T) {
	for _, o := range []Origin{Debian, Ubuntu} {
		if len(Keyring(o)) == 0 {
			t.Errorf("there are no keys of %s", o)
		}
	}
	if k := Keyring("Elsewhere"); k != nil {
		t.Errorf("there are %d bytes of keys of Elsewhere", len(k))
	}
}

func TestNearest(t *testing.T) {
	names := []string{"ethernet", "ether", "virtio", "usb"}
	for word, want := range map[string][]string{
		"ethrenet": {"ethernet"}, "vritio": {"virtio"}, "usv": {"usb"}, "nothing": nil, "": nil,
	} {
		if diff := cmp.Diff(want, Nearest(word, names, 2)); diff != "" {
			t.Errorf("Nearest(%q) differs (-want +got):\n%s", word, diff)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{base, "name: x\nfrom: y\n", "files:\n- {path: /x, mode: 0644, owner: 1:2}\n", "a: &a [*a]\n", "<<: {name: x}\n", "? a\n: b\n", "kernel: [1]\n", "modules: ~\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse("d.yaml", data)
		if err != nil {
			if strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("the error has several lines: %v", err)
			}
			return
		}
		d = merge(&Definition{}, d)
		if err := d.Check(); err == nil && d.Hash() == "" {
			t.Error("a good definition has no hash")
		}
	})
}
