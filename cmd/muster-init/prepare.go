package main

import (
	"errors"
	"syscall"
	"unsafe"
)

// Numbers of linux/prctl.h, linux/capability.h and asm-generic/resource.h that
// package syscall lacks.
const (
	prSetPDeathSig   = 1
	prSetDumpable    = 4
	prCapBSetDrop    = 24
	prSetNoNewPrivs  = 38
	prCapAmbient     = 47
	capAmbientClear  = 4
	capVersion3      = 0x20080522
	lastCapability   = 63 // dropping one that the kernel lacks gives EINVAL
	rlimitCore       = syscall.RLIMIT_CORE
	rlimitInfinity   = ^uint64(0)
	defaultFiles     = 1024
	defaultFilesHard = 512 << 10
	defaultStack     = 8 << 20
)

// prepare makes the namespace's own things and then becomes the task's user
// for good.
func prepare(c config) error {
	if err := syscall.Sethostname([]byte(c.host)); err != nil {
		return errors.New("setting host name " + c.host + ": " + err.Error())
	}
	setLimits(c.limits)
	// Agent and shim are better protected from a full memory than their tasks.
	if fd, err := syscall.Open("/proc/self/oom_score_adj", syscall.O_WRONLY|syscall.O_CLOEXEC, 0); err == nil {
		syscall.Write(fd, []byte("0"))
		syscall.Close(fd)
	}
	syscall.Umask(0)
	if err := mounts(c); err != nil {
		return err
	}
	if c.tty {
		if err := openConsole(c.uid, c.window); err != nil {
			return errors.New("making a terminal: " + err.Error())
		}
	}
	if err := ownPipes(c); err != nil {
		return err
	}
	syscall.Umask(c.umask)
	if err := become(c); err != nil {
		return err
	}
	// The user's own rights count here: root may have none on a share.
	dir := c.dir
	if dir == "" {
		dir = c.work
	}
	if err := syscall.Chdir(dir); err != nil {
		return errors.New("entering working directory " + dir + ": " + err.Error() + wayOut(err, "the folder was removed meanwhile; make it again, or cd to another one",
			"this user may not enter it; let the user in, or cd to another folder"))
	}
	if err := redirect(c); err != nil {
		return err
	}
	return confine(c.containers)
}

// ownPipes gives the user the pipes of standard input, output and error, so that /dev/stdout and its
// like can be opened: they lead to these pipes by their inodes, which the shim made as root.
func ownPipes(c config) error {
	for fd := range 3 {
		var st syscall.Stat_t
		if err := syscall.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
			continue
		}
		if err := syscall.Fchown(fd, c.uid, c.gid); err != nil {
			return errors.New("giving standard input and output to the task's user: " + err.Error())
		}
	}
	return nil
}

// redirect opens the files that the user named for output and errors, with the user's rights.
func redirect(c config) error {
	to := func(file string, fds ...int) error {
		fd, err := syscall.Open(file, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_APPEND|syscall.O_CLOEXEC|syscall.O_NOCTTY, 0o666)
		if err != nil {
			return errors.New("opening " + file + " for output: " + err.Error() + wayOut(err, "make its folder first",
				"this user may not write there; name another file"))
		}
		defer syscall.Close(fd)
		for _, n := range fds {
			if err := syscall.Dup3(fd, n, 0); err != nil {
				return err
			}
		}
		return nil
	}
	switch {
	case c.stdout != "" && c.stderr == "":
		return to(c.stdout, 1, 2)
	case c.stdout != "":
		if err := to(c.stdout, 1); err != nil {
			return err
		}
	}
	if c.stderr != "" {
		return to(c.stderr, 2)
	}
	return nil
}

// wayOut says what can be done about an error with a path: where it is not there, and where it is somebody else's.
func wayOut(err error, missing, forbidden string) string {
	switch err {
	case syscall.ENOENT, syscall.ENOTDIR:
		return "; " + missing
	case syscall.EACCES, syscall.EPERM:
		return "; " + forbidden
	case syscall.EISDIR:
		return "; name a file in it"
	case syscall.EROFS:
		return "; the share is for reading only; name a file on another one"
	case syscall.ENOSPC, syscall.EDQUOT:
		return "; make room there"
	}
	return ""
}

// setLimits sets what a login would, the soft limits that programs expect and hard
// ones that they may raise to, and over it what the user has where the job comes from.
func setLimits(given []limit) {
	usual := []limit{
		{rlimitCore, 0, rlimitInfinity},
		{syscall.RLIMIT_NOFILE, defaultFiles, defaultFilesHard},
		{syscall.RLIMIT_STACK, defaultStack, rlimitInfinity},
	}
	for _, l := range append(usual, given...) {
		var old syscall.Rlimit
		if syscall.Getrlimit(l.what, &old) != nil {
			continue
		}
		if syscall.Setrlimit(l.what, &syscall.Rlimit{Cur: min(l.soft, l.hard), Max: l.hard}) != nil {
			// Raising the hard limit takes a right that we may lack.
			syscall.Setrlimit(l.what, &syscall.Rlimit{Cur: min(l.soft, old.Max), Max: old.Max})
		}
	}
}

// become takes the user's identity and gives up every capability: also root's
// tasks run without. The caller is locked to its thread, the one that will
// start the program: what only matters to a program that is started is done on
// this thread alone, since it takes milliseconds on all.
func become(c config) error {
	for capability := range uintptr(lastCapability + 1) {
		if e := prctl(prCapBSetDrop, capability); e == syscall.EINVAL {
			break // behind the kernel's last one
		} else if e != 0 {
			return errors.New("dropping capabilities: " + e.Error())
		}
	}
	if e := prctl(prCapAmbient, capAmbientClear); e != 0 && e != syscall.EINVAL {
		return errors.New("dropping ambient capabilities: " + e.Error())
	}
	if e := prctl(prSetNoNewPrivs, 1); e != 0 {
		return errors.New("setting no_new_privs: " + e.Error())
	}
	if err := syscall.Setgroups(c.groups); err != nil {
		return errors.New("setting groups: " + err.Error())
	}
	if err := syscall.Setresgid(c.gid, c.gid, c.gid); err != nil {
		return errors.New("setting gid: " + err.Error())
	}
	if err := syscall.Setresuid(c.uid, c.uid, c.uid); err != nil {
		return errors.New("setting uid: " + err.Error())
	}
	header := struct {
		version uint32
		pid     int32
	}{version: capVersion3}
	var none [2]struct{ effective, permitted, inheritable uint32 }
	_, _, e := syscall.AllThreadsSyscall(syscall.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0)
	if e != 0 {
		return errors.New("giving up capabilities: " + e.Error())
	}
	// Nor may the task look into this process, which tells the shim how it ended. The kernel sees to that
	// where the user changed; root's tasks were root's before.
	if e := prctl(prSetDumpable, 0); e != 0 {
		return errors.New("closing this process to others: " + e.Error())
	}
	// Becoming another user clears what the shim asked for: that this process,
	// and with it the namespace, dies with it.
	if e := prctl(prSetPDeathSig, uintptr(syscall.SIGKILL)); e != 0 {
		return errors.New("binding to the shim: " + e.Error())
	}
	return nil
}

// prctl acts on this thread.
func prctl(op, arg uintptr) syscall.Errno {
	_, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, op, arg, 0, 0, 0, 0)
	return e
}
