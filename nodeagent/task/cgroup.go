package task

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
)

// cgroups makes the groups of tasks: ROOT/muster-jobs/JOB/INDEX-EPOCH. An
// empty root means that there are none: tasks are then ended by their pid
// namespace alone.
//
// Tasks of one job come and go at once: changing is held by who makes or removes groups, so that that
// of a job does not go between its making and that of a task in it.
type cgroups struct {
	root     string
	changing *sync.Mutex
}

func newCgroups(root string) (cgroups, error) {
	if root == "" {
		return cgroups{}, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return cgroups{}, fmt.Errorf("finding cgroups at %s: %w", root, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return cgroups{}, fmt.Errorf("finding cgroups at %s: it is not cgroup v2", root)
	}
	jobs := filepath.Join(root, "muster-jobs")
	if err := makeGroup(jobs); err != nil {
		return cgroups{}, err
	}
	enable(root)
	enable(jobs)
	if total := memTotal(); total > 0 {
		writeLimit(jobs, "memory.max", tasksMemory(total))
	}
	return cgroups{jobs, new(sync.Mutex)}, nil
}

func makeGroup(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making cgroup: %w", err)
	}
	return nil
}

// enable gives the groups below dir the controllers that dir has.
func enable(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	have := strings.Fields(string(b))
	for _, c := range []string{"cpu", "memory", "io", "pids"} {
		if slices.Contains(have, c) {
			os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
		}
	}
}

// make makes the group of a task and returns its directory, "" for none.
func (c cgroups) make(t api.TaskStart) (string, error) {
	if c.root == "" {
		return "", nil
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	job := filepath.Join(c.root, strconv.FormatUint(t.Job, 10))
	if err := makeGroup(job); err != nil {
		return "", err
	}
	enable(job)
	dir := filepath.Join(job, fmt.Sprintf("%d-%d", t.Index, t.Epoch))
	if err := makeGroup(dir); err != nil {
		return "", err
	}
	setWeight(dir, t.Cores)
	writeLimit(dir, "pids.max", maxProcesses)
	writeLimit(dir, "memory.oom.group", 1) // a task of which a part was killed would hang
	if t.MemMiB > 0 {
		writeLimit(dir, "memory.max", t.MemMiB<<20)
		writeLimit(dir, "memory.swap.max", 0)
	}
	return dir, nil
}

// maxProcesses bounds the processes and threads of a task, so that one that makes more and more
// of them leaves room for the others.
const maxProcesses = 8192

// What agent, kernel and userland keep when tasks take all they can: a tenth, and not less than
// keepLeast.
const (
	keepShare = 10
	keepLeast = 128 << 20
)

// tasksMemory is how many bytes all tasks of a node with total bytes may use together.
func tasksMemory(total int64) int64 {
	return max(total-max(total/keepShare, keepLeast), total/2)
}

// memTotal is the memory of this machine in bytes, 0 when it is not known.
func memTotal() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// writeLimit sets a limit of a group. A kernel without its controller has no such file.
func writeLimit(dir, name string, n int64) {
	os.WriteFile(filepath.Join(dir, name), strconv.AppendInt(nil, n, 10), 0)
}

// outOfMemory says that a task was killed because memory ran out, "" if it was not.
func outOfMemory(dir string, t api.TaskStart) string {
	b, err := os.ReadFile(filepath.Join(dir, "memory.events"))
	if dir == "" || err != nil || field(string(b), "oom_kill") == 0 {
		return ""
	}
	if t.MemMiB > 0 {
		return fmt.Sprintf("out of memory: it needs more than the %d MiB of --mem", t.MemMiB)
	}
	return "out of memory: the tasks of this node need more than it has; with --mem SIZE a task is placed where it has room"
}

// weigh gives a job the processor time of the cores that its tasks here asked
// for.
func (c cgroups) weigh(job uint64, cores int) {
	if c.root != "" {
		setWeight(filepath.Join(c.root, strconv.FormatUint(job, 10)), cores)
	}
}

// setWeight sets cpu.weight, where there is a cpu controller.
func setWeight(dir string, cores int) {
	weight := min(max(cores, 1), 10000)
	os.WriteFile(filepath.Join(dir, "cpu.weight"), []byte(strconv.Itoa(weight)), 0)
}

// remove removes a task's empty group, and the job's if it was the last.
func (c cgroups) remove(dir string) {
	if c.root == "" || dir == "" {
		return
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	os.Remove(dir)
	os.Remove(filepath.Dir(dir))
}

// killGroup kills every process of a group and waits until they are gone.
func killGroup(dir string, patience time.Duration) error {
	if dir == "" {
		return nil
	}
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("killing tasks of %s: %w", dir, err)
	}
	return waitEmpty(dir, patience)
}

// waitEmpty waits until a group has no process. The kernel reports changes of
// cgroup.events as POLLPRI.
func waitEmpty(dir string, patience time.Duration) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return nil // the group is gone
	}
	defer f.Close()
	deadline := time.Now().Add(patience)
	for {
		b := make([]byte, 256)
		n, err := f.ReadAt(b, 0)
		if n == 0 && err != nil {
			return fmt.Errorf("waiting for the end of %s: %w", dir, err)
		}
		if strings.Contains(string(b[:n]), "populated 0") {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("waiting for the end of %s: processes are left after %s", dir, patience)
		}
		unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, int(left.Milliseconds())+1)
	}
}

// usage reads processor time and memory of a group; zero where not known.
func usage(dir string) (cpuMS, memMiB int64) {
	if dir == "" {
		return 0, 0
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cpu.stat")); err == nil {
		cpuMS = field(string(b), "usage_usec") / 1000
	}
	if b, err := os.ReadFile(filepath.Join(dir, "memory.current")); err == nil {
		n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		memMiB = n >> 20
	}
	return cpuMS, memMiB
}

// field finds "name N" in a flat keyed file.
func field(s, name string) int64 {
	for line := range strings.Lines(s) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == name {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// shims opens the group that shims live in, so that an agent's end, or that of
// the service it belongs to, does not end them. It returns nil for none.
func (c cgroups) shims() (*os.File, error) {
	if c.root == "" {
		return nil, nil
	}
	dir := filepath.Join(filepath.Dir(c.root), "muster-shims")
	if err := makeGroup(dir); err != nil {
		return nil, err
	}
	return os.Open(dir)
}
