package depmod_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/internal/kmod"
	"muster/internal/kmod/depmod"
	"muster/internal/need"
)

// realModules returns a folder that has the modules of a Debian kernel below
// lib/modules/RELEASE, without an index: the one that MUSTER_MODULES names, or
// a kernel package that is fetched with apt where MUSTER_NET=1 allows it.
func realModules(t testing.TB) (root, release string) {
	t.Helper()
	root = os.Getenv("MUSTER_MODULES")
	if root == "" {
		if os.Getenv("MUSTER_NET") != "1" {
			t.Skip("only in make test-net, which fetches the modules of a real kernel; MUSTER_MODULES names a folder that has lib/modules/RELEASE")
		}
		root = fetchKernel(t)
	}
	for _, pattern := range []string{"lib/modules/*", "usr/lib/modules/*"} {
		if found, _ := filepath.Glob(filepath.Join(root, pattern)); len(found) > 0 {
			return root, filepath.Base(found[0])
		}
	}
	t.Fatalf("%s has no lib/modules", root)
	return "", ""
}

var cloudKernel = regexp.MustCompile(`(?m)^(linux-image-[0-9][^ ]*-cloud-amd64) `)

func fetchKernel(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	names := cloudKernel.FindAllStringSubmatch(output(t, dir, "apt-cache", "search", "--names-only", "^linux-image-[0-9].*-cloud-amd64$"), -1)
	if len(names) == 0 {
		t.Skip("apt knows no Debian kernel")
	}
	output(t, dir, "apt-get", "-q", "download", names[len(names)-1][1])
	debs, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	output(t, dir, "dpkg-deb", "-x", debs[0], "root")
	return filepath.Join(dir, "root")
}

func output(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, stderr.Bytes())
	}
	return string(out)
}

// buildReal indexes the modules below dir.
func buildReal(t testing.TB, dir string) *depmod.Set {
	t.Helper()
	in := depmod.Input{
		Order:          readMaybe(t, dir, "modules.order"),
		Builtin:        readMaybe(t, dir, "modules.builtin"),
		BuiltinModinfo: readMaybe(t, dir, "modules.builtin.modinfo"),
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !kmod.IsModuleFile(p) {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		ko, err := depmod.Unpack(p, f)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := depmod.Parse(rel, bytes.NewReader(ko))
		in.Modules = append(in.Modules, info)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	set, err := depmod.Build(in)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func readMaybe(t testing.TB, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return text
}

// TestDepmod compares our index of a real kernel with that of Debian's depmod.
func TestDepmod(t *testing.T) {
	tool := need.Program(t, "depmod", "kmod")
	root, release := realModules(t)
	theirs := filepath.Join(t.TempDir(), "root")
	modules := filepath.Join(theirs, "lib", "modules")
	if err := os.MkdirAll(modules, 0o755); err != nil {
		t.Fatal(err)
	}
	from := filepath.Join(root, "lib", "modules", release)
	if _, err := os.Stat(from); err != nil {
		from = filepath.Join(root, "usr", "lib", "modules", release)
	}
	output(t, modules, "cp", "-rl", "--", from, ".")
	dir := filepath.Join(modules, release)
	for _, name := range []string{"modules.dep", "modules.dep.bin", "modules.alias", "modules.alias.bin", "modules.softdep"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	set := buildReal(t, dir)
	output(t, theirs, tool, "-b", theirs, release)
	want, err := kmod.Read(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d modules", release, set.Index.Len())
	if set.Index.Len() < 500 {
		t.Errorf("%d modules, want at least 500", set.Index.Len())
	}
	if diff := cmp.Diff(depSets(want), depSets(set.Index)); diff != "" {
		t.Errorf("dependencies (-depmod +ours):\n%.2000s", diff)
	}
	checkOrder(t, set.Index)
	got := set.Index.Files()
	for _, name := range []string{"modules.alias", "modules.softdep", "modules.devname"} {
		wantText := readMaybe(t, dir, name)
		if diff := cmp.Diff(sortedLines(wantText), sortedLines(got[name])); diff != "" {
			t.Errorf("%s (-depmod +ours):\n%.2000s", name, diff)
		}
	}
	compareResolve(t, theirs, release, set.Index)
}

func depSets(x *kmod.Index) map[string][]string {
	sets := make(map[string][]string)
	for m := range x.All() {
		deps := append([]string{}, m.Deps...)
		slices.Sort(deps)
		sets[m.Path] = deps
	}
	return sets
}

// checkOrder checks that each module's dependencies can be loaded from last to
// first.
func checkOrder(t *testing.T, x *kmod.Index) {
	t.Helper()
	for m := range x.All() {
		for i, name := range m.Deps {
			dep, _ := x.Module(name)
			for _, needed := range dep.Deps {
				if slices.Index(m.Deps, needed) < i {
					t.Errorf("%s: %s comes after %s, which needs it", m.Name, needed, name)
				}
			}
		}
	}
}

func sortedLines(text []byte) []string {
	return slices.Sorted(strings.Lines(string(text)))
}

// aliases of real devices and of what the kernel asks for.
var realAliases = []string{
	"pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00",
	"pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00",
	"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
	"pci:v000010ECd00008168sv00001043sd000085C8bc02sc00i00",
	"virtio:d00000001v00001AF4", "usb:v0781p5583d0100dc00dsc00dp00ic08isc06ip50in00",
	"acpi:PNP0C0C:", "acpi:PNP0303:", "fs-nfs", "fs-vfat", "fs-iso9660", "nls_cp437", "crypto-crc32c", "net-pf-16-proto-4-type-4",
	"cpu:type:x86,ven0000fam0006mod008E:feature:,0000,0001,0002,0003,0004,0005,0006,0007,0008,000B,000C,000D,000E,000F,0010,0011,0013,0017,0018,0019,001A,0034,006D,0099,",
	"dmi:bvnSeaBIOS:bvr1.16:bd04/01/2014:br0.0:svnQEMU:pnStandardPC:", "devname:fuse", "char-major-10-200", "nosuch:alias",
}

// compareResolve compares what an alias stands for with modprobe's answer.
func compareResolve(t *testing.T, root, release string, x *kmod.Index) {
	t.Helper()
	modprobe := need.Program(t, "modprobe", "kmod")
	some := 0
	for _, alias := range realAliases {
		cmd := exec.Command(modprobe, "-d", root, "-S", release, "-R", alias)
		out, err := cmd.Output()
		want := strings.Fields(string(out))
		if err != nil && len(want) > 0 {
			t.Fatalf("modprobe -R %s: %v", alias, err)
		}
		got, _ := x.Lookup(alias)
		slices.Sort(want)
		want = slices.DeleteFunc(slices.Compact(want), x.Builtin)
		got = slices.Sorted(slices.Values(got))
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("Lookup(%s) = %v, modprobe says %v", alias, got, want)
		}
		some += len(got)
	}
	if some < 5 {
		t.Errorf("all aliases together stand for %d modules: the comparison says nothing", some)
	}
}

func BenchmarkMatch(b *testing.B) {
	root, release := realModules(b)
	dir := filepath.Join(root, "lib", "modules", release)
	if _, err := os.Stat(dir); err != nil {
		dir = filepath.Join(root, "usr", "lib", "modules", release)
	}
	x := buildReal(b, dir).Index
	for b.Loop() {
		for _, alias := range realAliases {
			x.Match(alias)
		}
	}
}
