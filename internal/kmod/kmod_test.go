package kmod_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"muster/internal/kmod"
)

// testFiles are index files as depmod writes them, cut down.
var testFiles = map[string]string{
	"modules.dep": `kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/fs/fat/fat.ko:
kernel/fs/fat/vfat.ko: kernel/fs/fat/fat.ko
kernel/fs/nls/nls_iso8859-1.ko:
kernel/fs/smb/client/cifs.ko:
kernel/crypto/gcm.ko:
kernel/crypto/crc32c_generic.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/fs/ext4/ext4.ko:
kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko:
updates/e1000e_oot.ko.xz:
`,
	"modules.alias": `# Aliases extracted from modules themselves.
alias virtio:d00000001v* virtio_net
alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e
alias pci:v00008086d*sv*sd*bc02sc00i* e1000e_oot
alias fs-vfat vfat
alias crypto-crc32c crc32c_generic
alias crypto-crc32c crc32c-intel
alias cpu:type:x86,ven*fam*mod*:feature:*0094* crc32c-intel
alias acpi*:PNP0C0[A-C]:* fat
alias net-pf-16-proto-4-type-4 gcm
`,
	"modules.softdep": `# Soft dependencies extracted from modules themselves.
softdep ext4 pre: crypto-crc32c
softdep vfat post: nls_iso8859-1 nosuch
softdep cifs gcm
softdep cifs pre: ext4
`,
	"modules.builtin":         "kernel/drivers/virtio/virtio-pci.ko\nkernel/fs/ramfs.ko\n",
	"modules.builtin.modinfo": "virtio_pci.license=GPL\x00virtio_pci.alias=pci:v00001AF4d*sv*sd*bc*sc*i*\x00ramfs.alias=fs-ramfs\x00",
}

func testFS(files map[string]string) fstest.MapFS {
	fsys := make(fstest.MapFS)
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

func testIndex(t testing.TB) *kmod.Index {
	t.Helper()
	x, err := kmod.Read(testFS(testFiles))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"kernel/fs/nls/nls_iso8859-1.ko": "nls_iso8859_1",
		"virtio-net":                     "virtio_net",
		"a/b/crc32c-intel.ko.xz":         "crc32c_intel",
		"x.ko.zst":                       "x",
		"x.ko.gz":                        "x",
		"x.kolor":                        "x.kolor",
		".ko":                            ".ko",
		"snd-soc.koala.ko":               "snd_soc.koala",
	} {
		if got := kmod.Name(in); got != want {
			t.Errorf("Name(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestIsModuleFile(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"kernel/a.ko": true, "a.ko.xz": true, "a.ko.zst": true, "a.ko.gz": true,
		"modules.dep": false, "a.ko.bak": false, ".ko": false, "a.kok": false,
	} {
		if got := kmod.IsModuleFile(in); got != want {
			t.Errorf("IsModuleFile(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	x := testIndex(t)
	tests := map[string]struct {
		name  string
		want  []string
		known bool
	}{
		"by name":                     {"virtio_net", []string{"virtio_net"}, true},
		"- and _ are equal":           {"virtio-net", []string{"virtio_net"}, true},
		"mixed file name":             {"nls_iso8859-1", []string{"nls_iso8859_1"}, true},
		"packed":                      {"e1000e_oot", []string{"e1000e_oot"}, true},
		"device":                      {"virtio:d00000001v00001AF4", []string{"virtio_net"}, true},
		"several match, in order":     {"pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00", []string{"e1000e", "e1000e_oot"}, true},
		"alias without wildcard":      {"fs-vfat", []string{"vfat"}, true},
		"alias with _ for -":          {"fs_vfat", []string{"vfat"}, true},
		"two of one alias":            {"crypto-crc32c", []string{"crc32c_generic", "crc32c_intel"}, true},
		"brackets":                    {"acpi_LNX:PNP0C0B:", []string{"fat"}, true},
		"brackets that do not match":  {"acpi_LNX:PNP0C0D:", nil, false},
		"star in the middle":          {"cpu:type:x86,ven0000fam0006mod008E:feature:,0000,0094,0099", []string{"crc32c_intel"}, true},
		"- in an alias with digits":   {"net-pf-16-proto-4-type-4", []string{"gcm"}, true},
		"built in":                    {"virtio-pci", nil, true},
		"device of what is built in":  {"pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00", nil, true},
		"alias of what is built in":   {"fs-ramfs", nil, true},
		"unknown name":                {"nosuch", nil, false},
		"unknown device":              {"usb:v0781p5583d0100dc00dsc00dp00ic08isc06ip50in00", nil, false},
		"prefix of an alias":          {"fs-vfa", nil, false},
		"nothing":                     {"", nil, false},
		"a path is no name of a file": {"kernel/fs/fat/vfat.ko", nil, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, known := x.Lookup(tt.name)
			if diff := cmp.Diff(tt.want, got); diff != "" || known != tt.known {
				t.Errorf("Lookup(%s) = %v, %v, want %v, %v", tt.name, got, known, tt.want, tt.known)
			}
		})
	}
}

func TestClosure(t *testing.T) {
	t.Parallel()
	x := testIndex(t)
	tests := map[string]struct {
		names []string
		want  []string
	}{
		"dependencies":                 {[]string{"virtio-net"}, []string{"failover", "net_failover", "virtio_net"}},
		"alias":                        {[]string{"fs-vfat"}, []string{"fat", "nls_iso8859_1", "vfat"}},
		"soft dependency by alias":     {[]string{"ext4"}, []string{"crc32c_generic", "crc32c_intel", "ext4"}},
		"soft dependency without pre:": {[]string{"cifs"}, []string{"cifs", "crc32c_generic", "crc32c_intel", "ext4", "gcm"}},
		"built in":                     {[]string{"virtio-pci", "fs-ramfs"}, nil},
		"folder":                       {[]string{"kernel/fs/fat/"}, []string{"fat", "nls_iso8859_1", "vfat"}},
		"folder without kernel/":       {[]string{"crypto/"}, []string{"crc32c_generic", "gcm"}},
		"pattern":                      {[]string{"drivers/net/*"}, []string{"failover", "net_failover", "virtio_net"}},
		"pattern without suffix":       {[]string{"fs/nls/nls_iso8859-?"}, []string{"nls_iso8859_1"}},
		"several, each once":           {[]string{"virtio_net", "failover", "net_failover"}, []string{"failover", "net_failover", "virtio_net"}},
		"none":                         {nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := x.Closure(tt.names...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Closure(%v) (-want +got):\n%s", tt.names, diff)
			}
		})
	}
}

func TestClosureErrors(t *testing.T) {
	t.Parallel()
	x := testIndex(t)
	for name, want := range map[string]string{
		"virtio_nt":       "kernel has no module virtio_nt; the nearest are virtio_net",
		"e1000":           "kernel has no module e1000; the nearest are e1000e",
		"completely-else": "kernel has no module completely-else",
		"drivers/gpu/":    "kernel has no module drivers/gpu/",
		"drivers/net/[":   "kernel has no module drivers/net/[",
	} {
		_, err := x.Closure("ext4", name)
		notFound, ok := errors.AsType[*kmod.NotFoundError](err)
		if !ok || err.Error() != want {
			t.Errorf("Closure(%s) error = %v, want %s", name, err, want)
		} else if notFound.Name != name {
			t.Errorf("Closure(%s) error names %s", name, notFound.Name)
		}
	}
}

func TestFilesRoundTrip(t *testing.T) {
	t.Parallel()
	x := testIndex(t)
	written := make(fstest.MapFS)
	for name, text := range x.Files() {
		written[name] = &fstest.MapFile{Data: text}
	}
	y, err := kmod.Read(written)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(x.Files(), y.Files()); diff != "" {
		t.Errorf("files change when read and written again (-first +second):\n%s", diff)
	}
	if x.Len() != y.Len() || y.Len() != 13 {
		t.Errorf("Len() = %d, then %d, want 13", x.Len(), y.Len())
	}
	for _, alias := range []string{"fs-vfat", "fs-ramfs", "virtio:d00000001v00001AF4"} {
		a, known := x.Lookup(alias)
		b, stillKnown := y.Lookup(alias)
		if diff := cmp.Diff(a, b); diff != "" || !known || !stillKnown {
			t.Errorf("Lookup(%s) = %v, %v and %v, %v after a round trip", alias, a, known, b, stillKnown)
		}
	}
}

func TestSubset(t *testing.T) {
	t.Parallel()
	x := testIndex(t)
	names, err := x.Closure("virtio_net", "vfat")
	if err != nil {
		t.Fatal(err)
	}
	sub := x.Subset(names)
	want := `kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/fs/fat/fat.ko:
kernel/fs/fat/vfat.ko: kernel/fs/fat/fat.ko
kernel/fs/nls/nls_iso8859-1.ko:
kernel/net/core/failover.ko:
`
	if diff := cmp.Diff(want, string(sub.Files()["modules.dep"])); diff != "" {
		t.Errorf("modules.dep of the subset (-want +got):\n%s", diff)
	}
	if got, _ := sub.Lookup("fs-vfat"); len(got) != 1 {
		t.Errorf("Lookup(fs-vfat) in the subset = %v", got)
	}
	if got, known := sub.Lookup("crypto-crc32c"); known {
		t.Errorf("Lookup(crypto-crc32c) in the subset = %v", got)
	}
	if !sub.Builtin("virtio_pci") {
		t.Error("the subset forgot what is built in")
	}
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		files map[string]string
		want  string
	}{
		"no index":            {map[string]string{"modules.alias": ""}, "reading module index: open modules.dep: file does not exist"},
		"no colon":            {map[string]string{"modules.dep": "kernel/a.ko:\nkernel/b.ko kernel/a.ko\n"}, `reading module index: modules.dep line 2: "kernel/b.ko kernel/a.ko" is not FILE: FILE …`},
		"no alias":            {map[string]string{"modules.dep": "a.ko:\n", "modules.alias": "# x\nalias a\n"}, `reading module index: modules.alias line 2: "alias a" is not alias PATTERN MODULE`},
		"no softdep":          {map[string]string{"modules.dep": "a.ko:\n", "modules.softdep": "sofdep a\n"}, `reading module index: modules.softdep line 1: "sofdep a" is not softdep MODULE pre: … post: …`},
		"line without an end": {map[string]string{"modules.dep": strings.Repeat("x", 2<<20)}, "reading module index: modules.dep: bufio.Scanner: token too long"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := kmod.Read(testFS(tt.files)); err == nil || err.Error() != tt.want {
				t.Errorf("Read() error = %v, want %s", err, tt.want)
			}
		})
	}
}

func TestParseConf(t *testing.T) {
	t.Parallel()
	got := kmod.ParseConf(`# a comment
options nls-iso8859-1 a=1
options nls_iso8859-1 b="x y" \
  c
blacklist pcspkr
alias net-x virtio-net
softdep vfat pre: fat
install evil /bin/rm -rf /
options
`)
	want := kmod.Conf{
		Options:   map[string]string{"nls_iso8859_1": `a=1 b="x y" c`},
		Blacklist: map[string]bool{"pcspkr": true},
		Aliases:   []kmod.Alias{{Pattern: "net-x", Module: "virtio_net"}},
		Softdeps:  []kmod.Softdep{{Module: "vfat", Pre: []string{"fat"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseConf() (-want +got):\n%s", diff)
	}
}

func TestParseCmdline(t *testing.T) {
	t.Parallel()
	got := kmod.ParseCmdline(`quiet console=ttyS0,115200 virtio-net.napi_tx=0 dyndbg="file drivers/usb/* +p" usbcore.quirks="a b" usbcore.nousb modprobe.blacklist=pcspkr,e1000-x root=/dev/x.y -- after.it=1`)
	want := kmod.Conf{
		Options:   map[string]string{"virtio_net": "napi_tx=0", "usbcore": `quirks="a b" nousb`},
		Blacklist: map[string]bool{"pcspkr": true, "e1000_x": true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseCmdline() (-want +got):\n%s", diff)
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	a := kmod.ParseConf("options m a=1\nblacklist x\n")
	b := kmod.ParseCmdline("m.a=2 n.b=3 modprobe.blacklist=y")
	got := a.Merge(b)
	want := kmod.Conf{
		Options:   map[string]string{"m": "a=1 a=2", "n": "b=3"},
		Blacklist: map[string]bool{"x": true, "y": true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Merge() (-want +got):\n%s", diff)
	}
	if a.Options["m"] != "a=1" {
		t.Errorf("Merge changed its receiver: %v", a.Options)
	}
	if got := (kmod.Conf{}).Merge(b); got.Options["n"] != "b=3" {
		t.Errorf("Merge of the zero Conf = %v", got)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(testFiles["modules.dep"], testFiles["modules.alias"], testFiles["modules.softdep"], testFiles["modules.builtin.modinfo"])
	f.Add("a.ko: b.ko\nb.ko: a.ko\n", "alias [ a\nalias \\ b\n", "softdep a pre: b\nsoftdep b post: a\n", "x")
	f.Fuzz(func(t *testing.T, dep, alias, softdep, modinfo string) {
		x, err := kmod.Read(testFS(map[string]string{
			"modules.dep": dep, "modules.alias": alias, "modules.softdep": softdep, "modules.builtin.modinfo": modinfo,
		}))
		if err != nil {
			return
		}
		for m := range x.All() {
			if _, err := x.Closure(m.Name); err != nil && !strings.Contains(m.Name, "/") {
				// A module may have a name that only its path spells.
				if _, ok := x.Module(m.Name); !ok {
					t.Errorf("Closure(%q): %v", m.Name, err)
				}
			}
		}
		x.Nodes()
		x.Lookup("pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00")
	})
}
