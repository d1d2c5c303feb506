package nodeagent

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A weakening is an edit of the product's source that switches a protection off where its name is
// in the variable WITHOUT of a task. It is made while a program is built for the test (go build
// -overlay), so that no product has such a switch; an edit that does not fit any more fails the test.
type weakening struct{ file, old, new string }

// weakenings are all of them. w(name) tells whether a protection is off.
var weakenings = []weakening{
	// The in-namespace init.
	{"cmd/muster-init/main.go", "\tinherit()\n\tignoreSignals()", "\tignoreSignals()"},
	{"cmd/muster-init/main.go", "\tsyscall.Close(fdConfig)\n\tif err == nil {", "\tweaken(&c)\n\tinherit()\n\tif err == nil {"},
	{"cmd/muster-init/mounts.go", "cloneMount(c.work, false)", "cloneMount(cmp.Or(workFrom, c.work), false)"},
	{"cmd/muster-init/mounts.go", "import (\n", "import (\n\t\"cmp\"\n"},
	{"cmd/muster-init/main.go", "\tsyscall.RawSyscall(sysCloseRange,", "\tif w(\"closed descriptors\") {\n\t\treturn\n\t}\n\tsyscall.RawSyscall(sysCloseRange,"},
	{"cmd/muster-init/mounts.go", "\tif c.root != \"\" {", "\tif c.root != \"\" && !w(\"userland\") {"},
	{"cmd/muster-init/mounts.go", "\tif err := readOnly(\"/\"); err != nil {", "\tif w(\"read-only root\") {\n\t} else if err := readOnly(\"/\"); err != nil {"},
	{"cmd/muster-init/mounts.go", "\tif err := readOnly(\"/proc\"); err != nil {", "\tif w(\"read-only proc\") {\n\t} else if err := readOnly(\"/proc\"); err != nil {"},
	{"cmd/muster-init/mounts.go", "\tif err := mountDev(c.containers); err != nil {", "\tif w(\"own dev\") {\n\t} else if err := mountDev(c.containers); err != nil {"},
	{"cmd/muster-init/mounts.go", "\tfor _, dir := range c.tmpfs {\n", "\tfor _, dir := range c.tmpfs {\n\t\tif w(\"private folders\") && workFrom == \"\" {\n\t\t\tbreak\n\t\t}\n"},
	{"cmd/muster-init/mounts.go", "\tattr := uint64(mountAttrNoSuid | mountAttrNoDev)\n", "\tattr := uint64(0)\n\tif !w(\"nodev\") {\n\t\tattr |= mountAttrNoDev\n\t}\n\tif !w(\"nosuid\") {\n\t\tattr |= mountAttrNoSuid\n\t}\n"},
	{"cmd/muster-init/mounts.go", "\tif m.readOnly {", "\tif m.readOnly && !w(\"read-only share\") {"},
	{"cmd/muster-init/prepare.go", "\t\tsyscall.Write(fd, []byte(\"0\"))", "\t\tif !w(\"oom score\") {\n\t\t\tsyscall.Write(fd, []byte(\"0\"))\n\t\t}"},
	{"cmd/muster-init/prepare.go", "\tfor capability := range uintptr(lastCapability + 1) {\n", "\tfor capability := range uintptr(lastCapability + 1) {\n\t\tif w(\"capabilities\") || w(\"bounding set\") {\n\t\t\tbreak\n\t\t}\n"},
	{"cmd/muster-init/prepare.go", "\tif e := prctl(prSetNoNewPrivs, 1); e != 0 {", "\tprctl(prSetKeepCaps, 1)\n\tif w(\"no new privileges\") {\n\t} else if e := prctl(prSetNoNewPrivs, 1); e != 0 {"},
	{"cmd/muster-init/prepare.go", "\tif err := syscall.Setgroups(c.groups); err != nil {", "\tif w(\"user\") {\n\t\tc.uid, c.gid, c.groups = 0, 0, nil\n\t}\n\tif err := syscall.Setgroups(c.groups); err != nil {"},
	{"cmd/muster-init/prepare.go", "\theader := struct {", "\tkeepRights(c)\n\theader := struct {"},
	{"cmd/muster-init/prepare.go", "\tvar none [2]struct{ effective, permitted, inheritable uint32 }\n\t_, _, e := syscall.AllThreadsSyscall(", "\tvar none [2]struct{ effective, permitted, inheritable uint32 }\n\tcapset := syscall.AllThreadsSyscall\n\tif w(\"capabilities\") {\n\t\tcapset = func(_, _, _, _ uintptr) (uintptr, uintptr, syscall.Errno) { return 0, 0, 0 }\n\t}\n\t_, _, e := capset("},
	{"cmd/muster-init/prepare.go", "\treturn confine(c.containers)", "\tif w(\"no new privileges\") {\n\t\treturn nil\n\t}\n\treturn confine(c.containers)"},
	{"cmd/muster-init/confine.go", "\tp := filter(containers)\n", "\tif w(\"filter\") {\n\t\treturn nil\n\t}\n\tp := filter(containers)\n"},
	{"cmd/muster-init/prepare.go", "\tif err := syscall.Chdir(dir); err != nil {", "\tif w(\"user\") {\n\t\tdir = \"/\"\n\t}\n\tif err := syscall.Chdir(dir); err != nil {"},
	{"cmd/muster-init/prepare.go", "\tif e := prctl(prSetDumpable, 0); e != 0 {", "\tif w(\"closed init\") {\n\t\tprctl(prSetDumpable, 1)\n\t} else if e := prctl(prSetDumpable, 0); e != 0 {"},
	{"cmd/muster-init/start.go", "\t\tFiles: []uintptr{0, 1, 2},", "\t\tFiles: files(),"},
	// The shim.
	{"nodeagent/task/program.go", "syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS", "namespaces(s.spec.Start)"},
	{"nodeagent/task/shim.go", "\told := unix.Umask(0o177)\n", "\told := unix.Umask(socketMask(path))\n"},
}

// weakInit is added to the in-namespace init.
const weakInit = `package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

const prSetKeepCaps = 8

var off, workFrom string

// weaken takes the orders of the test.
func weaken(c *config) {
	off = lookup(c.env, "WITHOUT")
	if w("private folders") && c.root != "" && !w("userland") {
		// The userland cannot be written to: the work folder needs some place.
		workFrom, c.work, c.tmpfs = c.work, "/run/work", []string{"/run"}
	}
	// Package os would open descriptors of its own, which inherit closes.
	group := readHead("/proc/self/cgroup")
	group = group[strings.Index(group, "0::")+3:]
	group, _, _ = strings.Cut(group, "\n")
	for _, controller := range []string{"pids", "memory"} {
		if w(controller + " limit") {
			fd, err := syscall.Open("/sys/fs/cgroup"+group+"/"+controller+".max", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
			if err == nil {
				_, err = syscall.Write(fd, []byte("max"))
			}
			if err != nil {
				panic(err.Error())
			}
		}
	}
}

func w(name string) bool { return strings.Contains(","+off+",", ","+name+",") }

// files are the descriptors of the program, those included that nobody has closed.
func files() []uintptr {
	f := []uintptr{0, 1, 2}
	if w("closed descriptors") {
		for fd := 3; fd < 64; fd++ {
			if to, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err == nil && strings.HasPrefix(to, "/") {
				f = append(f, uintptr(fd))
			}
		}
	}
	return f
}

// keepRights keeps or uses, on the thread that starts the program, the capabilities that a
// change of user would have ended.
func keepRights(c config) {
	header := struct{ version uint32; pid int32 }{version: capVersion3}
	var have [2]struct{ effective, permitted, inheritable uint32 }
	syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&have)), 0)
	for i := range have {
		have[i].effective = have[i].permitted
		if w("capabilities") {
			have[i].inheritable = have[i].permitted
		}
	}
	syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&have)), 0)
	if w("capabilities") {
		for capability := uintptr(0); capability <= lastCapability; capability++ {
			syscall.RawSyscall6(syscall.SYS_PRCTL, prCapAmbient, 2, capability, 0, 0, 0)
		}
	}
	if w("no new privileges") {
		if err := confine(c.containers); err != nil {
			panic(err.Error()) // it takes a right to filter without no_new_privs
		}
	}
}
`

// weakShim is added to the shim.
const weakShim = `package task

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"muster/api"
)

func w(t api.TaskStart, name string) bool {
	i := slices.IndexFunc(t.Env, func(kv string) bool { return strings.HasPrefix(kv, "WITHOUT=") })
	return i >= 0 && strings.Contains(","+strings.TrimPrefix(t.Env[i], "WITHOUT=")+",", ","+name+",")
}

func namespaces(t api.TaskStart) uintptr {
	flags := uintptr(syscall.CLONE_NEWNS)
	for name, flag := range map[string]uintptr{"pid namespace": syscall.CLONE_NEWPID, "ipc namespace": syscall.CLONE_NEWIPC, "uts namespace": syscall.CLONE_NEWUTS} {
		if !w(t, name) {
			flags |= flag
		}
	}
	return flags
}

func socketMask(path string) int {
	if sp, err := readSpec(filepath.Dir(path)); err == nil && w(sp.Start, "socket mode") {
		return 0
	}
	return 0o177
}
`

// buildWeakened builds the in-namespace init and the agent, whose shim it is, with all weakenings.
func buildWeakened(t *testing.T, dir string) (init, agent string) {
	t.Helper()
	init, agent = filepath.Join(dir, "weak-init"), filepath.Join(dir, "weak-agent")
	if os.Getenv("MUSTER_ATTEMPTS") != "" {
		goBuild(t, init, "")
		goBuild(t, agent, "")
		return init, agent
	}
	top, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	text := make(map[string]string)
	for _, e := range weakenings {
		file := filepath.Join(top, e.file)
		if _, ok := text[file]; !ok {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text[file] = string(b)
		}
		if n := strings.Count(text[file], e.old); n != 1 {
			t.Fatalf("%s has %d places with\n%s\nwant 1; the edit that switches a protection off has to follow the source", e.file, n, e.old)
		}
		text[file] = strings.Replace(text[file], e.old, e.new, 1)
	}
	text[filepath.Join(top, "cmd/muster-init/weak.go")] = weakInit
	text[filepath.Join(top, "nodeagent/task/weak.go")] = weakShim
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for file, content := range text {
		edited := filepath.Join(t.TempDir(), filepath.Base(file))
		if err := os.WriteFile(edited, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[file] = edited
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(file, list, 0o644); err != nil {
		t.Fatal(err)
	}
	goBuild(t, init, "muster/cmd/muster-init", "-overlay", file)
	goBuild(t, agent, "muster/cmd/muster-agent", "-overlay", file)
	return init, agent
}

// goBuild builds a static program. In a virtual machine, where there is no Go, the folder
// MUSTER_ATTEMPTS has it.
func goBuild(t testing.TB, out, pkg string, flags ...string) {
	t.Helper()
	if dir := os.Getenv("MUSTER_ATTEMPTS"); dir != "" {
		b, err := os.ReadFile(filepath.Join(dir, filepath.Base(out)))
		if err == nil {
			err = os.WriteFile(out, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := exec.Command("go", append(append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, b)
	}
}
