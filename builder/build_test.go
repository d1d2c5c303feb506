package builder

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"muster/builder/deb/debtest"
	"muster/images"
	"muster/initramfs"

	"github.com/google/go-cmp/cmp"
)

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
		early + "loop.ko":              string(tinyModule("name=loop", "parm=max_loop:Maximum number of loop devices", "parm=max_part:Maximum", "parmtype=max_part:int")),
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

func TestUpdateFromAMirrorThatIsBehind(t *testing.T) {
	a := testArchive(t)
	cfg := testConfig(t, a, testDefinition)
	mustBuild(t, cfg)
	yesterday := debtest.Time().Add(-24 * time.Hour)
	for _, suite := range []string{"trixie", "trixie-updates", "trixie-security"} {
		packages := append(kernelPackages(t, oldKernel, "6.12.9-1"), debtest.Package{Name: "ipxe", Version: "1.20", Arch: "all"},
			debtest.Package{Name: "firmware-realtek", Version: "2024", Arch: "all", Component: "non-free-firmware"})
		a.Publish(t, debtest.Suite{Name: suite, Packages: packages, Date: yesterday})
	}
	cfg.Update = true
	if m := mustBuild(t, cfg); m.Kernel != newKernel {
		t.Errorf("the update went back to kernel %s", m.Kernel)
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
