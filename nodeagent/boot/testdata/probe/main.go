// Command probe looks at a machine from the inside: as PID 1 it boots it, as
// the agent it checks what PID 1 has made of it, writes its findings to the
// console, and has the machine started again.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"muster/nodeagent/boot"
)

func main() {
	if os.Getpid() == 1 {
		err := boot.Init(boot.InitConfig{Agent: []string{"/probe", "agent"}})
		fmt.Fprintln(os.Stderr, "probe: init returned:", err)
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "orphan" {
		// The parent of what is started here ends at once.
		fail(exec.Command("/probe", "end").Start())
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "end" {
		return
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	fail(err)
	say := func(format string, args ...any) { fmt.Fprintf(console, "probe: "+format+"\r\n", args...) }
	// Some things take PID 1 a moment.
	for _, c := range checks {
		var err error
		for range 100 {
			if err = c.check(); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil {
			say("FAIL %s: %v", c.name, err)
		} else {
			say("ok %s", c.name)
		}
	}
	say("rss %s", field("/proc/1/status", "VmRSS:"))
	say("available %s", field("/proc/meminfo", "MemAvailable:"))
	for _, p := range boot.Problems() {
		say("problem %s", p)
	}
	say("done")
	fail(boot.Reboot())
	time.Sleep(time.Minute)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// field is the value of a line that begins with name.
func field(path, name string) string {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "unknown"
}

// has checks that a file holds all words.
func has(path string, words ...string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, w := range words {
		if !strings.Contains(string(b), w) {
			return fmt.Errorf("%s is %q, which lacks %s", path, b, w)
		}
	}
	return nil
}

var checks = []struct {
	name  string
	check func() error
}{
	{"mounts", func() error {
		return has("/proc/self/mounts", "proc /proc ", "sysfs /sys ", "devtmpfs /dev ", "tmpfs /run ", "tmpfs /tmp ", "devpts /dev/pts ",
			"tmpfs /dev/shm ", "cgroup2 /sys/fs/cgroup ", " /lib/modules/", " squashfs ro")
	}},
	{"pivot_root", pivotRoot},
	{"controllers", func() error {
		if err := os.MkdirAll("/sys/fs/cgroup/probe", 0o755); err != nil {
			return err
		}
		return has("/sys/fs/cgroup/probe/cgroup.controllers", "cpu", "memory", "pids")
	}},
	{"panic", func() error { return has("/proc/sys/kernel/panic", "10\n") }},
	{"host name", func() error { return has("/proc/sys/kernel/hostname", "machine-") }},
	{"network driver", func() error { return has("/sys/class/net/eth0/address", "52:54:00:12:34:01") }},
	{"modprobe", func() error {
		// The kernel asks /sbin/modprobe for the file system; without
		// it the error were ENODEV.
		err := unix.Mount("none", "/mnt", "overlay", 0, "")
		if errors.Is(err, unix.ENODEV) {
			return err
		}
		return has("/proc/filesystems", "overlay")
	}},
	{"random numbers", func() error {
		_, err := unix.Getrandom(make([]byte, 16), unix.GRND_NONBLOCK)
		return err
	}},
	{"orphans", func() error {
		if err := exec.Command("/probe", "orphan").Run(); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		for _, e := range entries {
			b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
			if err == nil && strings.Contains(string(b), ") Z 1 ") {
				return fmt.Errorf("zombie: %s", b)
			}
		}
		return nil
	}},
	{"watchdog", func() error {
		if _, err := os.Stat("/sys/class/watchdog/watchdog0"); err != nil {
			return nil // the machine was not given one, or the image lacks its driver
		}
		if _, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0); !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("the watchdog is not in use: %v", err)
		}
		return nil
	}},
}

// pivotRoot does what a task's sandbox does. The kernel's first root refuses.
func pivotRoot() error {
	done := make(chan error)
	go func() {
		done <- func() error {
			// The thread ends with its namespace: it is not given back.
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("making mounts private: %w", err)
			}
			if err := unix.Mount("probe", "/mnt", "tmpfs", 0, ""); err != nil {
				return fmt.Errorf("mount: %w", err)
			}
			if err := os.Mkdir("/mnt/old", 0o755); err != nil {
				return err
			}
			if err := unix.PivotRoot("/mnt", "/mnt/old"); err != nil {
				return fmt.Errorf("pivot_root: %w", err)
			}
			return unix.Unmount("/old", unix.MNT_DETACH)
		}()
	}()
	return <-done
}
