// Command muster-init is the first process of a task's pid namespace.
//
// It gives the task its host name and its file tree (mounts.go), gives
// up every right that the task's user does not have, starts the program in a
// process group of its own, passes signals on to that group, says when the program is stopped,
// reaps what is orphaned, and ends when the program and all that it left have, or when the shim
// kills it; the kernel then kills what is left in the namespace.
//
// It is started by the task's shim with the program's standard input,
// output and error as 0, 1 and 2, a file with its orders as 3 (config.go) and
// a pipe as 4 on which it says, a line each, what became of the program
// (report.go), and a pipe as 5 by which it is told signals for it, a byte each: pipes, since a checkpoint takes no socket whose other end is
// outside. For a task with a terminal, 6 is a socket that takes the master's end of it, and is closed then. The
// program inherits none of these. muster-init imports nothing but
// the standard library's thinnest parts: it stays in memory with each task, and
// it must be found at one path on every node that a task may move to.
//
//go:debug containermaxprocs=0
package main

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// The descriptors that the shim passes.
const (
	fdConfig = 3
	fdReport = 4
	fdSignal = 5
	// fdConsole is there for a task with a terminal.
	fdConsole = 6
)

func main() {
	runtime.LockOSThread() // become says why
	inherit()
	ignoreSignals()
	c, err := readConfig(fdConfig)
	syscall.Close(fdConfig)
	if err == nil {
		err = prepare(c)
	}
	if err != nil {
		fail(exitNoStart, err.Error())
	}
	pid, ferr := start(c)
	if ferr != nil {
		fail(ferr.code, ferr.text)
	}
	letGo()
	if !report("started", pid) {
		// The shim died before become had bound this process to it.
		syscall.Exit(1)
	}
	var stopped atomic.Bool
	go forward(pid, &stopped)
	ws := reap(pid, &stopped)
	code := ws.ExitStatus()
	if ws.Signaled() {
		code = 128 + int(ws.Signal())
		report("signal", int(ws.Signal()))
	} else {
		report("exit", code)
	}
	// What the program left may still write, as the tee of a shell's >(tee log): the
	// shim knows how long that is waited for.
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err != nil && err != syscall.EINTR {
			syscall.Exit(code)
		}
	}
}

// inherit keeps the descriptors that the shim passed on purpose and closes all
// others: whatever a shim was started with, no task has it. (The Go runtime
// holds none of its own here: containermaxprocs=0 keeps it from opening its
// cgroup.)
func inherit() {
	const sysCloseRange = 436
	syscall.RawSyscall(sysCloseRange, fdConsole+1, ^uintptr(0)>>32, 0)
	syscall.CloseOnExec(fdConfig)
	syscall.CloseOnExec(fdReport)
	syscall.CloseOnExec(fdSignal)
	syscall.CloseOnExec(fdConsole)
}

// ignoreSignals makes this process take no notice of signals by which a Go program would end. The program's come
// from the shim by a pipe: a handler for each signal would take the Go runtime longer than all else that
// is done here. In the program they are as they are in every new process.
func ignoreSignals() {
	ignore := struct{ handler, flags, restorer, mask uintptr }{handler: 1} // SIG_IGN
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGABRT} {
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&ignore)), 0, unsafe.Sizeof(ignore.mask), 0, 0)
	}
}

// forward sends the signals that the shim names to the program's process group. A stopped one is continued by those
// that end it, as shells do it: it could not take them else.
func forward(pid int, stopped *atomic.Bool) {
	var b [64]byte
	for {
		n, err := syscall.Read(fdSignal, b[:])
		if err == syscall.EINTR {
			continue
		}
		if n <= 0 {
			return // the shim has ended, and this process is about to
		}
		for _, n := range b[:n] {
			sig := syscall.Signal(n)
			syscall.Kill(-pid, sig)
			if stopped.Load() && (sig == syscall.SIGTERM || sig == syscall.SIGHUP) {
				syscall.Kill(-pid, syscall.SIGCONT)
			}
		}
	}
}

// reap collects every child until the program has ended, and returns how. It says when the
// program is stopped and when it goes on.
func reap(program int, stopped *atomic.Bool) syscall.WaitStatus {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WUNTRACED|syscall.WCONTINUED, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 0xff00 // no child left and the program not seen: cannot be
		}
		switch {
		case pid != program:
		case ws.Stopped():
			stopped.Store(true)
			report("stopped", int(ws.StopSignal()))
		case ws.Continued():
			stopped.Store(false)
			report("continued", 0)
		default:
			return ws
		}
	}
}
