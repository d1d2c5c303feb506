package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
)

// searchPath is where services and checks are looked for that are given by name alone.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/bbin"

// process is a service that this agent has started.
type process struct {
	cmd  *exec.Cmd
	done chan error
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// wait waits for the process, and says whether it ended before ctx did.
func (p *process) wait(ctx context.Context) (err error, ended bool) {
	select {
	case err := <-p.done:
		return err, true
	case <-ctx.Done():
		return nil, false
	}
}

// start starts a command of a service with its output to the pipe out.
func (r *Runner) start(ctx context.Context, s api.NodeService, argv []string, g group, out string) (*process, error) {
	cmd, release, err := r.command(s, argv, g)
	if err != nil {
		return nil, err
	}
	defer release()
	// Its own reading end keeps the pipe whole while there is no agent.
	f, err := os.OpenFile(out, os.O_RDWR, 0)
	if err == nil {
		defer f.Close()
		cmd.Stdout, cmd.Stderr = f, f
	}
	if err := cmd.Start(); err != nil {
		return nil, startError(err)
	}
	// The agent itself is spared when memory runs out; a service is not.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("0"), 0)
	p := &process{cmd: cmd, done: make(chan error, 1)}
	go func() { p.done <- endError(cmd.Wait()) }() // ends with the process, which may be after Run
	return p, nil
}

// command prepares a command in the root of s. release is called once it was started.
func (r *Runner) command(s api.NodeService, argv []string, g group) (cmd *exec.Cmd, release func(), err error) {
	root := "/"
	if s.In == inUserland {
		if root, err = r.serviceRoot(); err != nil {
			return nil, nil, err
		}
	}
	path, err := findProgram(root, argv[0])
	if err != nil {
		return nil, nil, errNoProgram(argv[0], s.In)
	}
	cmd = &exec.Cmd{
		Path: path, Args: argv, Dir: "/",
		Env:         []string{"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8", "MUSTER_SERVICE=" + s.Name},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if root != "/" {
		cmd.SysProcAttr.Chroot = root
	}
	if g == "" {
		return cmd, func() {}, nil
	}
	dir, err := os.Open(string(g))
	if err != nil {
		return nil, nil, fmt.Errorf("opening its cgroup: %w", err)
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return cmd, func() { dir.Close() }, nil
}

// findProgram returns the path of a program as it is below root.
func findProgram(root, name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, existsIn(root, name)
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		if path := filepath.Join(dir, name); existsIn(root, path) == nil {
			return path, nil
		}
	}
	return "", os.ErrNotExist
}

// existsIn looks for a file with links taken as they are below root.
func existsIn(root, name string) error {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	f, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return err
	}
	return unix.Close(f)
}

// startError is what of an error of os/exec people need.
func startError(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("starting %s: %w", path.Path, path.Err)
	}
	return err
}

// endError says how a process ended; nil: with exit status 0.
func endError(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return fmt.Errorf("killed by signal %d (%s)", int(w.Signal()), w.Signal())
	}
	return fmt.Errorf("exit status %d", exit.ExitCode())
}

// checkTail is how much of a check's output is kept.
const checkTail = 4 << 10

// check runs the check of s and says why it did not pass; "": it did.
func (r *Runner) check(ctx context.Context, s api.NodeService) string {
	group, err := r.group(s.Name + ".check")
	if err != nil {
		group = ""
	}
	cmd, release, err := r.command(s, s.Check, group)
	if err != nil {
		return "check: " + err.Error()
	}
	defer release()
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "check: " + startError(err).Error()
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	timeout := time.NewTimer(time.Duration(s.Timeout))
	defer timeout.Stop()
	kill := func() {
		group.kill()
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL) //nolint:errcheck // it may have ended
		<-done
	}
	text := ""
	select {
	case err := <-done:
		if err = endError(err); err == nil || errors.Is(err, exec.ErrWaitDelay) {
			return ""
		}
		text = "check failed: " + err.Error()
	case <-timeout.C:
		kill()
		text = fmt.Sprintf("check failed: no answer within %v", time.Duration(s.Timeout))
	case <-ctx.Done():
		kill()
		return "stopping"
	}
	if last := out.lastLine(); last != "" {
		text += ": " + last
	}
	return text
}
