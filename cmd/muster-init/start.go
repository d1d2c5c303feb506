package main

import (
	"strconv"
	"strings"
	"syscall"
)

// A startError says why the program does not run, with the exit code that a
// shell would give.
type startError struct {
	code int
	text string
}

// start runs the program in a process group of its own, which is the foreground of its
// terminal. As in a shell the group has its parent in the same session: else Ctrl-Z would
// not stop it (POSIX.1-2017, 3.264 and 2.4.3: orphaned process groups).
func start(c config) (pid int, failed *startError) {
	attr := &syscall.ProcAttr{
		Dir:   "",
		Env:   c.env,
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Foreground: c.tty, Ctty: 0},
	}
	failed = &startError{exitNotFound, c.argv[0] + ": command not found on this node"}
	for _, file := range candidates(c.argv[0], c.env) {
		var st syscall.Stat_t
		if err := syscall.Stat(file, &st); err == syscall.ENOENT || err == syscall.ENOTDIR {
			if strings.Contains(c.argv[0], "/") {
				failed = &startError{exitNotFound, c.argv[0] + ": no such file on this node; --send " + c.argv[0] + " sends it along"}
			}
			continue
		}
		if c.tasks > 1 && needsMPI(file, c.env) {
			n := strconv.Itoa(c.tasks)
			return 0, &startError{exitNoStart, c.argv[0] + ": it is an MPI program, and each of the " + n + " tasks would be rank 0 of 1; " +
				"have mpirun start it: muster run -c " + n + " mpirun -n " + n + " " + c.argv[0] + "; if each is to run alone, start it from a shell: sh -c " + c.argv[0]}
		}
		pid, err := syscall.ForkExec(file, c.argv, attr)
		if err == syscall.ENOEXEC && isScript(readHead(file)) {
			pid, err = syscall.ForkExec(shell, append([]string{"sh", file}, c.argv[1:]...), attr)
			if err != nil {
				err = syscall.ENOEXEC
			}
		}
		if err == nil {
			return pid, nil
		}
		errno, _ := err.(syscall.Errno)
		failed = &startError{exitNoStart, c.argv[0] + ": " + reason(file, errno, st.Mode)}
		if errno != syscall.EACCES {
			break // as execvp(3): a file that may not be run is passed over, others end the search
		}
	}
	return 0, failed
}

// shell runs scripts without a #! line, as shells and execvp(3) have it.
const shell = "/bin/sh"

// isScript tells by its beginning whether a file that the kernel does not run is text.
func isScript(head string) bool {
	return !strings.HasPrefix(head, "\x7fELF") && strings.IndexByte(head, 0) < 0
}

// candidates are the files that a name may mean, as execvp(3) looks for them.
func candidates(name string, env []string) []string {
	if name == "" {
		return nil
	}
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var files []string
	for _, dir := range strings.Split(lookup(env, "PATH"), ":") {
		if dir == "" {
			dir = "."
		}
		files = append(files, dir+"/"+name)
	}
	return files
}

// lookup returns the last value of a variable, as the program would see it.
func lookup(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// reason says for people why a file that is there does not run.
func reason(file string, errno syscall.Errno, mode uint32) string {
	head := readHead(file)
	switch {
	case errno == syscall.ENOENT:
		if i := interpreter(head); i != "" {
			return "it needs " + i + ", which this node does not have; send a statically linked program"
		}
		return "what it needs to start is not on this node; send a statically linked program"
	case errno == syscall.EACCES && mode&syscall.S_IFMT == syscall.S_IFDIR:
		return "it is a directory"
	case errno == syscall.EACCES && mode&0o111 == 0:
		return "it is not executable; chmod +x it"
	case errno == syscall.ENOEXEC && strings.HasPrefix(head, "\x7fELF"):
		return "it is a program for another kind of processor"
	case errno == syscall.ENOEXEC:
		return "it is neither a program nor a script with a #! line"
	}
	return errno.Error()
}

func readHead(file string) string {
	fd, err := syscall.Open(file, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer syscall.Close(fd)
	buf := make([]byte, 4096)
	n, err := syscall.Read(fd, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// interpreter finds the program that starts a file: of a script its #! line,
// of an ELF file the dynamic loader, which linkers put within the first page.
func interpreter(head string) string {
	if line, ok := strings.CutPrefix(head, "#!"); ok {
		line, _, _ = strings.Cut(line, "\n")
		if f := strings.Fields(line); len(f) > 0 {
			return f[0]
		}
		return ""
	}
	if !strings.HasPrefix(head, "\x7fELF") {
		return ""
	}
	for _, root := range []string{"/lib", "/usr/", "/system/", "/nix/", "/gnu/"} {
		for rest := head; ; {
			i := strings.Index(rest, "\x00"+root)
			if i < 0 {
				break
			}
			path, _, _ := strings.Cut(rest[i+1:], "\x00")
			if strings.Contains(path, "ld") {
				return path
			}
			rest = rest[i+1:]
		}
	}
	return ""
}

// letGo leaves standard input and output to the program, so that their ends
// are seen when it closes them.
func letGo() {
	fd, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	for i := range 3 {
		if err != nil {
			syscall.Close(i)
			continue
		}
		syscall.Dup3(fd, i, 0)
	}
	if err == nil {
		syscall.Close(fd)
	}
}
