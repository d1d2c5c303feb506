package builder

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster/builder/deb"
	"muster/builder/deb/debtest"
	"muster/images"
	"muster/initramfs"

	"github.com/google/go-cmp/cmp"
)

const (
	oldKernel = "6.12.9+deb13-amd64"
	newKernel = "6.12.10+deb13-amd64"
)

// testArchive is a small Debian: a kernel, a newer one in the security suite, network
// boot programs and firmware.
func testArchive(t testing.TB) *debtest.Archive {
	t.Helper()
	a := debtest.NewArchive(t)
	a.Publish(t, debtest.Suite{Name: "trixie", Packages: append(kernelPackages(t, oldKernel, "6.12.9-1"),
		debtest.Package{Name: "ipxe", Version: "1.21", Arch: "all", Compression: ".xz", Files: []debtest.File{
			{Path: "usr/lib/ipxe/undionly.kpxe", Data: "bios"}, {Path: "usr/lib/ipxe/snponly.efi", Data: "uefi"}, {Path: "usr/lib/ipxe/ipxe.lkrn", Data: "other"},
		}},
		debtest.Package{Name: "firmware-realtek", Version: "2025", Arch: "all", Component: "non-free-firmware", Compression: ".xz", Files: []debtest.File{
			{Path: "lib/firmware/rtl_nic/a.fw", Data: "wanted"}, {Path: "lib/firmware/rtl_nic/unused.fw", Data: "not wanted"},
			{Path: "lib/firmware/rtl_nic/link.fw", Link: "a.fw"}, {Path: "usr/share/doc/x", Data: "text"},
		}},
	)})
	a.Publish(t, debtest.Suite{Name: "trixie-updates", ValidUntil: debtest.Time().Add(24 * time.Hour)})
	a.Publish(t, debtest.Suite{Name: "trixie-security", Packages: kernelPackages(t, newKernel, "6.12.10-1")})
	return a
}

// kernelPackages returns a kernel and its meta package.
func kernelPackages(t testing.TB, release, version string) []debtest.Package {
	t.Helper()
	dir := "usr/lib/modules/" + release + "/"
	module := func(path string, entries ...string) debtest.File {
		return debtest.File{Path: dir + "kernel/" + path + ".ko.xz", Data: string(debtest.Compress(t, ".xz", tinyModule(entries...)))}
	}
	return []debtest.Package{
		{Name: "linux-image-amd64", Version: version, Arch: "amd64", Source: "linux-signed (" + version + ")", Depends: "linux-image-" + release + " (= " + version + ")"},
		{
			Name: "linux-image-" + release, Version: version, Arch: "amd64", Source: "linux-signed (" + version + ")",
			Depends: "kmod, initramfs-tools | linux-initramfs-tool", Compression: ".xz",
			Files: []debtest.File{
				{Path: "boot/vmlinuz-" + release, Data: "kernel " + release},
				{Path: "boot/config-" + release, Data: "CONFIG_MODULE_DECOMPRESS=y\nCONFIG_MODULE_COMPRESS_XZ=y\n"},
				{Path: dir + "modules.builtin", Data: "kernel/drivers/virtio/virtio_pci.ko\n"},
				{Path: dir + "modules.order", Data: "kernel/drivers/block/loop.ko\n"},
				module("drivers/block/loop", "name=loop"),
				module("fs/squashfs/squashfs", "name=squashfs", "depends=lz-helper"),
				module("lib/lz-helper", "name=lz_helper"),
				module("drivers/net/virtio_net", "name=virtio_net", "alias=virtio:d00000001v*", "depends=net_failover"),
				module("drivers/net/net_failover", "name=net_failover"),
				module("drivers/net/ethernet/acme/acme", "name=acme", "firmware=rtl_nic/a.fw", "firmware=rtl_nic/link.fw", "firmware=other/b.fw", "softdep=pre: crypto-crc9"),
				module("crypto/crc9_generic", "name=crc9_generic"),
				module("drivers/net/ethernet/netronome/nfp", "name=nfp"),
				module("sound/sound", "name=sound"),
			},
		},
	}
}

// tinyModule is the smallest ELF file with a .modinfo section.
func tinyModule(entries ...string) []byte {
	data := strings.Join(entries, "\x00") + "\x00"
	const head, section, names = 64, 64, "\x00.modinfo\x00.shstrtab\x00"
	body := []byte(data + names)
	for len(body)%8 != 0 {
		body = append(body, 0)
	}
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(head + len(body)),
		Ehsize: head, Shentsize: section, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	var b bytes.Buffer
	for _, part := range []any{
		h, body, elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: head, Size: uint64(len(data)), Addralign: 1},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(head + len(data)), Size: uint64(len(names)), Addralign: 1},
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

const testDefinition = `
name: test
arch: amd64
suite: trixie
kernel: {package: linux-image-amd64, cmdline: quiet}
modules: {groups: [base, virtio, ethernet]}
firmware: [realtek]
commands: [ls, sh]
files:
- {path: /etc/motd, content: "hello\n", mode: 0640, owner: 3:4}
`

// testConfig builds the definition from a in folders of its own.
func testConfig(t testing.TB, a *debtest.Archive, definition string) Config {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "test.yaml")
	if err := os.WriteFile(file, []byte(definition), 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := images.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	d.Mirror = a.Serve(t)
	return Config{
		Definition: d, Out: filepath.Join(dir, "out"), Cache: filepath.Join(dir, "cache"),
		Agent: []byte("the agent"), Init: []byte("the init"), Busybox: []byte("the busybox"),
		BusyboxInfo: &initramfs.Busybox{Commands: []string{"cat", "ls", "sh"}},
		Keyring:     a.Key.Keyring(t), Now: func() time.Time { return debtest.Time().Add(time.Hour) },
	}
}

func mustBuild(t testing.TB, cfg Config) *images.Manifest {
	t.Helper()
	m, err := Build(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// contents reads a folder.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

// records reads the initramfs in a folder, by path.
func records(t testing.TB, dir string) map[string]initramfs.Record {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "initramfs.zst"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := initramfs.ReadCPIO(f)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]initramfs.Record)
	for _, r := range a.Records {
		out[r.Path] = r
	}
	return out
}

func TestBuild(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	m := mustBuild(t, cfg)
	if m.Kernel != newKernel || m.Cmdline != "quiet" || !m.Time.Equal(debtest.Time()) {
		t.Errorf("manifest is of kernel %s, command line %q, time %v; want %s, quiet, %v", m.Kernel, m.Cmdline, m.Time, newKernel, debtest.Time())
	}
	files := contents(t, cfg.Out)
	for name, want := range map[string]string{"vmlinuz": "kernel " + newKernel, "undionly.kpxe": "bios", "snponly.efi": "uefi"} {
		if files[name] != want {
			t.Errorf("%s is %q, want %q", name, files[name], want)
		}
	}
	var written images.Manifest
	if err := json.Unmarshal([]byte(files["manifest.json"]), &written); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, &written); diff != "" {
		t.Errorf("manifest.json differs from what Build returned:\n%s", diff)
	}
	for _, a := range m.Artifacts {
		if hashBytes([]byte(files[a.Name])) != a.SHA256 || int64(len(files[a.Name])) != a.Size {
			t.Errorf("artifact %s is not what the manifest says", a.Name)
		}
	}
	var packages []string
	for _, p := range m.Packages {
		packages = append(packages, p.Name+" "+p.Version+" of "+p.Source+" "+p.SourceVersion)
	}
	if diff := cmp.Diff([]string{
		"firmware-realtek 2025 of firmware-realtek 2025", "ipxe 1.21 of ipxe 1.21",
		"linux-image-" + newKernel + " 6.12.10-1 of linux-signed 6.12.10-1",
	}, packages); diff != "" {
		t.Errorf("packages differ (-want +got):\n%s", diff)
	}
}

func TestInitramfsHolds(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	m := mustBuild(t, cfg)
	got := records(t, cfg.Out)
	early := "lib/modules/" + newKernel + "/early/"
	for name, want := range map[string]string{
		"init": "the agent", "usr/lib/muster/init": "the init", "bin/bb": "the busybox",
		"sbin/modprobe": "/init", "bin/ls": "bb", "bin/sh": "bb", "bbin": "bin",
		"etc/muster/image": m.ID + "\n", "etc/muster/runtime": m.RuntimeID + "\n",
		"etc/muster/early":             "/" + early + "loop.ko\n/" + early + "lz-helper.ko\n/" + early + "squashfs.ko\n",
		early + "loop.ko":              string(tinyModule("name=loop")),
		early + "squashfs.ko":          string(tinyModule("name=squashfs", "depends=lz-helper")),
		"etc/motd":                     "hello\n",
		"lib/firmware/rtl_nic/a.fw":    "wanted",
		"lib/firmware/rtl_nic/link.fw": "wanted",
		"etc/passwd":                   passwd,
	} {
		r, ok := got[name]
		if text := string(r.Data) + r.Target; !ok || text != want {
			t.Errorf("%s is %q, want %q", name, text, want)
		}
	}
	for _, name := range []string{"bin/cat", "lib/firmware/rtl_nic/unused.fw"} {
		if _, ok := got[name]; ok {
			t.Errorf("%s is there and was not asked for", name)
		}
	}
	if r := got["etc/motd"]; r.Mode&0o7777 != 0o640 || r.UID != 3 || r.GID != 4 {
		t.Errorf("etc/motd has mode %o and owner %d:%d, want 640 and 3:4", r.Mode, r.UID, r.GID)
	}
	list := string(got["etc/muster/files"].Data)
	for name, r := range got {
		if line := " /" + name + "\n"; r.Mode&syscall.S_IFMT == syscall.S_IFREG && name != "etc/muster/files" && !strings.Contains(list, line) {
			t.Errorf("etc/muster/files does not list %s", name)
		}
		if !r.MTime.Equal(debtest.Time()) {
			t.Errorf("%s has time %v, want %v", name, r.MTime, debtest.Time())
		}
	}
	if !strings.Contains(list, "9 /init\n") {
		t.Errorf("etc/muster/files does not give the size of /init:\n%s", list)
	}
}

func TestSelectModules(t *testing.T) {
	k := &kernelPackage{release: newKernel, modules: map[string][]byte{}, texts: map[string][]byte{}}
	prefix := "usr/lib/modules/" + newKernel + "/"
	for _, f := range kernelPackages(t, newKernel, "1")[1].Files {
		name, ok := strings.CutPrefix(f.Path, prefix)
		switch {
		case ok && isModule(name):
			k.modules[name] = []byte(f.Data)
		case ok:
			k.texts[name] = []byte(f.Data)
		}
	}
	for name, c := range map[string]struct {
		want    images.Modules
		modules []string
		err     string
	}{
		"least":       {images.Modules{}, []string{"loop", "lz_helper", "squashfs"}, ""},
		"group":       {images.Modules{Groups: []string{"virtio"}}, []string{"loop", "lz_helper", "net_failover", "squashfs", "virtio_net"}, ""},
		"folder":      {images.Modules{Groups: []string{"ethernet"}}, []string{"acme", "crc9_generic", "loop", "lz_helper", "squashfs"}, ""},
		"left out":    {images.Modules{Groups: []string{"ethernet-rare"}}, []string{"loop", "lz_helper", "nfp", "squashfs"}, ""},
		"by name":     {images.Modules{Names: []string{"net-failover"}}, []string{"loop", "lz_helper", "net_failover", "squashfs"}, ""},
		"built in":    {images.Modules{Names: []string{"virtio_pci"}}, []string{"loop", "lz_helper", "squashfs"}, ""},
		"no such":     {images.Modules{Names: []string{"virtio_nte"}}, nil, "there is no module virtio_nte; like it are: virtio_net"},
		"no such two": {images.Modules{Names: []string{"xyzzy", "plugh"}}, nil, "there is no module plugh"},
	} {
		t.Run(name, func(t *testing.T) {
			sel, err := selectModules(t.Context(), k, c.want)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("selectModules() = %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := sel.names()
			slices.Sort(got)
			if diff := cmp.Diff(c.modules, got); diff != "" {
				t.Errorf("modules differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSameBytes builds one lock in unlike surroundings.
func TestSameBytes(t *testing.T) {
	a := testArchive(t)
	first := testConfig(t, a, testDefinition)
	mustBuild(t, first)
	want := contents(t, first.Out)

	second := testConfig(t, a, testDefinition)
	oldMask, oldProcs, oldLocal := syscall.Umask(0o077), runtime.GOMAXPROCS(1), time.Local
	time.Local = time.FixedZone("elsewhere", 5*3600+45*60)
	t.Cleanup(func() { syscall.Umask(oldMask); runtime.GOMAXPROCS(oldProcs); time.Local = oldLocal })
	mustBuild(t, second)
	got := contents(t, second.Out)
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s differs", name)
		}
	}
	if diff := cmp.Diff(records(t, first.Out), records(t, second.Out)); diff != "" {
		t.Errorf("the initramfs differs in:\n%s", diff)
	}
	for name := range got {
		fi, err := os.Stat(filepath.Join(second.Out, name))
		if err != nil || fi.Mode().Perm() != 0o644 {
			t.Errorf("%s has mode %v, %v; want 0644 whatever the umask", name, fi.Mode(), err)
		}
	}
}

// TestIDFollowsInputs changes one input after the other.
func TestIDFollowsInputs(t *testing.T) {
	a := testArchive(t)
	ids, runtimes := map[string]string{}, map[string]string{}
	for name, change := range map[string]func(*Config){
		"nothing": func(c *Config) {},
		"agent":   func(c *Config) { c.Agent = []byte("another agent") },
		"init":    func(c *Config) { c.Init = []byte("another init") },
		"busybox": func(c *Config) { c.Busybox = []byte("another busybox") },
		"command": func(c *Config) { c.BusyboxInfo = &initramfs.Busybox{Commands: []string{"cat", "ls", "sh", "id"}} },
		"time":    func(c *Config) { c.Time = time.Unix(1, 0) },
		"fast":    func(c *Config) { c.Fast = true },
		"file":    func(c *Config) { c.Definition.Files[0].SHA256 = "other" },
		"cmdline": func(c *Config) { c.Definition.Kernel.Cmdline = "loud" },
		"modules": func(c *Config) { c.Definition.Modules.Groups = nil },
	} {
		cfg := testConfig(t, a, testDefinition)
		change(&cfg)
		m := mustBuild(t, cfg)
		if other, ok := ids[m.ID]; ok {
			t.Errorf("%s and %s have the same image ID", name, other)
		}
		ids[m.ID], runtimes[name] = name, m.RuntimeID
	}
	for name, id := range runtimes {
		if same, want := id == runtimes["nothing"], name != "init" && name != "modules"; same != want {
			t.Errorf("runtime ID with another %s is the same: %v, want %v", name, same, want)
		}
	}
}

func TestUnchangedBuildAsksNobody(t *testing.T) {
	a := testArchive(t)
	cfg := testConfig(t, a, testDefinition)
	want := mustBuild(t, cfg)
	before := a.Requests()
	manifest := filepath.Join(cfg.Out, "manifest.json")
	old, err := os.Stat(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, mustBuild(t, cfg)); diff != "" {
		t.Errorf("the second build differs:\n%s", diff)
	}
	if n := a.Requests() - before; n != 0 {
		t.Errorf("the second build made %d requests", n)
	}
	if fi, err := os.Stat(manifest); err != nil || !os.SameFile(fi, old) {
		t.Errorf("the manifest was written again: %v", err)
	}
}

func TestDamagedArtifactIsWrittenAgain(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	mustBuild(t, cfg)
	want := contents(t, cfg.Out)
	flipBit(t, filepath.Join(cfg.Out, "initramfs.zst"))
	mustBuild(t, cfg)
	if diff := cmp.Diff(want, contents(t, cfg.Out)); diff != "" {
		t.Errorf("after a flipped bit:\n%s", diff)
	}
}

func TestUpdate(t *testing.T) {
	a := testArchive(t)
	cfg := testConfig(t, a, testDefinition)
	first := mustBuild(t, cfg)
	cfg.Update = true
	if same := mustBuild(t, cfg); same.ID != first.ID {
		t.Error("an update that found nothing changed the image")
	}
	const newest = "6.12.11+deb13-amd64"
	a.Publish(t, debtest.Suite{Name: "trixie-security", Packages: kernelPackages(t, newest, "6.12.11-1")})
	cfg.Update = false
	if m := mustBuild(t, cfg); m.Kernel != newKernel {
		t.Errorf("without update the kernel is %s, want that of the lock", m.Kernel)
	}
	cfg.Update = true
	if m := mustBuild(t, cfg); m.Kernel != newest {
		t.Errorf("with update the kernel is %s, want %s", m.Kernel, newest)
	}
}

func TestLockFromAnotherPlace(t *testing.T) {
	a := testArchive(t)
	first := testConfig(t, a, testDefinition)
	want := mustBuild(t, first)
	a.Publish(t, debtest.Suite{Name: "trixie-security", Packages: kernelPackages(t, "6.12.11+deb13-amd64", "6.12.11-1")})
	second := testConfig(t, a, testDefinition)
	second.LockFile = filepath.Join(first.Out, "lock.json")
	if m := mustBuild(t, second); m.ID != want.ID {
		t.Errorf("one lock gave images %s and %s", want.ID, m.ID)
	}
}

func TestBuildErrors(t *testing.T) {
	kernelDeb := "pool/main/linux-image-" + newKernel + "_6.12.10-1_amd64.deb"
	for name, c := range map[string]struct {
		definition string
		change     func(t *testing.T, a *debtest.Archive, cfg *Config)
		want       []string
		is         error
	}{
		"no such kernel": {
			strings.Replace(testDefinition, "linux-image-amd64", "linux-image-amd46", 1), nil,
			[]string{"building test: resolving packages: kernel: package linux-image-amd46", "kernels are: linux-image-amd64"}, deb.ErrNoPackage,
		},
		"no network": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) { cfg.Definition.Mirror = "http://127.0.0.1:1" },
			[]string{"suite trixie: no mirror is usable", "127.0.0.1:1/dists/trixie/InRelease", "connection refused"}, nil},
		"wrong key": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) { cfg.Keyring = debtest.NewKey(t).Keyring(t) },
			[]string{"dists/trixie/InRelease: signature is not good"}, deb.ErrSignature},
		"wrong package": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			a.Change(t, kernelDeb, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}, []string{"package linux-image-" + newKernel + " 6.12.10-1: fetching", "hash is wrong: it is"}, deb.ErrHash},
		"package gone": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			a.Change(t, kernelDeb, func([]byte) []byte { return nil })
		}, []string{"archives drop what newer versions replace", "muster build --update", "404"}, os.ErrNotExist},
		"wrong index": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			a.Change(t, a.Find(t, "trixie-security/main/binary-amd64/by-hash"), func(b []byte) []byte { return append(b, 0) })
		}, []string{"fetching trixie-security/main/binary-amd64/Packages.xz", "hash is wrong"}, deb.ErrHash},
		"expired": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			cfg.Now = func() time.Time { return debtest.Time().Add(48 * time.Hour) }
		}, []string{"is out of date"}, deb.ErrExpired},
		"unknown command": {strings.Replace(testDefinition, "[ls, sh]", "[ls, emacs]", 1), nil,
			[]string{"u-root command emacs is not in the busybox; it has: cat ls sh"}, nil},
		"no toolchain": {testDefinition + "go-commands: [./x]\n", func(t *testing.T, a *debtest.Archive, cfg *Config) { t.Setenv("PATH", "/nowhere") },
			[]string{"need a Go toolchain, and there is no go in PATH"}, nil},
		"no agent": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) { cfg.Agent = nil },
			[]string{"built without agent, muster-init or busybox; run make"}, nil},
		"no such module": {testDefinition[:strings.Index(testDefinition, "modules:")] + "modules: {names: [nfss]}\n", nil,
			[]string{"kernel " + newKernel + ": there is no module nfss"}, nil},
		"lock of another definition": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			mustBuild(t, *cfg)
			cfg.LockFile = filepath.Join(cfg.Out, "lock.json")
			cfg.Definition.Firmware = nil
		}, []string{"was made for other packages than definition test asks for; make a new one with: muster build --update"}, nil},
		"broken lock": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			cfg.LockFile = filepath.Join(t.TempDir(), "l")
			if err := os.WriteFile(cfg.LockFile, []byte("{"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"to make a new one, delete the file"}, nil},
		"Out is a file": {testDefinition, func(t *testing.T, a *debtest.Archive, cfg *Config) {
			if err := os.WriteFile(cfg.Out, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"not a directory"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := testArchive(t)
			cfg := testConfig(t, a, c.definition)
			if c.change != nil {
				c.change(t, a, &cfg)
			}
			_, err := Build(t.Context(), cfg)
			if err == nil || c.is != nil && !errors.Is(err, c.is) {
				t.Fatalf("Build() = %v, want %v", err, c.is)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Build() = %v\nwant it to contain %s", err, want)
				}
			}
		})
	}
}

// TestFullDisk needs root for a small file system.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("mounting a small tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(small, 0) })
	cfg := testConfig(t, testArchive(t), testDefinition)
	cfg.Cache = small
	_, err := Build(t.Context(), cfg)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room for "+small) {
		t.Errorf("Build() = %v, want ENOSPC and where to make room", err)
	}
}

func TestConcurrentBuilds(t *testing.T) {
	a := testArchive(t)
	cfg := testConfig(t, a, testDefinition)
	var wg sync.WaitGroup
	ids := make([]string, 6)
	for i := range ids {
		wg.Go(func() {
			m, err := Build(t.Context(), cfg)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = m.ID
		})
	}
	wg.Wait()
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("image IDs are %v", ids)
	}
	if n := a.Served("pool/main/linux-image-" + newKernel + "_6.12.10-1_amd64.deb"); n != 1 {
		t.Errorf("the kernel was fetched %d times, want once", n)
	}
	for _, artifact := range mustBuild(t, cfg).Artifacts {
		if got, err := hashFile(filepath.Join(cfg.Out, artifact.Name)); err != nil || got.SHA256 != artifact.SHA256 {
			t.Errorf("%s: %v, hash %s, want %s", artifact.Name, err, got.SHA256, artifact.SHA256)
		}
	}
}

func TestBuildEndsWithItsContext(t *testing.T) {
	cfg := testConfig(t, testArchive(t), testDefinition)
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Progress = func(e Event) {
		if e.Step == StepKernel && e.Detail == "unpacking" {
			cancel()
		}
	}
	if _, err := Build(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("Build() = %v, want the context's error", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Out, "manifest.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a build that did not end left a manifest: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Join(cfg.Cache, "tmp")); err != nil || len(entries) > 0 {
		t.Errorf("a build that did not end left %v, %v", entries, err)
	}
	cfg.Progress = nil
	mustBuild(t, cfg)
}

func TestGoCommand(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/hi\n\ngo 1.21\n", "main.go": "package main\n\nfunc main() { println(\"hi\") }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cfg := testConfig(t, testArchive(t), testDefinition+"go-commands: ["+dir+"]\n")
	first := mustBuild(t, cfg)
	name := "bin/" + filepath.Base(dir)
	if r := records(t, cfg.Out)[name]; !bytes.HasPrefix(r.Data, []byte(elf.ELFMAG)) || r.Mode&0o111 == 0 {
		t.Errorf("%s has mode %o and begins with %.4q", name, r.Mode, r.Data)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() { println(\"hello\") }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if second := mustBuild(t, cfg); second.ID == first.ID {
		t.Error("the image ID does not see that the program changed")
	}
}

func TestGoCommandName(t *testing.T) {
	for c, want := range map[string]string{
		"example.com/cmd/tool@v1.2.3": "tool", "example.com/tool/v2@v2.0.0": "tool", "./local/x": "x", "/abs/y": "y", "example.com/v@v1": "v",
	} {
		if got := goCommandName(c); got != want {
			t.Errorf("goCommandName(%s) = %s, want %s", c, got, want)
		}
	}
}

func TestCacheDir(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"XDG":          {map[string]string{"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/muster"},
		"home":         {map[string]string{"HOME": "/h"}, "/h/.cache/muster"},
		"relative XDG": {map[string]string{"XDG_CACHE_HOME": "c", "HOME": "/h"}, "/h/.cache/muster"}, // the specification says to ignore it
		"nothing":      {nil, ""},
	} {
		got, err := CacheDir(func(k string) string { return c.env[k] })
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: CacheDir() = %q, %v; want %q", name, got, err, c.want)
		}
	}
}
