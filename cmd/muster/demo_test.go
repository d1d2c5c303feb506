package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/internal/need"
	"muster/internal/vm"
)

// demoCommand is the program's demo in folder dir, with every other file that
// it might write below home.
func demoCommand(t *testing.T, dir, home string) *exec.Cmd {
	t.Helper()
	for _, f := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		if err := vm.Installed(f); err != nil {
			need.Missing(t, "%v", err)
		}
	}
	bin := need.File(t, os.Getenv("MUSTER_BIN"), "run the tests with make, which builds bin/muster")
	image := os.Getenv("MUSTER_IMAGE")
	need.File(t, filepath.Join(image, "manifest.json"), "run the tests with make, which builds the image")
	engine := os.Getenv("MUSTER_GANESHA")
	need.File(t, filepath.Join(engine, ganeshaProgram), "run the tests with make, which unpacks nfs-ganesha")
	cmd := exec.Command(bin, "demo", "--dir", dir, "--image", image, "--engine", engine, "--keep=no")
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "XDG_STATE_HOME="+home, "XDG_CACHE_HOME="+home)
	cmd.Dir = home
	return cmd
}

// TestVMDemo runs the demo as a newcomer does and reads what it shows.
func TestVMDemo(t *testing.T) {
	dir := t.ArtifactDir()
	cmd := demoCommand(t, dir, t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("muster demo: %v\n%s", err, out)
	}
	text := string(out)
	order := []string{
		`both wait for approval`,
		`(?m)^bios +(\S+) +(\S+)$`,
		`(?m)^uefi +(\S+) +(\S+)$`,
		`(?m)^\$ muster run hostname\nn[12]$`,
		`(?m)^\$ muster run -n 2 --spread -- uname -n -r -m\nn[12] \S+ x86_64\nn[12] \S+ x86_64$`,
		`(?m)^a\nb$`,
		`(?m)^\$ muster run python3 -c 'print\(6\*7\)'\n42$`,
		`(?m)^\$ muster run sh -c 'exit 7'; echo \$\?\n7$`,
		`(?m)^148933 primes below 2000000, counted on n[12]$`,
		`(?m)^\d: task \d of 8$`,
		`(?m)^\$ muster run --send in.dat --fetch out.dat .*\napple\npear$`,
		`(?m)^\$ muster run -d .*\n(?:muster: .*\n)?\d+\n\$ muster job logs -f \d+\n1\n2\n3$`,
		`(?m)^\$ muster share add (/srv/muster-demo/work|\S+/share/work)( --no-root-squash)?\n`,
		`(?m)^\$ muster share add \S+/data --ro\n`,
		`both nodes have mounted both folders`,
		`(?m)^\$ cd \S+/work && muster run \./prog data\.txt\n(?:muster: .*\n)*5 words, counted by \S+ on n[12] in \S+/work$`,
		`(?m)^\$ cd \S+/work && cat data\.txt\.count\n5$`,
		`(?m)^100\nsh: .*big\.dat: Read-only file system$`,
		`(?m)^\$ cd \S+/work && muster run -t .*\n(?:muster: .*\n)*/dev/pts/\d+\s+\d+ \d+\s+$`,
		`(?m)^\$ cd \S+/work && muster run -d -o sim\.log \./long\n(?:muster: .*\n)*\d+\n`,
		`(?m)^\$ muster job logs -f \d+\n(?:muster: .*\n)*step 1\nstep 2\nstep 3$`,
		`(?m)^\$ muster share list\n`,
		`(?m)^\$ muster share show \S+/work\n`,
		`(?m)^\$ muster exec --all uname -r\n(n[12]: \S+\n){2}muster: n\[1-2\]: exit status 0, the same output on all 2 nodes$`,
		`(?m)^n1 +ready .*\nn2 +ready `,
	}
	rest := text
	for _, want := range order {
		loc := regexp.MustCompile(want).FindStringIndex(rest)
		if loc == nil {
			t.Fatalf("the demo does not show %s where it ought to:\n%s", want, text)
		}
		rest = rest[loc[1]:]
	}
	for _, f := range regexp.MustCompile(`(?m)^(?:bios|uefi) +(\S+-\S+-\S+-\S+) +(\S+)$`).FindAllStringSubmatch(text, -1) {
		if f[1] != f[2] {
			t.Errorf("the screen shows %s, the head %s", f[1], f[2])
		}
	}
}

// interrupts is how often the demo is interrupted; its boots are left out for the
// most part, since three of four times are short ones.
const interrupts = 20

// TestVMDemoInterrupted ends the demo with Ctrl-C at random times: nothing of it is
// there afterwards but its folder.
func TestVMDemoInterrupted(t *testing.T) {
	home := t.TempDir()
	before := takeInventory(t, home)
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	whole := 25 * time.Second // what a demo takes at least, as far as it was seen here
	interrupted := 0
	for i := range interrupts {
		most := min(whole, 2*time.Second)
		if i%4 == 0 {
			most = whole
		}
		after := time.Duration(random.Int64N(int64(most)))
		dir := filepath.Join(t.ArtifactDir(), fmt.Sprint(i))
		cmd := demoCommand(t, dir, home)
		// A terminal sends Ctrl-C to its whole foreground group.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		start := time.Now()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			// On a fast machine a whole demo is shorter than was expected.
			if err != nil {
				t.Fatalf("the demo failed before it was interrupted at %v: %v\n%s", after, err, out.String())
			}
			whole = time.Since(start)
		case <-time.After(after):
			interrupted++
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Fatalf("interrupted at %v, the demo has not ended a minute later:\n%s", after, out.String())
			}
		}
		if d := cmp.Diff(before, takeInventory(t, home)); d != "" {
			t.Fatalf("interrupted at %v, the demo left something (-before +after):\n%s\nit said:\n%s", after, d, out.String())
		}
		if left := listFiles(t, home); len(left) > 0 {
			t.Fatalf("interrupted at %v, the demo left files outside its folder: %q", after, left)
		}
	}
	if interrupted < interrupts/2 {
		t.Errorf("only %d of %d demos were interrupted before they ended", interrupted, interrupts)
	}
}

// inventory is what a program may leave behind.
type inventory struct {
	Processes, Namespaces, Links, Mounts []string
}

// takeInventory lists what is there: links and mounts of this namespace, and
// the processes whose HOME is home, which every process of a demo inherits.
func takeInventory(t *testing.T, home string) inventory {
	t.Helper()
	var inv inventory
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		environ, err := os.ReadFile(p + "/environ")
		if err != nil || !slices.Contains(strings.Split(string(environ), "\x00"), "HOME="+home) {
			continue // it has ended, or is not of the demo
		}
		cmdline, _ := os.ReadFile(p + "/cmdline")
		inv.Processes = append(inv.Processes, filepath.Base(p)+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		if ns, err := os.Readlink(p + "/ns/net"); err == nil {
			inv.Namespaces = append(inv.Namespaces, ns)
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		inv.Links = append(inv.Links, l.Name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	inv.Mounts = strings.Split(strings.TrimSpace(string(mounts)), "\n")
	for _, s := range [][]string{inv.Processes, inv.Namespaces, inv.Links, inv.Mounts} {
		slices.Sort(s)
	}
	return inv
}

func listFiles(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir && !errors.Is(err, fs.ErrNotExist) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
