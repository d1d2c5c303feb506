package images

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// withUserland is base with something for tasks to see.
const withUserland = base + "packages: [bash]\n"

// TestNewKeysErrors is about what is wrong in one definition, d.yaml.
func TestNewKeysErrors(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"newer":         {"schema: 2\n" + base, "d.yaml:1:1: schema 2 is newer than this program, which knows 1; update muster"},
		"keyboard":      {base + "site: {keyboard: de}\n", `d.yaml:5:8: there is no key "keyboard": a machine takes nothing from its keyboard but Ctrl-Alt-Del, so that it needs no layout`},
		"two kernels":   {strings.Replace(base, "{package", "{deb: ./x.deb, package", 1), "x.deb does not exist (it is looked for beside the definition)"},
		"file alone":    {strings.Replace(base, "package: linux-image-amd64", "file: ./d.yaml", 1), "d.yaml needs modules: the folder or archive that make modules_install INSTALL_MOD_PATH=FOLDER wrote, also where all is built in"},
		"modules alone": {strings.Replace(base, "{package", "{modules: ., package", 1), "kernel: modules are those of file; package brings its own"},
		"own kernel, no modules": {
			strings.Replace(base, "package: linux-image-amd64", "file: ./d.yaml, modules: ./nowhere", 1),
			"kernel: modules: stat ",
		},
		"options":          {base + "modules: {options: {e1000e: \" \"}}\n", "modules: options: e1000e (D/d.yaml:5:21): has no parameters; they are like InterruptThrottleRate=1"},
		"options' name":    {base + "modules: {options: {a b: c=1}}\n", "modules: options: a b (D/d.yaml:5:21): cannot be the name of a kernel module"},
		"options on lines": {base + "modules: {options: {a: \"b=1\\nc\"}}\n", "has characters other than printable ASCII, or a backslash"},

		"group without number": {base + "groups: [{name: a}]\n", "groups: a (D/d.yaml:5:10): gid is missing; file servers know accounts by number"},
		"user without number":  {base + "users: [{name: a}]\n", "users: a (D/d.yaml:5:9): uid is missing; file servers know accounts by number, so it has to be the same everywhere"},
		"user root":            {base + "users: [{name: root, uid: 1}]\n", "users: root (D/d.yaml:5:9): every image has root already"},
		"uid 0":                {base + "users: [{name: a, uid: 0}]\n", "uid 0 cannot be given away"},
		"uid below 0":          {base + "users: [{name: a, uid: -1}]\n", "d.yaml:5:24: "},
		"uid -1":               {base + "users: [{name: a, uid: 4294967295}]\n", "uid 4294967295 cannot be given away"},
		"user twice":           {base + "users:\n- {name: a, uid: 5}\n- {name: a, uid: 6}\n", "users: a is at D/d.yaml:6:3 and at D/d.yaml:7:3; leave one out, or say replace: true"},
		"uid twice":            {base + "users:\n- {name: a, uid: 5}\n- name: b\n  uid: 5\n", "users: b (D/d.yaml:7:3): uid 5 is also that of users: a (D/d.yaml:6:3)"},
		"gid twice":            {base + "groups:\n- {name: a, gid: 5}\n- {name: b, gid: 5}\n", "groups: b (D/d.yaml:7:3): gid 5 is also that of groups: a (D/d.yaml:6:3)"},
		"user's name":          {base + "users: [{name: Ada L, uid: 5}]\n", "the name has to be lower case letters, digits, _ and -"},
		"home":                 {base + "users: [{name: a, uid: 5, home: home/a}]\n", `home "home/a" has to be absolute and without . or .. in it`},
		"comment":              {base + "users: [{name: a, uid: 5, comment: 'x:y'}]\n", `comment "x:y" cannot have a colon or control characters`},
		"a password":           {base + "users: [{name: a, uid: 5, password: x}]\n", `unknown key "password" (it may be of a newer muster); known here are: comment, gid, groups, home, name, replace, shell, uid`},

		"sysctl's name":   {base + "sysctls: {swappiness: 10}\n", `d.yaml:5:11: sysctls: "swappiness" cannot be the name of a setting; it is like vm.swappiness`},
		"sysctl climbs":   {base + "sysctls: {vm/../kernel/panic: 10}\n", "cannot be the name of a setting"},
		"sysctl twice":    {base + "sysctls:\n  net.ipv4.ip_forward: 1\n  net/ipv4/ip_forward: 1\n", "D/d.yaml:7:3: sysctls: net/ipv4/ip_forward is the same as at D/d.yaml:6:3"},
		"sysctl list":     {base + "sysctls: {vm.swappiness: [1]}\n", `d.yaml:5:26: value "[1]" is not a single number or text`},
		"sysctl on lines": {base + "sysctls: {kernel.core_pattern: \"a\\nb\"}\n", "sysctls: kernel.core_pattern (D/d.yaml:5:11): the value has to be one line of printable ASCII"},
		"muster's sysctl": {base + "sysctls: {kernel.hostname: x}\n", "sysctls: kernel.hostname (D/d.yaml:5:11) belongs to muster: a node has the name that the head gives it"},
		"long sysctl":     {base + "sysctls: {vm.swappiness: {valu: 1}}\n", "a setting is NAME: VALUE, or NAME: {value: VALUE, replace: true}"},

		"service without command": {base + "services: [{name: x}]\n", "services: x (D/d.yaml:5:12): command is missing"},
		"service twice":           {base + "services:\n- {name: x, command: a}\n- {name: x, command: b}\n", "services: x is at D/d.yaml:6:3 and at D/d.yaml:7:3; leave one out"},
		"service's name":          {base + "services: [{name: a/b, command: x}]\n", "services: a/b (D/d.yaml:5:12): the name has to be"},
		"empty command":           {base + "services: [{name: x, command: []}]\n", "d.yaml:5:31: a command is a list of words such as [/usr/sbin/ntpd, -n], or one line for /bin/sh"},
		"relative command":        {base + "services: [{name: x, command: [./a]}]\n", `services: x (D/d.yaml:5:12): command: "./a" is looked for below no folder; give the whole path, or a name alone`},
		"restart":                 {base + "services: [{name: x, command: a, restart: sometimes}]\n", `services: x (D/d.yaml:5:12): restart is "sometimes"; it can be: always, on-failure, never`},
		"every":                   {base + "services: [{name: x, command: a, every: 10}]\n", `d.yaml:5:41: "10" is no time from 100ms to 24h, such as 10s`},
		"every of nothing":        {base + "services: [{name: x, command: a, every: 10s}]\n", "services: x (D/d.yaml:5:12): there is every, but no check that it could be of"},
		"service in both":         {base + "services: [{name: x, command: a, in: both}]\n", "a service runs in one place; give userland or initramfs"},
		"service in none":         {base + "services: [{name: x, command: a, in: userland}]\n", "services: x (D/d.yaml:5:12): in: userland: this image has no userland"},
		"no such place":           {base + "files: [{path: /x, in: user}]\n", `d.yaml:5:24: in: there is no place "user"; there are: initramfs, userland, both`},

		"file in none":         {base + "files: [{path: /x, in: userland}]\n", "files: /x (D/d.yaml:5:9): in: userland: this image has no userland; give packages, or leave it out"},
		"file twice":           {base + "files:\n- {path: /x, content: a}\n- {path: /x, content: b}\n", "files: /x is there twice: in a file (D/d.yaml:6:3) and in a file (D/d.yaml:7:3); leave one out, or say replace: true at the second"},
		"reserved in userland": {withUserland + "files: [{path: /tmp/x, in: userland}]\n", "files: /tmp/x belongs to muster"},
		"folder and archive":   {base + "files: [{from: ., tar: x, to: /}]\n", "has from and tar; give one of them"},
		"to alone":             {base + "files: [{to: /}]\n", "files (D/d.yaml:5:9): to / is of a folder (from) or an archive (tar); a single file has a path"},
		"folder with path":     {base + "files: [{from: ., path: /x}]\n", "cannot have path, content or source as well; the folder of the image is given by to"},
		"folder with mode":     {base + "files: [{from: ., to: /, mode: 0600}]\n", "cannot have a mode: a folder's files are 0755 where their owner can execute them and else 0644"},
		"folder to nowhere":    {base + "files: [{from: .}]\n", "to is missing: the folder of the image that it goes to, such as /opt/x, or /"},
		"folder to outside":    {base + "files: [{from: ., to: ../x}]\n", `to "../x" has to be a folder of the image`},
		"no such folder":       {base + "files: [{from: ./nowhere, to: /}]\n", "files: lstat D/nowhere: no such file or directory"},
		"file as folder":       {base + "files: [{from: ./d.yaml, to: /}]\n", "D/d.yaml is no folder; a single file is given by path and source"},
		"no archive":           {base + "files: [{tar: ./d.yaml, to: /}]\n", "files: reading archive D/d.yaml: "},
		"folder over muster's": {base + "files: [{from: ., to: /etc/muster/files}]\n", ""},
		"folder over modules":  {base + "files: [{from: ., to: /lib/modules}]\n", "files: /lib/modules/d.yaml of folder D (D/d.yaml:5:9) belongs to muster"},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, "d.yaml", c.text)
			_, err := Load(file)
			want := strings.ReplaceAll(c.want, "D/", filepath.Dir(file)+"/")
			want = strings.ReplaceAll(want, "folder D ", "folder "+filepath.Dir(file)+" ")
			if got := errorText(err); !strings.Contains(got, want) || err == nil && want != "" {
				t.Errorf("Load() = %s\nwant it to contain %s", got, want)
			}
		})
	}
}

// TestInheritedConflicts are items that base.yaml and child.yaml both have.
func TestInheritedConflicts(t *testing.T) {
	dir := writeAll(t, map[string]string{
		"base.yaml": withUserland + `
groups:
- {name: hpc, gid: 10}
users:
- {name: ada, uid: 20}
sysctls:
  vm.swappiness: 010
services:
- {name: one, command: [a]}
- {name: two, command: [b]}
`,
		"child.yaml": `
from: ./base.yaml
groups:
- {name: hpc, gid: 11}
users:
- {name: ada, uid: 21}
sysctls:
  vm/swappiness: 60
services:
- {name: one, command: [c]}
`,
		"good.yaml": `
from: ./base.yaml
groups:
- {name: hpc, gid: 11, replace: true}
users:
- {name: ada, uid: 21, replace: true}
sysctls:
  vm/swappiness: {value: 60, replace: true}
services:
- {name: one, command: [c], replace: true}
`,
	})
	_, err := Load(filepath.Join(dir, "child.yaml"))
	for _, want := range []string{
		"groups: hpc is at D/base.yaml:8:3 and at D/child.yaml:4:3; leave one out, or say replace: true",
		"users: ada is at D/base.yaml:10:3 and at D/child.yaml:6:3",
		`sysctls: vm.swappiness is at D/base.yaml:12:3 and at D/child.yaml:8:3; leave one out, or write vm.swappiness: {value: "60", replace: true}`,
		"services: one is at D/base.yaml:14:3 and at D/child.yaml:10:3",
	} {
		if want = strings.ReplaceAll(want, "D/", dir+"/"); !strings.Contains(errorText(err), want) {
			t.Errorf("Load() = %v\nwant it to contain %s", err, want)
		}
	}
	d, err := Load(filepath.Join(dir, "good.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got := d.Node()
	want := Node{Sysctls: []NodeSysctl{{"vm.swappiness", "60"}}, Services: []NodeService{
		{Name: "two", Command: []string{"b"}, Every: 10, Timeout: 10, Restart: RestartAlways, In: InUserland},
		{Name: "one", Command: []string{"c"}, Every: 10, Timeout: 10, Restart: RestartAlways, In: InUserland},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Node() (-want +got):\n%s", diff)
	}
	if len(d.Users) != 1 || *d.Users[0].UID != 21 || len(d.Groups) != 1 || *d.Groups[0].GID != 11 {
		t.Errorf("users %+v, groups %+v", d.Users, d.Groups)
	}
}

func TestValuesAsWritten(t *testing.T) {
	d, err := Load(write(t, "d.yaml", base+`
sysctls:
  a.b: 010
  a.c: "1 2\t3"
  a.d: |
    4096 87380 6291456
  a.e:
    value: 1
  net/ipv4/conf/eth0.1/rp_filter: 0x1
modules: {options: {loop: "max_loop=64"}}
services:
- {name: line, command: echo hello, check: "test -e /run/x", every: 1m, timeout: 500ms, restart: on-failure, required: true}
- name: words
  command: [/bin/x, -n, 010, "a b"]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Node{
		Sysctls: []NodeSysctl{{"a.b", "010"}, {"a.c", "1 2\t3"}, {"a.d", "4096 87380 6291456"}, {"a.e", "1"}, {"net.ipv4.conf.eth0/1.rp_filter", "0x1"}},
		Services: []NodeService{
			{Name: "line", Command: []string{"/bin/sh", "-c", "echo hello"}, Check: []string{"/bin/sh", "-c", "test -e /run/x"}, Every: 60, Timeout: 0.5, Restart: RestartOnFailure, In: InInitramfs, Required: true},
			{Name: "words", Command: []string{"/bin/x", "-n", "010", "a b"}, Every: 10, Timeout: 10, Restart: RestartAlways, In: InInitramfs},
		},
	}
	if diff := cmp.Diff(want, d.Node()); diff != "" {
		t.Errorf("Node() (-want +got):\n%s", diff)
	}
}

func TestPlaces(t *testing.T) {
	file, tree := &File{Path: "/x"}, &File{From: "x", To: "/"}
	with, without := &Definition{Packages: []string{"bash"}}, &Definition{}
	for _, c := range []struct {
		d    *Definition
		f    *File
		want string
	}{
		{with, file, "initramfs userland"},
		{with, tree, "userland"},
		{without, file, "initramfs"},
		{without, tree, "initramfs"},
		{with, &File{Path: "/x", In: InUserland}, "userland"},
		{with, &File{From: "x", To: "/", In: InBoth}, "initramfs userland"},
		{with, &File{From: "x", To: "/", In: InInitramfs}, "initramfs"},
	} {
		var got []string
		for _, p := range c.d.PlacesOf(c.f) {
			got = append(got, string(p))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("PlacesOf(%+v) = %v, want %s", c.f, got, c.want)
		}
	}
}

// strange are names that a folder may have; the last one is no UTF-8.
var strange = []string{"with space", "with\nnewline", `with\backslash`, "ümlaut", "latin-\xfc"}

// TestTreesAreTheSame compares a folder with archives of it, and with itself under other
// modes, times and owners.
func TestTreesAreTheSame(t *testing.T) {
	var sums []string
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	folders := []string{t.TempDir(), t.TempDir()}
	for i, dir := range folders {
		names := append([]string{"sub/exec"}, strange...)
		if i == 1 {
			for l, r := 0, len(names)-1; l < r; l, r = l+1, r-1 {
				names[l], names[r] = names[r], names[l]
			}
		}
		if err := os.Mkdir(filepath.Join(dir, "sub"), []os.FileMode{0o755, 0o700}[i]); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			mode := []os.FileMode{0o644, 0o600}[i]
			if name == "sub/exec" {
				mode = []os.FileMode{0o755, 0o700}[i]
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(name), mode); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("/anywhere", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []tar.Header{{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700}, {Name: "./sub/exec", Mode: 0o755, Uid: 7}, {Name: "./sub/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/anywhere", Mode: 0o777}} {
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len("sub/exec"))
		}
		writeHeader(t, w, h, "sub/exec")
	}
	for _, name := range strange {
		writeHeader(t, w, tar.Header{Name: name, Mode: 0o644, Size: int64(len(name)), Typeflag: tar.TypeReg, Format: tar.FormatGNU}, name)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	archive := write(t, "x.tar", packed.String())
	for _, f := range []*File{{From: folders[0], To: "/"}, {From: folders[1], To: "/"}, {Tar: archive, To: "/"}} {
		if err := f.readTree(); err != nil {
			t.Fatal(err)
		}
		if len(f.Entries) != 3+len(strange) {
			t.Errorf("%s has %d entries: %+v", f.origin(), len(f.Entries), f.Entries)
		}
		sums = append(sums, f.SHA256)
	}
	if sums[0] != sums[1] || sums[0] != sums[2] {
		t.Errorf("the trees differ: %v", sums)
	}
}

func writeHeader(t *testing.T, w *tar.Writer, h tar.Header, data string) {
	t.Helper()
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if h.Typeflag == tar.TypeReg {
		if _, err := w.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTreeErrors(t *testing.T) {
	reg := func(name string) tar.Header { return tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg} }
	for name, c := range map[string]struct {
		headers []tar.Header
		want    string
	}{
		"climbs":       {[]tar.Header{reg("a/../../x")}, `"a/../../x" leads out of the archive`},
		"twice":        {[]tar.Header{reg("a"), reg("./a")}, `has "a" twice`},
		"device":       {[]tar.Header{{Name: "null", Typeflag: tar.TypeChar}}, `"null" is neither file nor folder nor link; an image has no others`},
		"lost link":    {[]tar.Header{{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}}, `"a" is a hard link to "b", which is no file of it`},
		"below a file": {[]tar.Header{reg("a"), reg("a/b")}, `"a/b" is below "a", which is a file`},
		"below a link": {[]tar.Header{{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, reg("a/b")}, `"a/b" is below "a", which is a symlink`},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range c.headers {
				writeHeader(t, w, h, "")
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			f := &File{Tar: write(t, "x.tar", b.String()), To: "/"}
			if err := f.readTree(); !strings.Contains(errorText(err), c.want) {
				t.Errorf("readTree() = %v, want %s", err, c.want)
			}
		})
	}
}

// A conflict between two trees, or a tree and a file, names both.
func TestTreeConflicts(t *testing.T) {
	dir := t.TempDir()
	text := base + "files:\n- {from: ./t, to: /a}\n- {path: /a/one}\n"
	if err := os.MkdirAll(filepath.Join(dir, "t"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"t/one": "1", "t/key": "-----BEGIN PRIVATE KEY-----\n", "e.yaml": text, "f.yaml": base + "files:\n- {from: ./t, to: /a, public: true}\n- {path: /a/one, replace: true}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load(filepath.Join(dir, "e.yaml"))
	if want := "files: /a/key of folder " + dir + "/t (" + dir + "/e.yaml:6:3) holds a private key (PRIVATE KEY)"; !strings.Contains(errorText(err), want) {
		t.Errorf("Load() = %v\nwant %s", err, want)
	}
	if _, err := Load(filepath.Join(dir, "f.yaml")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "t/key")); err != nil {
		t.Fatal(err)
	}
	_, err = Load(filepath.Join(dir, "e.yaml"))
	if want := "files: /a/one is there twice: in folder " + dir + "/t (" + dir + "/e.yaml:6:3) and in a file (" + dir + "/e.yaml:7:3); leave one out"; !strings.Contains(errorText(err), want) {
		t.Errorf("Load() = %v\nwant %s", err, want)
	}
}
