package builder

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/builder/deb/debtest"
	"muster/builder/squashfs"
	"muster/images"
	"muster/initramfs"
	"muster/internal/need"
)

const (
	packageList = "\npackages: [tool]\n"
	gawkScript  = "#!/bin/sh\nset -e\nif [ \"$1\" = configure ]; then\n  update-alternatives --quiet --install /usr/bin/awk awk \\\n    /usr/bin/gawk 10 --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/gawk.1.gz \\\n    --slave /usr/bin/nawk nawk /usr/bin/gawk\nfi\n"
)

// userlandArchive is [testArchive] with packages of a userland.
func userlandArchive(t testing.TB, more ...debtest.Package) *debtest.Archive {
	t.Helper()
	a := testArchive(t)
	file := func(path, data string) debtest.File { return debtest.File{Path: path, Data: data} }
	packages := []debtest.Package{
		{Name: "base-files", Version: "13", Arch: "amd64", Fields: "Essential: yes\n", Files: []debtest.File{
			{Path: "bin", Link: "usr/bin"}, {Path: "var/run", Link: "/run"}, file("root/", ""),
		}},
		{Name: "base-passwd", Version: "3", Arch: "amd64", Fields: "Essential: yes\n", Files: []debtest.File{
			file("usr/share/base-passwd/passwd.master", "root:*:0:0:root:/root:/bin/bash\n"),
			file("usr/share/base-passwd/group.master", "root:*:0:\n"),
		}},
		{Name: "dash", Version: "1", Arch: "amd64", Fields: "Essential: yes\n", Files: []debtest.File{file("bin/dash", "dash")}},
		{Name: "tool", Version: "2", Arch: "amd64", Depends: "awk, ca-certificates", Fields: "Replaces: gawk (<< 3)\n", Files: []debtest.File{
			file("usr/bin/tool", "tool"), file("usr/bin/igawk", "of tool"),
			file("usr/share/doc/tool/copyright", "text"), file("usr/share/man/man1/tool.1", "text"), file("var/run/tool/", ""),
			file("usr/lib/sysusers.d/tool.conf", "u tool - \"a tool: yes\" /var/lib/tool\ng extra 55\n"),
			file("etc/tool.conf", "a conffile"),
		}},
		{Name: "gawk", Version: "1", Arch: "amd64", Fields: "Provides: awk\n", Scripts: map[string]string{"postinst": gawkScript}, Files: []debtest.File{
			file("usr/bin/gawk", "gawk"), file("usr/bin/igawk", "of gawk"),
		}},
		{Name: "ca-certificates", Version: "1", Arch: "all", Files: []debtest.File{
			file("usr/share/ca-certificates/mozilla/B.crt", "second\n\n"), file("usr/share/ca-certificates/mozilla/A.crt", "first"),
		}},
	}
	a.Publish(t, debtest.Suite{Name: "trixie-updates", Packages: append(packages, more...)})
	return a
}

// inUserland runs a script in the root of a mounted userland and returns what it prints.
func inUserland(t testing.TB, dir, script string) string {
	t.Helper()
	need.Root(t)
	unshare := need.Program(t, "unshare", "util-linux")
	cmd := exec.CommandContext(t.Context(), unshare, "-m", "sh", "-ec", `mount -t squashfs -o loop,ro "$1" "$2"; cd "$2"; `+script,
		"sh", filepath.Join(dir, "userland.sqfs"), t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestUserland(t *testing.T) {
	a := userlandArchive(t)
	cfg := testConfig(t, a, testDefinition+packageList)
	m := mustBuild(t, cfg)
	image, err := os.ReadFile(filepath.Join(cfg.Out, "userland.sqfs"))
	if err != nil {
		t.Fatal(err)
	}
	art, ok := m.File(images.KindUserland)
	if !ok || art.SHA256 != hashBytes(image) || !slices.Equal(art.ChunksSHA256, []string{hashBytes(image)}) {
		t.Errorf("the manifest says of the userland: %+v", art)
	}
	got := inUserland(t, cfg.Out, `find . ! -type d -printf '%p %m %l\n' | sort; find . -type d -printf '%p %m\n' | sort
for f in etc/passwd etc/group etc/ssl/certs/ca-certificates.crt usr/bin/igawk usr/lib/muster/init; do echo "== $f"; cat $f; done`)
	want, err := os.ReadFile("testdata/userland.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("userland differs from testdata/userland.txt:\n%s", diff)
	}

	other := testConfig(t, a, testDefinition+packageList)
	if again := mustBuild(t, other); again.ID != m.ID || again.RuntimeID != m.RuntimeID {
		t.Error("two builds have different IDs")
	}
	second, err := os.ReadFile(filepath.Join(other.Out, "userland.sqfs"))
	if err != nil || !bytes.Equal(image, second) {
		t.Errorf("two builds have different userlands: %v", err)
	}
	without := mustBuild(t, testConfig(t, a, testDefinition))
	if _, ok := without.File(images.KindUserland); ok || without.RuntimeID == m.RuntimeID {
		t.Errorf("without packages: userland is there %v, runtime ID %s", ok, without.RuntimeID)
	}
}

func TestUserlandErrors(t *testing.T) {
	thief := debtest.Package{Name: "thief", Version: "1", Arch: "all", Files: []debtest.File{{Path: "usr/bin/tool", Data: "other"}}}
	enemy := debtest.Package{Name: "enemy", Version: "1", Arch: "all", Fields: "Conflicts: awk\n"}
	for _, c := range []struct {
		packages, want string
		input          bool // wrong input, by which programs tell it from a failed fetch
	}{
		{"tool, thief", "/usr/bin/tool is in package thief 1 and in package tool 2", false},
		{"tool, enemy", "enemy 1 (asked for) and package gawk 1 (needed by tool) cannot be in one userland", true},
		{"toool", "package toool: there is no such package; like it are: tool", true},
		{"ipxe", "package ipxe of the userland is also used as loader", true},
	} {
		cfg := testConfig(t, userlandArchive(t, thief, enemy), testDefinition+"\npackages: ["+c.packages+"]\n")
		_, err := Build(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.packages, err, c.want)
		}
		if errors.Is(err, ErrInput) != c.input {
			t.Errorf("%s: %v is wrong input: %v, want %v", c.packages, err, !c.input, c.input)
		}
		if _, err := os.Stat(filepath.Join(cfg.Out, "manifest.json")); err == nil {
			t.Errorf("%s: a manifest was written", c.packages)
		}
	}
}

func TestChunkHashes(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 2*images.ChunkSize+1)
	got, err := chunkHashes(bytes.NewReader(data))
	one := hashBytes(data[:images.ChunkSize])
	if diff := cmp.Diff([]string{one, one, hashBytes([]byte("x"))}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func TestAlternativesIn(t *testing.T) {
	script := gawkScript + `
update-alternatives --install "/usr/bin/a" 'a' /usr/bin/a.x 50; # literal
update-alternatives --install /usr/lib/$arch/b b /usr/lib/b 5
update-alternatives --install /usr/bin/c c /usr/bin/c.x 7 --slave /m/$f f /m/g --slave /usr/bin/d d /usr/bin/d.x
update-alternatives --remove a /usr/bin/a.x
update-alternatives --install /usr/bin/x ../x /usr/bin/y 7
update-alternatives --install /usr/bin/e
`
	script += `
base=/usr/lib/jvm; tools='java keytool'
dir="$base/21" # of this version
level=21
[ -z "$2" ] || level=$(expr $level - 1)
for i in $tools; do
  update-alternatives --install /usr/bin/$i $i ${dir}/bin/$i $level $slave1
done
for j in *.x; do update-alternatives --install /usr/bin/$j $j /opt/$j 1; done
self=$self
update-alternatives --install /usr/bin/$self self /opt/$self 1
`
	want := []alternative{
		{"/usr/bin/awk", "awk", "/usr/bin/gawk", 10, [][3]string{
			{"/usr/share/man/man1/awk.1.gz", "awk.1.gz", "/usr/share/man/man1/gawk.1.gz"}, {"/usr/bin/nawk", "nawk", "/usr/bin/gawk"},
		}},
		{"/usr/bin/a", "a", "/usr/bin/a.x", 50, nil},
		{"/usr/bin/c", "c", "/usr/bin/c.x", 7, [][3]string{{"/usr/bin/d", "d", "/usr/bin/d.x"}}},
		{"/usr/bin/java", "java", "/usr/lib/jvm/21/bin/java", 21, nil},
		{"/usr/bin/keytool", "keytool", "/usr/lib/jvm/21/bin/keytool", 21, nil},
	}
	if diff := cmp.Diff(want, alternativesIn(script), cmp.AllowUnexported(alternative{})); diff != "" {
		t.Error(diff)
	}
}

func TestConfiguredIn(t *testing.T) {
	got := configuredIn(`#!/bin/sh
tmp=$(mktemp)
cat /usr/lib/R/etc/Renviron.ucf > "$tmp"
sed -i s/a/b/ "$tmp"
ucf "$tmp" /etc/R/Renviron
ucfr r-base-core /etc/R/Renviron
conf=site.conf
  if true; then ucf --three-way --debconf-ok /usr/share/tool/$conf /etc/tool/$conf; fi
ucf $(mktemp) /etc/a
ucf "$unknown" /etc/b
ucf /usr/share/c "$to"
echo ucf /usr/share/d /etc/d
`)
	want := map[string]string{"/etc/R/Renviron": "/usr/lib/R/etc/Renviron.ucf", "/etc/tool/site.conf": "/usr/share/tool/site.conf"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// keyStoreOf reads a key store of Java as its documentation says and returns the certificates.
func keyStoreOf(t *testing.T, store []byte) (certificates [][]byte) {
	t.Helper()
	if len(store) < 12+sha1.Size {
		t.Fatalf("%d bytes", len(store))
	}
	body, sum := store[:len(store)-sha1.Size], store[len(store)-sha1.Size:]
	h := sha1.New()
	io.WriteString(h, "\x00c\x00h\x00a\x00n\x00g\x00e\x00i\x00tMighty Aphrodite")
	h.Write(body)
	if !bytes.Equal(sum, h.Sum(nil)) || !bytes.HasPrefix(body, []byte{0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2}) {
		t.Errorf("the store does not begin and end as it has to: %x", store)
	}
	take := func(n int) []byte { b := body[:n]; body = body[n:]; return b }
	short := func() string { return string(take(int(binary.BigEndian.Uint16(take(2))))) }
	take(8)
	for range binary.BigEndian.Uint32(take(4)) {
		if kind := binary.BigEndian.Uint32(take(4)); kind != 2 {
			t.Errorf("an entry of kind %d", kind)
		}
		short()
		take(8)
		if kind := short(); kind != "X.509" {
			t.Errorf("a certificate of kind %s", kind)
		}
		certificates = append(certificates, take(int(binary.BigEndian.Uint32(take(4)))))
	}
	if len(body) > 0 {
		t.Errorf("%d bytes are left", len(body))
	}
	return certificates
}

func TestKeyStore(t *testing.T) {
	want := [][]byte{[]byte("one"), bytes.Repeat([]byte("x"), 70000)}
	if diff := cmp.Diff(want, keyStoreOf(t, keyStore(want, time.Unix(1, 0)))); diff != "" {
		t.Error(diff)
	}
}

// What R and Java need of their packages' scripts.
func TestConfiguredUserland(t *testing.T) {
	r := newRoot(time.Unix(1, 0), nil)
	r.scripts = []string{"ucf /usr/share/r/Renviron /etc/R/Renviron\nucf /usr/share/none /etc/none\nucf /usr/share/r/Renviron /etc/own\n"}
	pair := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("first")})
	for name, text := range map[string]string{
		"usr/share/r/Renviron": "R_LIBS=x\n", "etc/own": "own", "etc/default/cacerts": "",
		allCertificates: string(pair) + "# comment\n" + string(pair),
	} {
		if err := r.tree.AddBytes(name, 0o644, []byte(text), "test"); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(r.addConfigured(), r.addJavaKeys()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/R/Renviron": "R_LIBS=x\n", "etc/own": "own", "etc/none": ""} {
		if got, err := r.text(name); got != want || err != nil {
			t.Errorf("/%s is %q, %v; want %q", name, got, err, want)
		}
	}
	store, err := r.text(javaKeys)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]byte{[]byte("first"), []byte("first")}, keyStoreOf(t, []byte(store))); diff != "" {
		t.Error(diff)
	}
}

// A script whose loops are in each other is not unrolled without end.
func TestKnownLinesAreBounded(t *testing.T) {
	script, use := "", "echo"
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		script += "for " + name + " in 1 2 3 4 5 6 7 8 9\ndo\n"
		use += " $" + name
	}
	if got := knownLines(script + use + "\n"); len(got) > 2*maxUnrolled {
		t.Errorf("%d lines", len(got))
	}
}

func TestDeclared(t *testing.T) {
	users, groups := declared("root:x:0:0::/:/bin/sh\n", "root:x:0:\nhundred:x:100:\n", []string{
		"# comment", "", "g! fixed 42", "u\tzed\t-\t\"Zed: of all\"", "u! alpha 7 - /home/alpha /bin/sh", "m zed fixed", "u root - x", "g hundred -", "u bad%h -", "u",
	})
	if diff := cmp.Diff("root:x:0:0::/:/bin/sh\nalpha:x:7:7::/home/alpha:/bin/sh\nzed:x:101:101:Zed of all:/:/usr/sbin/nologin\n", users); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff("root:x:0:\nhundred:x:100:\nalpha:x:7:\nfixed:x:42:\nzed:x:101:\n", groups); diff != "" {
		t.Error(diff)
	}
}

func TestCompareLibraries(t *testing.T) {
	rising := []string{"", "liba.so", "libb.so.2", "libb.so.10", "libb1.so", "libb10.so"}
	for i, a := range rising {
		for j, b := range rising {
			if got := compareLibraries(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%q and %q: %d", a, b, got)
			}
		}
	}
}

// userlandScript runs what tasks use, chrooted.
const userlandScript = `mount -t proc proc proc; mount -t tmpfs tmpfs tmp; mount --bind /dev dev
chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin /bin/sh -ec '
python3 -c "print(6*7)"; perl -e "print 6*7, qq(\n)"; awk "BEGIN{print 6*7}"; echo 41 | sed s/1/2/
cd /tmp; echo 42 > a; for z in J z; do tar c -$z -f a.tar a; tar x -$z -O -f a.tar; done; tar c --zstd a | zstd -dc | tar xO
ps -o comm= -p $$; ip -V >/dev/null; criu --version; id -un; getent passwd nobody | cut -d: -f3
openssl x509 -in /usr/lib/ssl/cert.pem -noout; openssl verify -CAfile /usr/lib/ssl/cert.pem /usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt
ldconfig -p | head -1 | cut -d" " -f2-; locale -a | grep -c utf8
find / -xdev -xtype l; for f in /usr/bin/* /usr/sbin/* /usr/lib/x86_64-linux-gnu/*.so*; do ldd "$f" 2>/dev/null | grep "not found" || true; done
'`

// TestRealUserland builds a userland of Debian's packages, twice, and runs its
// programs.
func TestRealUserland(t *testing.T) {
	if os.Getenv("MUSTER_NET") == "" {
		t.Skip("only in make test-net: needs Debian's archive")
	}
	cache := t.TempDir()
	if dir := os.Getenv("MUSTER_TEST_CACHE"); dir != "" {
		cache = dir
	}
	def, err := images.Load("testdata/userland.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Definition: def, Out: filepath.Join(t.TempDir(), "out"), Cache: cache, Host: os.DirFS("/"),
		Agent: []byte("agent"), Init: []byte("init"),
	}
	cfg.Busybox, cfg.BusyboxInfo = payloadBusybox(t)
	m := mustBuild(t, cfg)
	art, _ := m.File(images.KindUserland)
	t.Logf("%d packages, userland of %d bytes", len(m.Packages), art.Size)
	if art.Size > 60e6 {
		t.Errorf("the userland has %d bytes, at most 60 MB are wanted", art.Size)
	}
	got := inUserland(t, cfg.Out, userlandScript)
	want := "42\n42\n42\n42\n42\n42\n42\nsh\nVersion: 4.1.1\nroot\n65534\n/usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt: OK\nlibs found in cache `/etc/ld.so.cache'\n1\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("programs say (-want +got):\n%s", diff)
	}
	compareReaders(t, cfg.Out)
}

// listing prints what is at every path of a folder, with the hash of files.
const listing = `find . -mindepth 1 -type f -printf '%m %U:%G %s ' -exec sha256sum {} \; | sed 's|  ./| /|'
find . -mindepth 1 ! -type f -printf '%m %U:%G %y /%P -> %l\n'`

// compareReaders reads every file of a userland through the kernel, by unsquashfs and by our
// own reader: all see the same.
func compareReaders(t *testing.T, dir string) {
	t.Helper()
	sorted := func(text string) []string {
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		slices.Sort(lines)
		return lines
	}
	kernel := sorted(inUserland(t, dir, listing))
	unsquashfs := need.Program(t, "unsquashfs", "squashfs-tools")
	to := filepath.Join(t.TempDir(), "root")
	if out, err := exec.Command(unsquashfs, "-n", "-strict-errors", "-d", to, filepath.Join(dir, userlandName)).CombinedOutput(); err != nil {
		t.Fatalf("unsquashfs: %v: %s", err, out)
	}
	cmd := exec.Command("sh", "-c", listing)
	cmd.Dir = to
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(kernel, sorted(string(out))); diff != "" {
		t.Errorf("(-kernel +unsquashfs):\n%.3000s", diff)
	}
	var own []string
	err = readUserland(filepath.Join(dir, userlandName), func(f squashfs.File) error {
		switch {
		case f.Path == ".":
		case f.Type == initramfs.File:
			sum, err := hashReader(f.Content)
			own = append(own, fmt.Sprintf("%o %d:%d %d %s /%s", f.Mode, f.UID, f.GID, f.Size, sum.SHA256, f.Path))
			return err
		case f.Type == initramfs.Dir:
			own = append(own, fmt.Sprintf("%o %d:%d d /%s -> ", f.Mode, f.UID, f.GID, f.Path))
		default:
			own = append(own, fmt.Sprintf("%o %d:%d l /%s -> %s", f.Mode, f.UID, f.GID, f.Path, f.Target))
		}
		return nil
	})
	slices.Sort(own)
	if diff := cmp.Diff(kernel, own); err != nil || diff != "" {
		t.Errorf("%v (-kernel +ours):\n%.3000s", err, diff)
	}
	t.Logf("%d paths compared through three readers", len(own))
}

// The initramfs says which userland the node shall fetch, as the manifest has it, and
// verify compares both.
func TestUserlandIsNamed(t *testing.T) {
	cfg := testConfig(t, userlandArchive(t), testDefinition+packageList)
	m := mustBuild(t, cfg)
	art, _ := m.File(images.KindUserland)
	var got images.Userland
	if err := json.Unmarshal(records(t, cfg.Out)["etc/muster/userland.json"].Data, &got); err != nil {
		t.Fatal(err)
	}
	want := images.Userland{SHA256: art.SHA256, Size: art.Size, MemoryMiB: 256, Chunk: 1 << 20, Chunks: art.ChunksSHA256, In: images.UserlandAuto, VerityRoot: art.Verity.Root, VerityBlocks: art.Verity.Blocks}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("userland.json (-want +got):\n%s", diff)
	}
	checked, err := Verify(cfg.Out)
	if err != nil || !slices.ContainsFunc(checked, func(c Checked) bool { return c.What == "userland, squashfs, 25 files, nodes from 256 MiB" }) {
		t.Errorf("verify says %+v, %v", checked, err)
	}
	if _, ok := records(t, mustOut(t, testDefinition))["etc/muster/userland.json"]; ok {
		t.Error("an image without a userland names one")
	}
}

func mustOut(t *testing.T, definition string) string {
	t.Helper()
	cfg := testConfig(t, userlandArchive(t), definition)
	mustBuild(t, cfg)
	return cfg.Out
}

func TestSameUserland(t *testing.T) {
	sum := strings.Repeat("a", 64)
	with := &images.Manifest{Artifacts: []images.Artifact{{Kind: images.KindUserland, Size: 3, SHA256: sum, ChunksSHA256: []string{sum}}}}
	good := `{"sha256":"` + sum + `","size":3,"memory_mib":256,"chunk":1048576,"chunks":["` + sum + `"]}`
	for _, c := range []struct {
		text string
		m    *images.Manifest
		want string
	}{
		{good, with, ""},
		{"", &images.Manifest{}, ""},
		{"", with, "does not say which userland"},
		{good, &images.Manifest{}, "the manifest has none"},
		{"{", with, "cannot be read"},
		{strings.Replace(good, `"size":3`, `"size":4`, 1), with, "with 4 bytes in 1 pieces, the manifest has"},
		{strings.Replace(good, `["`, `["b`, 1), with, "in 1 pieces"},
	} {
		var text []byte
		if c.text != "" {
			text = []byte(c.text)
		}
		if err := sameUserland(text, c.m); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}

// A userland in which a bit was flipped is found by its hash; verify also reads it, so
// that one that was made wrong is found.
func TestVerifyUserland(t *testing.T) {
	cfg := testConfig(t, userlandArchive(t), testDefinition+packageList)
	m := mustBuild(t, cfg)
	name := filepath.Join(cfg.Out, "userland.sqfs")
	flipBit(t, name)
	if _, err := Verify(cfg.Out); err == nil || !strings.Contains(err.Error(), "userland.sqfs: its SHA-256 is") {
		t.Errorf("verify of a damaged userland: %v", err)
	}
	art, _ := m.File(images.KindUserland)
	if _, err := verifyUserland(name, art); err == nil || !strings.Contains(err.Error(), "the SHA-256 of its piece 0 is") {
		t.Errorf("a piece that differs: %v", err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	clear(data[96:]) // all but the superblock
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	art.ChunksSHA256 = []string{hashBytes(data)}
	if _, err := verifyUserland(name, art); !errors.Is(err, squashfs.ErrDamaged) {
		t.Errorf("zeros for a squashfs: %v", err)
	}
}

func TestDiffUserlands(t *testing.T) {
	read := func(definition string) Contents {
		t.Helper()
		c, err := ReadContents(mustOut(t, definition))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	small, large := read(testDefinition+"\npackages: [gawk]\n"), read(testDefinition+packageList)
	files := make(map[string]Change)
	for _, c := range DiffImages(small, large).Userland {
		files[c.Name] = c
	}
	if c := files["/usr/bin/tool"]; c.Old != "" || c.New != "0644 0:0 4 bytes "+hashBytes([]byte("tool"))[:12] {
		t.Errorf("/usr/bin/tool is %+v", c)
	}
	if c := files["/usr/bin/igawk"]; c.Old == "" || c.New == "" {
		t.Errorf("/usr/bin/igawk is %+v", c)
	}
	if c, ok := files["/usr/bin/awk"]; ok {
		t.Errorf("/usr/bin/awk is %+v", c)
	}
	if all := DiffImages(read(testDefinition), large).Userland; len(all) != len(large.Userland) {
		t.Errorf("of %d paths %d are new where there was no userland", len(large.Userland), len(all))
	}
}
