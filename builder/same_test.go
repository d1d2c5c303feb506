package builder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	diskfile "github.com/diskfs/go-diskfs/backend/file"
	diskfs "github.com/diskfs/go-diskfs/filesystem/squashfs"
	"github.com/google/go-cmp/cmp"

	"muster/builder/deb/debtest"
	"muster/builder/hybrid"
	"muster/builder/uki"
	"muster/images"
)

// sameDefinition has every kind of artifact.
const sameDefinition = testDefinition + packageList + "media: [netboot, iso, uki, img]\n"

// TestSameBytes builds every artifact again in a process of its own, in unlike surroundings:
// another folder, cache, user, umask, time zone, language and number of processors.
func TestSameBytes(t *testing.T) {
	a := userlandArchive(t, append(mediumPackages(), stubPackage())...)
	first := testConfig(t, a, sameDefinition)
	m := mustBuild(t, first)
	for _, kind := range []images.ArtifactKind{images.KindKernel, images.KindInitramfs, images.KindUserland, images.KindModules, images.KindLoader, images.KindISO, images.KindUKI, images.KindIMG, images.KindSBOM, images.KindSources} {
		if _, ok := m.File(kind); !ok {
			t.Errorf("the image has no %s, and so does not test it", kind)
		}
	}
	dir, err := os.MkdirTemp("", "muster-same-") // where another user may go, which t.TempDir is not
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	test := filepath.Join(dir, "test")
	if err := errors.Join(os.Chmod(dir, 0o755), copyFile(test, os.Args[0])); err != nil {
		t.Fatal(err)
	}
	users := []*syscall.Credential{nil}
	if os.Geteuid() == 0 {
		users = append(users, &syscall.Credential{Uid: 65534, Gid: 65534})
	}
	for i, user := range users {
		home := filepath.Join(dir, fmt.Sprintf("a home, %d", i))
		if err := os.Mkdir(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if user != nil {
			if err := os.Chown(home, int(user.Uid), int(user.Gid)); err != nil {
				t.Fatal(err)
			}
		}
		order := buildOrder{Mirror: first.Definition.Mirror, Keyring: first.Keyring, Out: filepath.Join(home, "out"), Cache: filepath.Join(home, "cache")}
		text, err := json.Marshal(order)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `umask 077; exec "$0" -test.run='^TestBuildOrder$'`, test)
		cmd.Dir = home
		cmd.Env = []string{orderVariable + "=" + string(text), "TZ=Asia/Kathmandu", "GOMAXPROCS=1", "LANG=tr_TR.UTF-8", "HOME=/nowhere", "TMPDIR=" + home}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building in another process: %v\n%s", err, out)
		}
		for _, d := range differences(t, first.Out, order.Out) {
			t.Error(d)
		}
		for _, x := range m.Artifacts {
			fi, err := os.Stat(filepath.Join(order.Out, x.Name))
			if err != nil || fi.Mode().Perm() != 0o644 {
				t.Errorf("%s has mode %v, %v; want 0644 whatever the umask", x.Name, fi.Mode(), err)
			}
		}
	}
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// orderVariable holds the buildOrder of a process that TestSameBytes starts.
const orderVariable = "MUSTER_TEST_BUILD_ORDER"

type buildOrder struct {
	Mirror     string
	Keyring    []byte
	Out, Cache string
}

// TestBuildOrder is the other process of TestSameBytes.
func TestBuildOrder(t *testing.T) {
	text := os.Getenv(orderVariable)
	if text == "" {
		t.Skip("run by TestSameBytes")
	}
	var order buildOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, debtest.NewArchive(t), sameDefinition)
	cfg.Definition.Mirror, cfg.Keyring, cfg.Out, cfg.Cache = order.Mirror, order.Keyring, order.Out, order.Cache
	mustBuild(t, cfg)
}

// differences lists what two images have differently, by the members of their artifacts.
func differences(t testing.TB, a, b string) []string {
	t.Helper()
	var out []string
	x, y := contents(t, a), contents(t, b)
	for _, name := range slices.Sorted(maps.Keys(x)) {
		other, ok := y[name]
		delete(y, name)
		switch {
		case !ok:
			out = append(out, name+" is in the first image only")
		case x[name] != other:
			out = append(out, differentMembers(t, name, x[name], other)...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(y)) {
		out = append(out, name+" is in the second image only")
	}
	return out
}

// differentMembers opens two artifacts of one name that differ.
func differentMembers(t testing.TB, name, a, b string) []string {
	t.Helper()
	at := 0
	for at < min(len(a), len(b)) && a[at] == b[at] {
		at++
	}
	out := []string{fmt.Sprintf("%s differs from byte %d (of %d and %d)", name, at, len(a), len(b))}
	var members func(t testing.TB, data string) map[string]string
	switch {
	case name == "initramfs.zst":
		members = initramfsMembers
	case strings.HasSuffix(name, ".sqfs"):
		members = squashfsMembers
	case strings.HasSuffix(name, ".iso"):
		members = isoMembers
	case strings.HasSuffix(name, ".efi"):
		members = ukiMembers
	default:
		return out
	}
	for _, c := range changes(members(t, a), members(t, b)) {
		out = append(out, fmt.Sprintf("%s: %s: %q and %q", name, c.Name, c.Old, c.New))
	}
	return out
}

func ukiMembers(t testing.TB, data string) map[string]string {
	t.Helper()
	im, err := uki.Parse([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, s := range im.Sections {
		out[s.Name] = hashBytes(s.Data)
	}
	return out
}

func initramfsMembers(t testing.TB, data string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "initramfs.zst"), []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for name, r := range records(t, dir) {
		out[name] = fileText(r) + " " + r.MTime.String()
	}
	return out
}

func squashfsMembers(t testing.TB, data string) map[string]string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, data); err != nil {
		t.Fatal(err)
	}
	fsys, err := diskfs.Read(diskfile.New(f, true), int64(len(data)), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := fsys.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := strings.TrimPrefix(dir+"/"+e.Name(), "./")
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			out[name] = fmt.Sprintf("%v %v", info.Mode(), info.ModTime())
			switch {
			case e.IsDir():
				walk(name)
			case e.Type().IsRegular():
				content, err := fsys.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				out[name] += " " + hashBytes(content)
			}
		}
	}
	walk(".")
	return out
}

func isoMembers(t testing.TB, data string) map[string]string {
	t.Helper()
	im, err := hybrid.Open(strings.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for name := range im.Files {
		r, err := im.Reader(name)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := hashReader(r)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = sum.SHA256
	}
	for name, content := range im.ESP {
		out["UEFI partition: "+name] = hashBytes(content)
	}
	return out
}

// TestDifferencesAreNamed changes a file of an image and looks whether it is found in every
// artifact that has it.
func TestDifferencesAreNamed(t *testing.T) {
	a := userlandArchive(t, append(mediumPackages(), stubPackage())...)
	one, two := testConfig(t, a, sameDefinition), testConfig(t, a, strings.Replace(sameDefinition, `"hello\n"`, `"hullo\n"`, 1))
	mustBuild(t, one)
	mustBuild(t, two)
	got := strings.Join(differences(t, one.Out, two.Out), "\n")
	for _, want := range []string{"initramfs.zst: etc/motd: ", "userland.sqfs: etc/motd: ", "test.iso: boot/initrd.zst: ", "manifest.json differs from byte "} {
		if !strings.Contains(got, want) {
			t.Errorf("the differences are\n%s\nwant %q among them", got, want)
		}
	}
	if strings.Contains(got, "userland.sqfs: usr/bin/tool") {
		t.Errorf("a file that is the same is listed:\n%s", got)
	}
	if same := differences(t, one.Out, one.Out); len(same) > 0 {
		t.Errorf("an image differs from itself: %v", same)
	}
}

// TestProgramsOfAnotherClone compiles the node's programs in two folders.
func TestProgramsOfAnotherClone(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the agent in a copy of the source")
	}
	clone := filepath.Join(t.TempDir(), "a clone")
	for _, dir := range []string{"api", "cmd/muster-agent", "cmd/muster-init", "internal", "nodeagent"} {
		if err := os.CopyFS(filepath.Join(clone, dir), os.DirFS(filepath.Join("..", dir))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := copyFile(filepath.Join(clone, name), filepath.Join("..", name)); err != nil {
			t.Fatal(err)
		}
	}
	here, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"muster-agent", "muster-init"} {
		var built [][]byte
		for _, dir := range []string{here, clone} {
			bin := filepath.Join(t.TempDir(), program)
			cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin, "./cmd/"+program)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			data, err := os.ReadFile(bin)
			if err != nil {
				t.Fatal(err)
			}
			built = append(built, data)
		}
		if !bytes.Equal(built[0], built[1]) {
			t.Errorf("%s of another folder differs: %d and %d bytes", program, len(built[0]), len(built[1]))
		}
	}
}

// TestRebuildFromWhatIsKept adds a file: what was unpacked and packed before gives the same
// bytes as an empty cache, also when it was damaged.
func TestRebuildFromWhatIsKept(t *testing.T) {
	a := userlandArchive(t, append(mediumPackages(), stubPackage())...)
	more := strings.Replace(sameDefinition, "files:\n", "files:\n- {path: /etc/more, content: more}\n", 1)
	fresh := testConfig(t, a, more)
	mustBuild(t, fresh)
	for name, damage := range map[string]func(t *testing.T, cache string){
		"whole": func(*testing.T, string) {},
		"packed blocks damaged": func(t *testing.T, cache string) {
			blocks, err := filepath.Glob(filepath.Join(cache, "packed", "*"))
			if err != nil || len(blocks) == 0 {
				t.Fatalf("blocks kept are %v, %v", blocks, err)
			}
			for _, b := range blocks {
				flipBit(t, b)
			}
		},
		"all blobs damaged": func(t *testing.T, cache string) {
			blobs, _ := filepath.Glob(filepath.Join(cache, "blobs", "sha256", "*"))
			for _, b := range blobs {
				flipBit(t, b)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t, a, sameDefinition)
			mustBuild(t, cfg)
			damage(t, cfg.Cache)
			changed := testConfig(t, a, more)
			changed.Cache = cfg.Cache
			mustBuild(t, changed)
			if diff := cmp.Diff([]string(nil), differences(t, fresh.Out, changed.Out)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
