package nodeagent

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"unsafe"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
	"muster/nodeagent/task"
)

// An attack is something that no task may do. Each protection that it is held by holds it alone:
// with all of them switched off it succeeds, and with any one of them on it is refused.
type attack struct {
	what string
	args []string // of the program attempts
	root bool     // the task is root's
	held []string // names as in weakenings
	// unless says why it cannot be made on this machine; it is then one for a virtual machine. ask: root
	// is asked, without any protection.
	unless string
	memMiB int64  // that the task asks for
	output string // file that its output shall go to
}

const ask = "ask"

// battlefield is what the attacks are aimed at.
type battlefield struct {
	base   string // a folder that node and userland have
	view   task.View
	key    string // file with the node's key
	socket string // of the shim of another task
	work   string // folder of another task
	agent  int    // process of the agent
	other  int    // process of another user's task
	mine   int    // process of another task of the same user
	pty    string // another's terminal
	shm    int    // key of a shared memory segment
	queue  string // name of a message queue
	cgroup string // of the node
	dir    string // with files for all: in the node's /tmp and /dev/shm
}

func (f *battlefield) attacks() []attack {
	b := func(name string) string { return filepath.Join(f.base, name) }
	n := strconv.Itoa
	// Debian's kernel has a level 3: nobody without a capability.
	perf := []string{"filter"}
	if level, _ := os.ReadFile("/proc/sys/kernel/perf_event_paranoid"); strings.TrimSpace(string(level)) > "2" {
		perf = append(perf, "capabilities")
	}
	has := func(file, why string) string {
		if _, err := os.Stat(file); err != nil {
			return why
		}
		return ""
	}
	return []attack{
		// The agent and what is the node's.
		{"signal the agent", []string{"kill", n(f.agent)}, true, []string{"pid namespace"}, "", 0, ""},
		{"signal the agent, as a user", []string{"kill", n(f.agent)}, false, []string{"pid namespace", "capabilities"}, "", 0, ""},
		{"trace the agent", []string{"ptrace", n(f.agent)}, true, []string{"pid namespace", "capabilities"}, "", 0, ""},
		{"open the agent's memory", []string{"process-read", n(f.agent)}, true, []string{"pid namespace", "capabilities"}, "", 0, ""},
		{"take a descriptor of the agent", []string{"steal-descriptor", n(f.agent)}, true, []string{"pid namespace", "capabilities"}, "", 0, ""},
		{"read the agent's environment", []string{"read", "/proc/" + n(f.agent) + "/environ"}, true, []string{"pid namespace", "capabilities"}, "", 0, ""},
		{"read the node's key", []string{"read", f.key}, true, []string{"userland", "private folders"}, "", 0, ""},
		{"read the node's key, as a user", []string{"read", f.key}, false, []string{"userland", "private folders", "capabilities"}, "", 0, ""},
		{"read the orders of another task", []string{"read", filepath.Join(filepath.Dir(f.work), "spec.json")}, false, []string{"userland", "private folders", "capabilities"}, "", 0, ""},
		{"connect to another's shim", []string{"connect", f.socket}, false, []string{"userland", "private folders", "socket mode"}, "", 0, ""},
		{"use a file that the shim left open", []string{"descriptor"}, false, []string{"closed descriptors"}, "", 0, ""},
		{"read a file of the node", []string{"read", b("node-only")}, false, []string{"userland"}, "", 0, ""},
		{"write to the node's files", []string{"create", "/etc/attempt"}, true, []string{"read-only root"}, "", 0, ""},
		{"trace the first process of the task", []string{"trace-init"}, true, []string{"closed init"}, "", 0, ""},

		// Other users' tasks.
		{"signal another user's task", []string{"kill", n(f.other)}, false, []string{"pid namespace", "capabilities"}, "", 0, ""},
		{"signal another task of one's own", []string{"kill", n(f.mine)}, false, []string{"pid namespace"}, "", 0, ""},
		{"trace another task of one's own", []string{"ptrace", n(f.mine)}, false, []string{"pid namespace"}, "", 0, ""},
		{"read another's command line", []string{"print", "/proc/" + n(f.other) + "/cmdline"}, false, []string{"pid namespace"}, "", 0, ""},
		{"read another's environment", []string{"read", "/proc/" + n(f.other) + "/environ"}, false, []string{"pid namespace", "capabilities"}, "", 0, ""},
		{"read another's memory", []string{"process-read", n(f.other)}, false, []string{"pid namespace", "capabilities"}, "", 0, ""},
		{"enter another's /tmp by /proc", []string{"list", "/proc/" + n(f.mine) + "/root/tmp"}, false, []string{"pid namespace"}, "", 0, ""},
		{"list another's working folder", []string{"list", f.work}, false, []string{"userland", "private folders", "capabilities"}, "", 0, ""},
		{"read another's file in /tmp", []string{"read", "/tmp/" + f.dir + "/file"}, false, []string{"userland", "private folders"}, "", 0, ""},
		{"read another's file in /dev/shm", []string{"read", "/dev/shm/" + f.dir + "/file"}, false, []string{"own dev"}, "", 0, ""},
		{"open another's shared memory", []string{"shared-memory", n(f.shm)}, false, []string{"ipc namespace"}, "", 0, ""},
		{"open another's message queue", []string{"message-queue", f.queue}, false, []string{"ipc namespace"}, "", 0, ""},
		{"write to another's terminal", []string{"shout", f.pty}, false, []string{"own dev"}, "", 0, ""},
		{"claim to be another at a socket", []string{"false-credentials"}, false, []string{"capabilities"}, "", 0, ""},
		{"read another's file on a share", []string{"read", b("open/private")}, false, []string{"capabilities"}, "", 0, ""},
		{"read a file of root on a share", []string{"read", b("open/private")}, false, []string{"user"}, "", 0, ""},
		{"have output written to a file of root", []string{"print", "/proc/self/status"}, false, []string{"user"}, "", 0, b("open/link")},
		{"write to a share for reading", []string{"create", b("closed/attempt")}, false, []string{"read-only share"}, "", 0, ""},

		// Devices.
		{"open a disk", []string{"open", "/dev/loop0"}, true, []string{"own dev"}, has("/dev/loop0", "there is no disk"), 0, ""},
		{"write to the kernel's log", []string{"write-open", "/dev/kmsg"}, true, []string{"own dev"}, has("/dev/kmsg", "there is no kmsg"), 0, ""},
		{"read the kernel's log", []string{"kernel-log"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"make a device", []string{"mknod"}, false, []string{"capabilities"}, "", 0, ""},
		{"open a device that lies on a share", []string{"open", b("open/device")}, false, []string{"nodev"}, "", 0, ""},
		{"use input and output ports", []string{"port-access"}, false, []string{"capabilities"}, ask, 0, ""},

		// More rights.
		{"become root", []string{"become-root"}, false, []string{"capabilities"}, "", 0, ""},
		{"join group 0", []string{"groups"}, false, []string{"capabilities"}, "", 0, ""},
		{"give a file to root", []string{"chown"}, false, []string{"capabilities"}, "", 0, ""},
		{"start a set-uid program", []string{"setuid-program", b("bin/setuid")}, false, []string{"no new privileges"}, "", 0, ""},
		{"start a set-uid program on a share", []string{"setuid-program", b("open/setuid")}, false, []string{"no new privileges", "nosuid"}, "", 0, ""},
		{"start a program with capabilities", []string{"file-capability", b("bin/capable")}, false, []string{"no new privileges", "bounding set"}, "", 0, ""},
		{"run before others", []string{"nice"}, false, []string{"capabilities"}, "", 0, ""},
		{"run in real time", []string{"realtime"}, false, []string{"capabilities"}, "", 0, ""},
		{"raise a hard limit", []string{"hard-limit"}, false, []string{"capabilities"}, f.lacks(capSysResource), 0, ""},
		{"be spared when memory runs out", []string{"spared"}, false, []string{"oom score"}, f.lacks(capSysResource), 0, ""},
		{"see to being spared", []string{"unsparing"}, false, []string{"read-only proc", "capabilities"}, f.lacks(capSysResource), 0, ""},
		{"open a file by its handle", []string{"handle"}, false, []string{"filter", "capabilities"}, "", 0, ""},

		// The node as a whole.
		{"set the node's host name", []string{"host-name", mustReadlink("/proc/self/ns/uts")}, false, []string{"uts namespace", "capabilities"}, "", 0, ""},
		{"set the clock", []string{"clock"}, false, []string{"capabilities"}, "", 0, ""},
		{"change a setting of the kernel", []string{"rewrite", "/proc/sys/kernel/core_pattern"}, true, []string{"read-only proc"}, "", 0, ""},
		{"write to /sys", []string{"write-open", "/sys/kernel/mm/transparent_hugepage/enabled"}, true, []string{"read-only root"}, has("/sys/kernel/mm/transparent_hugepage/enabled", "there is no such file"), 0, ""},
		{"make a control group", []string{"create", f.cgroup + "/muster-jobs/attempt/"}, true, []string{"read-only root"}, "", 0, ""},
		{"leave the control group", []string{"leave-group", f.cgroup + "/muster-jobs/left"}, true, []string{"read-only root"}, "", 0, ""},
		{"restart the node", []string{"reboot"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"start another kernel", []string{"kexec"}, false, []string{"filter", "capabilities"}, ask, 0, ""},
		{"load a module from a file", []string{"finit-module"}, false, []string{"filter", "capabilities"}, ask, 0, ""},
		{"load a module from memory", []string{"init-module"}, false, []string{"filter", "capabilities"}, ask, 0, ""},
		{"remove a module", []string{"delete-module"}, false, []string{"filter", "capabilities"}, ask, 0, ""},
		{"add swap", []string{"swapon"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"record all processes", []string{"accounting"}, false, []string{"filter", "capabilities"}, ask, 0, ""},
		{"configure the network", []string{"interface"}, false, []string{"capabilities"}, "", 0, ""},
		{"send raw packets", []string{"raw-socket"}, false, []string{"capabilities"}, "", 0, ""},
		{"listen to a network card", []string{"packet-socket"}, false, []string{"capabilities"}, "", 0, ""},
		{"take a port below 1024", []string{"low-port"}, false, []string{"capabilities"}, "", 0, ""},

		{"make processes without end", []string{"processes", "8200"}, true, []string{"pids limit"}, f.uncontrolled("pids"), 0, ""},
		{"take more memory than was asked for", []string{"memory", "256"}, false, []string{"memory limit"}, f.uncontrolled("memory"), 64, ""},

		// Mounts and namespaces.
		{"mount", []string{"mount"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"unmount", []string{"umount"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"make the root writable", []string{"remount"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"change the root", []string{"pivot-root"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"chroot", []string{"chroot"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"mount by the newer calls", []string{"fsopen"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"copy a mount", []string{"open-tree"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"enter a namespace", []string{"setns"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"make a user namespace", []string{"user-namespace"}, false, []string{"filter"}, "", 0, ""},
		{"make a user namespace by clone", []string{"clone-namespace"}, false, []string{"filter"}, "", 0, ""},
		{"make a user namespace by clone3", []string{"clone3-namespace"}, false, []string{"filter"}, "", 0, ""},

		// The kernel's more dangerous parts, and what no checkpoint knows.
		{"use bpf", []string{"bpf"}, false, []string{"filter", "capabilities"}, "", 0, ""},
		{"use perf", []string{"perf"}, false, perf, "", 0, ""},
		{"watch a file system by fanotify", []string{"fanotify"}, false, []string{"filter"}, "", 0, ""},
		{"use userfaultfd", []string{"userfaultfd"}, false, []string{"filter"}, "", 0, ""},
		{"use io_uring", []string{"io-uring"}, false, []string{"filter"}, "", 0, ""},
		{"use keyrings", []string{"keyring"}, false, []string{"filter"}, "", 0, ""},
		{"use landlock", []string{"landlock"}, false, []string{"filter"}, "", 0, ""},
		{"use secret memory", []string{"secret-memory"}, false, []string{"filter"}, "", 0, ""},
		{"make a vsock socket", []string{"vsock"}, false, []string{"filter"}, ask, 0, ""},
		{"make an AF_ALG socket", []string{"alg"}, false, []string{"filter"}, ask, 0, ""},
		{"make a 32-bit system call", []string{"int80"}, false, []string{"filter"}, "", 0, ""},
		{"make a system call that is newer than the filter", []string{"new-call"}, false, []string{"filter"}, ask, 0, ""},
	}
}

func mustReadlink(path string) string {
	to, err := os.Readlink(path)
	if err != nil {
		panic(err)
	}
	return to
}

// uncontrolled says that control groups do not have a controller here.
func (f *battlefield) uncontrolled(controller string) string {
	if b, err := os.ReadFile(filepath.Join(f.cgroup, "cgroup.controllers")); err != nil || !strings.Contains(string(b), controller) {
		return "no controller " + controller + " here"
	}
	return ""
}

// capSysResource is the capability of a process that has no limits.
const capSysResource = 24

// lacks says that this machine does not have a capability itself, "" if it does.
func (f *battlefield) lacks(capability uint) string {
	if r, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(capability), 0, 0, 0); err != nil || r == 0 {
		return "root lacks the capability here"
	}
	return ""
}

// TestAttempts makes every attack twice and more: in a task as it is, where it has to be refused,
// and in tasks without the protections that hold it, where it has to succeed. It prints the table.
func TestAttempts(t *testing.T) {
	needRoot(t)
	f := newBattlefield(t)
	strict := newNode(t, func(c *Config) { f.arm(t, c) })
	f.fill(t, strict)
	weakInit, weakAgent := buildWeakened(t, f.base)
	weak := newNode(t, func(c *Config) {
		f.arm(t, c)
		c.Init, c.Shim = weakInit, []string{c.Shim[0], weakAgent, "shim"}
	})
	left := filepath.Join(f.cgroup, "muster-jobs/left")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(left)
	weakSocket := f.victim(t, weak, 1, api.Owner{User: "other", UID: 5000, GID: 5000}, "WITHOUT=socket mode").socket
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ATTEMPT\tHELD BY\tWITH\tWITHOUT")
	job := uint64(1000)
	// try returns what became of an attack on a node, without some protections.
	try := func(n *node, a attack, without ...string) (got string, ok bool) {
		job++
		if slices.Contains(without, "socket mode") {
			a.args = []string{"connect", weakSocket}
		}
		s := command(job, append([]string{filepath.Join(f.base, "bin/attempts")}, a.args...)...)
		s.MemMiB, s.Output = a.memMiB, a.output
		if a.root {
			s.Owner = api.Owner{User: "root"}
		}
		if slices.Contains(without, "uts namespace") {
			s.Host, _ = os.Hostname() // it is that of this machine that would be set
		}
		if len(without) > 0 {
			s.Env = []string{"WITHOUT=" + strings.Join(without, ",")}
		}
		ref := n.begin(s)
		o := n.outcome(ref)
		n.forget(ref)
		got = strings.TrimSpace(o.Stdout)
		switch {
		case o.Code == 0 && o.Error == "":
			return got, true
		case o.Code == 1 && o.Error == "" && o.Stderr == "":
			return got, false
		case o.Signal == int(unix.SIGSYS):
			return "killed by SIGSYS", false
		case strings.HasPrefix(o.Error, "out of memory: "), strings.HasPrefix(o.Error, "opening "+a.output+" for output: permission denied"):
			return o.Error, false
		}
		t.Errorf("%s without %q: the attempt is at fault: %+v", a.what, without, o)
		return "?", false
	}
	made := 0
	for _, a := range f.attacks() {
		t.Run(a.what, func(t *testing.T) {
			if a.unless != "" && a.unless != ask && strings.HasSuffix(a.held[0], " limit") {
				fmt.Fprintf(w, "%s\t%s\t%s\t\n", a.what, a.held[0], "not tried: "+a.unless)
				return // nothing holds it here
			}
			with, ok := try(strict, a)
			if ok {
				t.Errorf("in a task as it is: succeeded: %s", with)
			}
			if a.unless == ask {
				a.unless = ""
				if out, err := exec.Command(filepath.Join(f.base, "bin/attempts"), a.args...).Output(); err != nil {
					a.unless = "refused to root too: " + strings.TrimSpace(string(out))
				}
			}
			without := "not tried: " + a.unless
			if a.unless == "" {
				made++
				if without, ok = try(weak, a, a.held...); !ok {
					t.Errorf("without %q: refused: %s", a.held, without)
				}
				for i, p := range a.held {
					if len(a.held) == 1 {
						break
					}
					if got, ok := try(weak, a, slices.Delete(slices.Clone(a.held), i, i+1)...); ok {
						t.Errorf("with %q alone: succeeded: %s", p, got)
					}
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.what, strings.Join(a.held, "; "), with, without)
		})
	}
	w.Flush()
	t.Logf("%d attempts; each protection holds alone:\n%s", made, table.String())
	if made < 30 {
		t.Errorf("%d attempts were made both ways, want 30", made)
	}
}

// TestBuildAttempts builds what TestAttempts needs on a machine without Go into the folder MUSTER_ATTEMPTS_OUT.
func TestBuildAttempts(t *testing.T) {
	dir := os.Getenv("MUSTER_ATTEMPTS_OUT")
	if dir == "" {
		t.Skip("run by TestVMAttempts")
	}
	buildWeakened(t, dir)
	goBuild(t, filepath.Join(dir, "init"), "muster/cmd/muster-init")
	goBuild(t, filepath.Join(dir, "attempts"), "./testdata/attempts")
}

func newBattlefield(t *testing.T) *battlefield {
	t.Helper()
	// Tasks have a /tmp of their own, so what both see cannot be there.
	if err := os.MkdirAll("/srv", 0o755); err != nil {
		t.Fatal(err)
	}
	base, err := os.MkdirTemp("/srv", "muster-attempts-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	f := &battlefield{base: base, agent: os.Getpid(), dir: filepath.Base(base), queue: filepath.Base(base)}
	f.view.Root = smallUserland(t)
	program := filepath.Join(t.TempDir(), "attempts")
	goBuild(t, program, "./testdata/attempts")
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	// put writes a file on the node, and in the userland too.
	put := func(name string, mode os.FileMode, content []byte, userland bool) {
		t.Helper()
		for _, top := range []string{"/", f.view.Root} {
			if top != "/" && !userland {
				continue
			}
			file := filepath.Join(top, base, name)
			err := os.MkdirAll(filepath.Dir(file), 0o755)
			if err == nil {
				err = os.WriteFile(file, content, 0o600)
			}
			if err == nil {
				err = os.Chmod(file, mode)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	put("bin/attempts", 0o755, content, true)
	put("bin/setuid", 0o755|os.ModeSetuid, content, true)
	put("bin/capable", 0o755, content, true)
	put("node-only", 0o644, []byte("the node's"), false)
	put("open/x", 0o644, nil, true) // shares lie on folders that are there
	put("closed/x", 0o644, nil, true)
	put("from-open/private", 0o600, []byte("root's"), false)
	put("from-open/log", 0o600, []byte("root's"), false)
	put("from-open/setuid", 0o755|os.ModeSetuid, content, false)
	put("from-closed/file", 0o644, nil, false)
	// struct vfs_cap_data of linux/capability.h, version 2, effective: CAP_SYS_TIME.
	capability := []byte{1, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, top := range []string{"/", f.view.Root} {
		if err := unix.Setxattr(filepath.Join(top, base, "bin/capable"), "security.capability", capability, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("log", filepath.Join(base, "from-open/link")); err != nil {
		t.Fatal(err)
	}
	device := filepath.Join(base, "from-open/device")
	if err := unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	for file, mode := range map[string]os.FileMode{device: 0o666, filepath.Join(base, "from-closed"): 0o777} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	f.view.Shares = []task.Share{
		{From: filepath.Join(base, "from-open"), To: filepath.Join(base, "open")},
		{From: filepath.Join(base, "from-closed"), To: filepath.Join(base, "closed"), ReadOnly: true},
	}
	for _, dir := range []string{"/tmp", "/dev/shm"} {
		dir = filepath.Join(dir, f.dir)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("another's"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// arm configures a node.
func (f *battlefield) arm(t *testing.T, c *Config) {
	t.Helper()
	// As on a node, where this is below /run: one of the folders that are each task's own.
	var err error
	if c.RunDir, err = os.MkdirTemp("/tmp", "muster-agent-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(c.RunDir) })
	if err := os.Chmod(c.RunDir, 0o755); err != nil {
		t.Fatal(err)
	}
	f.key, f.cgroup = filepath.Join(c.RunDir, "key"), c.CgroupRoot
	c.view = func() (task.View, error) { return f.view, nil }
	// Its shims are started with a file open that nobody should have.
	wrapper := filepath.Join(t.TempDir(), "wrapper")
	if err := os.WriteFile(wrapper, []byte("#!"+need.Program(t, "busybox", "busybox-static")+" sh\nexec 9</proc/version\nexec \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c.Shim = []string{wrapper, self, "shim"}
}

// fill makes what the attacks are aimed at: tasks of others, and what programs of others
// would have on this node.
func (f *battlefield) fill(t *testing.T, n *node) {
	t.Helper()
	f.mine = f.victim(t, n, 1, api.Owner{User: "someone", UID: 4711, GID: 4712}).program
	other := f.victim(t, n, 2, api.Owner{User: "other", UID: 5000, GID: 5000})
	f.other, f.work, f.socket = other.program, other.work, other.socket

	f.shm = os.Getpid() | 1<<24
	id, err := unix.SysvShmGet(f.shm, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
			t.Error(err)
		}
	})
	name, err := unix.BytePtrFromString(f.queue)
	if err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0)
	fd, _, e := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o666, 0, 0, 0)
	unix.Umask(old)
	if e != 0 {
		t.Fatal(e)
	}
	unix.Close(int(fd))
	t.Cleanup(func() { unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0) })

	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		need.Missing(t, "there are no terminals here: %v", err)
	}
	t.Cleanup(func() { ptmx.Close() })
	number, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0)
	}
	f.pty = fmt.Sprintf("/dev/pts/%d", number)
	if err == nil {
		err = os.Chmod(f.pty, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// victim is a task that others are after.
type victim struct {
	program      int // process of its program
	work, socket string
}

func (f *battlefield) victim(t *testing.T, n *node, job uint64, owner api.Owner, env ...string) victim {
	t.Helper()
	s := shell(job, "echo ready; sleep 1000; echo secret")
	s.Owner, s.Env = owner, append(env, "SECRET=1")
	ref := n.begin(s)
	n.wait("another's task", func() bool { return bytes.Contains(n.outputOf(ref.String()).stdout, []byte("ready")) })
	init := 0
	for _, st := range n.agent.tasks.Statuses() {
		if st.TaskRef == ref {
			init = st.PID
		}
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", init, init))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(n.agent.cfg.RunDir, "tasks", ref.String())
	v := victim{work: filepath.Join(dir, "work"), socket: filepath.Join(dir, "sock")}
	if v.program, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
		t.Fatal(err)
	}
	return v
}
