package depmod_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"muster/internal/kmod/depmod"
)

func TestParse(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		path    string
		entries []string
		want    depmod.Info
	}{
		"everything": {
			path: "kernel/drivers/net/virtio_net.ko",
			entries: []string{
				"name=virtio_net", "license=GPL", "alias=virtio:d00000001v*", "alias=net-virtio", "depends=failover,net-failover",
				"softdep=pre: virtio_pci", "firmware=virtio/a.bin", "vermagic=6.12 SMP", "parm=napi_weight:weight", "parmtype=napi_weight:int", "intree=Y",
			},
			want: depmod.Info{
				Path: "kernel/drivers/net/virtio_net.ko", Name: "virtio_net", Depends: []string{"failover", "net_failover"},
				Aliases: []string{"virtio:d00000001v*", "net-virtio"}, Softdeps: []string{"pre: virtio_pci"},
				Firmware: []string{"virtio/a.bin"}, Params: []string{"napi_weight"}, Vermagic: "6.12 SMP",
			},
		},
		"name from a mixed file name": {
			path:    "kernel/fs/nls/nls_iso8859-1.ko.xz",
			entries: []string{"depends="},
			want:    depmod.Info{Path: "kernel/fs/nls/nls_iso8859-1.ko.xz", Name: "nls_iso8859_1"},
		},
		"two entries of one key, values with = and empty entries": {
			path:    "a.ko",
			entries: []string{"", "depends=b", "depends=c", "alias=x=y", "noequals"},
			want:    depmod.Info{Path: "a.ko", Name: "a", Depends: []string{"b", "c"}, Aliases: []string{"x=y"}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := depmod.Parse(tt.path, bytes.NewReader(tinyModule(tt.entries...)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Parse() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseNotModule(t *testing.T) {
	t.Parallel()
	tests := map[string][]byte{
		"empty":        nil,
		"text":         []byte("#!/bin/sh\n"),
		"cut short":    tinyModule("name=a")[:70],
		"other ELF":    tinyELF(".text", []byte("x")),
		"only a magic": []byte("\x7fELF"),
	}
	for name, file := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := depmod.Parse("kernel/a.ko", bytes.NewReader(file))
			if !errors.Is(err, depmod.ErrNotModule) {
				t.Errorf("Parse() error = %v, want ErrNotModule", err)
			}
			if err != nil && !strings.Contains(err.Error(), "kernel/a.ko") {
				t.Errorf("Parse() error = %v, want the file named", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(tinyModule("name=a", "depends=b,c", "alias=pci:*"))
	f.Add(tinyELF(".text", nil))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, file []byte) {
		info, err := depmod.Parse("kernel/x.ko", bytes.NewReader(file))
		if err == nil && info.Name == "" {
			t.Error("module without a name")
		}
	})
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	ko := tinyModule("name=a", "description="+strings.Repeat("long ", 1000))
	tests := map[string]func(*bytes.Buffer){
		"a.ko": func(b *bytes.Buffer) { b.Write(ko) },
		"a.ko.gz": func(b *bytes.Buffer) {
			w := gzip.NewWriter(b)
			w.Write(ko)
			w.Close()
		},
		"a.ko.zst": func(b *bytes.Buffer) {
			w, _ := zstd.NewWriter(b)
			w.Write(ko)
			w.Close()
		},
		"a.ko.xz": func(b *bytes.Buffer) {
			w, _ := xz.NewWriter(b)
			w.Write(ko)
			w.Close()
		},
	}
	for name, pack := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			pack(&b)
			got, err := depmod.Unpack(name, bytes.NewReader(b.Bytes()))
			if err != nil || !bytes.Equal(got, ko) {
				t.Errorf("Unpack() = %d bytes, %v, want %d", len(got), err, len(ko))
			}
			if name == "a.ko" {
				return
			}
			if _, err := depmod.Unpack(name, bytes.NewReader(b.Bytes()[:b.Len()/2])); err == nil {
				t.Error("half a file was unpacked without an error")
			}
			if _, err := depmod.Unpack(name, strings.NewReader("not packed")); err == nil {
				t.Error("a file that is not packed was unpacked without an error")
			}
		})
	}
	if _, err := depmod.Unpack("a.txt", bytes.NewReader(ko)); !errors.Is(err, depmod.ErrNotModule) {
		t.Errorf("Unpack(a.txt) error = %v, want ErrNotModule", err)
	}
}

func TestRawPath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"kernel/a.ko": "kernel/a.ko", "kernel/a.ko.xz": "kernel/a.ko", "a.ko.zst": "a.ko", "a.ko.gz": "a.ko", "a.ko.bak": "a.ko.bak",
	} {
		if got := depmod.RawPath(in); got != want {
			t.Errorf("RawPath(%q) = %q, want %q", in, got, want)
		}
	}
}

func module(path string, entries ...string) depmod.Info {
	return depmod.ParseModinfo(path, []byte(strings.Join(entries, "\x00")))
}

func TestBuild(t *testing.T) {
	t.Parallel()
	set, err := depmod.Build(depmod.Input{
		Modules: []depmod.Info{
			module("kernel/fs/nls/nls_iso8859-1.ko", "alias=nls_latin1"),
			module("kernel/net/failover.ko"),
			module("kernel/drivers/net/net_failover.ko", "depends=failover"),
			module("kernel/drivers/net/virtio_net.ko", "depends=net-failover", "alias=virtio:d00000001v*", "firmware=b.bin", "firmware=a.bin"),
			module("kernel/fs/vfat.ko", "softdep=pre: nls_iso8859-1", "softdep=post: nosuch", "firmware=a.bin"),
			module("updates/other.ko", "alias=virtio:d00000001v*", "alias=devname:net/tun", "alias=char-major-10-200", "alias=char-major-11-*"),
		},
		Order:          []byte("kernel/fs/vfat.ko\nkernel/net/failover.ko\nkernel/drivers/net/net_failover.ko\nkernel/fs/nls/nls_iso8859-1.ko\nkernel/drivers/net/virtio_net.ko\n"),
		Builtin:        []byte("kernel/drivers/virtio/virtio-pci.ko\n"),
		BuiltinModinfo: []byte("virtio_pci.license=GPL\x00virtio_pci.alias=pci:v00001AF4d*\x00"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"modules.dep": `kernel/drivers/net/net_failover.ko: kernel/net/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/failover.ko
kernel/fs/nls/nls_iso8859-1.ko:
kernel/fs/vfat.ko:
kernel/net/failover.ko:
updates/other.ko:
`,
		"modules.alias": `# Aliases extracted from modules themselves.
alias nls_latin1 nls_iso8859_1
alias virtio:d00000001v* virtio_net
alias virtio:d00000001v* other
alias devname:net/tun other
alias char-major-10-200 other
alias char-major-11-* other
`,
		"modules.softdep": `# Soft dependencies extracted from modules themselves.
softdep vfat pre: nls_iso8859-1
softdep vfat post: nosuch
`,
		"modules.builtin":         "kernel/drivers/virtio/virtio-pci.ko\n",
		"modules.devname":         "# Device nodes to trigger on-demand module loading.\nother net/tun c10:200\n",
		"modules.builtin.modinfo": "virtio_pci.alias=pci:v00001AF4d*\x00",
	}
	got := make(map[string]string)
	for name, text := range set.Index.Files() {
		got[name] = string(text)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Files() (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a.bin", "b.bin"}, set.Firmware("virtio-net", "vfat")); diff != "" {
		t.Errorf("Firmware() (-want +got):\n%s", diff)
	}
	if info, ok := set.Info("net-failover"); !ok || info.Path != "kernel/drivers/net/net_failover.ko" {
		t.Errorf("Info(net-failover) = %v, %v", info, ok)
	}
}

// Where modules may be left out, those go that lack another one, and those that need these.
func TestBuildPartial(t *testing.T) {
	t.Parallel()
	set, err := depmod.Build(depmod.Input{Partial: true, Modules: []depmod.Info{
		module("a.ko", "depends=b"), module("b.ko", "depends=c,gone"), module("c.ko"), module("d.ko", "depends=a,c"), module("e.ko", "depends=c"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "gone", "b": "gone", "d": "gone"}, set.Lacking); diff != "" {
		t.Error(diff)
	}
	var names []string
	for m := range set.Index.All() {
		names = append(names, m.Name)
	}
	if diff := cmp.Diff([]string{"c", "e"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestBuildErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		modules []depmod.Info
		want    string
	}{
		"missing dependency": {
			[]depmod.Info{module("kernel/a.ko", "depends=b")},
			"indexing modules: kernel/a.ko needs module b, which is not there",
		},
		"circle": {
			[]depmod.Info{module("a.ko", "depends=b"), module("b.ko", "depends=c"), module("c.ko", "depends=a")},
			"indexing modules: modules need each other: a → b → c → a",
		},
		"two of one name": {
			[]depmod.Info{module("kernel/a-b.ko"), module("updates/a_b.ko")},
			"indexing modules: kernel/a-b.ko and updates/a_b.ko are both module a_b",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := depmod.Build(depmod.Input{Modules: tt.modules})
			if err == nil || err.Error() != tt.want {
				t.Errorf("Build() error = %v, want %s", err, tt.want)
			}
		})
	}
}

// The index must not depend on the order in which modules were found.
func TestBuildOrder(t *testing.T) {
	t.Parallel()
	a, b, c := module("a.ko", "alias=x"), module("b.ko", "alias=x", "depends=a"), module("c.ko", "alias=x", "depends=b")
	var files []map[string][]byte
	for _, order := range [][]depmod.Info{{a, b, c}, {c, b, a}, {b, c, a}} {
		set, err := depmod.Build(depmod.Input{Modules: order})
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, set.Index.Files())
	}
	for _, f := range files[1:] {
		if diff := cmp.Diff(files[0], f); diff != "" {
			t.Errorf("Files() differ by the order of modules:\n%s", diff)
		}
	}
}
