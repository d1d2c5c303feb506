package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// A head is a small keeper that holds every socket and three children that
// work with them (docs/architecture.md):
//
//	core   agents, users' API, scheduler, records
//	boot   DHCP, TFTP, router advertisements, scripts and loaders by HTTP
//	files  kernel, initramfs and other bulk files by HTTP
//
// A child that ends is started again with the same sockets. Children have no
// capability and, where a user muster exists, run as it.

// childSpec is a process of a head.
type childSpec struct {
	name  string
	files map[string]*os.File // sockets by name; they stay open in the keeper
	user  *syscall.Credential // nil: as the keeper, without capabilities
}

// childConfig is what a child is told on its descriptor 3.
type childConfig struct {
	Head   headOptions
	Keeper int                // process id of the keeper
	Files  map[string]uintptr // descriptor of each socket
}

// The descriptors of a child beside its sockets.
const (
	childConfigFD = 3 // reads its childConfig
	childReadyFD  = 4 // writes a line when it serves
	childFirstFD  = 5
)

// Restarts of a child wait from minRestart, doubling, to maxRestart; a child
// that ran for stableAfter starts from the beginning.
const (
	minRestart  = 200 * time.Millisecond
	maxRestart  = 10 * time.Second
	stableAfter = 30 * time.Second
	stopGrace   = 10 * time.Second // between SIGTERM and SIGKILL
)

// keep runs children until ctx is done, in order: each is started when the
// one before serves, and stopped before it. ready is called once, when all
// serve for the first time; its error ends them.
func keep(ctx context.Context, opts headOptions, specs []childSpec, log *slog.Logger, ready func() error) error {
	// Each child gets a context of its own, so that they stop in reverse
	// order: no request of a later one finds an earlier one gone.
	group, groupCtx := errgroup.WithContext(ctx)
	type handle struct {
		stop context.CancelFunc
		done chan struct{}
	}
	var started []handle
	failed := make(chan error, 1)
	for _, spec := range specs {
		childCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		h := handle{stop, make(chan struct{})}
		started = append(started, h)
		first := make(chan error, 1)
		group.Go(func() error {
			defer close(h.done)
			superviseChild(childCtx, opts, spec, log, first)
			return nil
		})
		select {
		case err := <-first:
			if err != nil {
				failed <- err
			}
		case <-groupCtx.Done():
		}
		if len(failed) > 0 || groupCtx.Err() != nil {
			break
		}
	}
	if len(failed) == 0 && groupCtx.Err() == nil {
		if err := ready(); err != nil && groupCtx.Err() == nil {
			failed <- err
		} else {
			<-groupCtx.Done()
		}
	}
	for i := len(started) - 1; i >= 0; i-- {
		started[i].stop()
		<-started[i].done
	}
	if err := group.Wait(); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// superviseChild runs a child again and again until ctx is done. first gets
// nil when it serves, or why its first start failed, and then it is not
// tried again.
func superviseChild(ctx context.Context, opts headOptions, spec childSpec, log *slog.Logger, first chan<- error) {
	wait := minRestart
	served := false
	for ctx.Err() == nil {
		start := time.Now()
		err := runChild(ctx, opts, spec, func() {
			if !served {
				served = true
				first <- nil
			}
		})
		if ctx.Err() != nil {
			return
		}
		if !served {
			first <- firstError(spec.name, err)
			return
		}
		if time.Since(start) > stableAfter {
			wait = minRestart
		}
		log.Error("process of the head ended and is started again", "part", spec.name, "err", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxRestart)
	}
}

// firstError is why a child did not begin to serve. One that ended by itself
// has said it.
func firstError(name string, err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exitStatus(exit.ExitCode())
	}
	return fmt.Errorf("starting the head's process %s: %w", name, err)
}

// runChild runs a child once, to its end. serving is called when it says
// that it serves.
func runChild(ctx context.Context, opts headOptions, spec childSpec, serving func()) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	configR, configW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer configR.Close()
	defer configW.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer readyR.Close()
	defer readyW.Close()

	cmd := exec.CommandContext(ctx, self, "head-child", spec.name)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{configR, readyW}
	cfg := childConfig{Head: opts, Keeper: os.Getpid(), Files: map[string]uintptr{}}
	for name, f := range spec.files {
		cfg.Files[name] = uintptr(childFirstFD + len(cmd.ExtraFiles) - 2)
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	// A child does not outlive its keeper. The kernel sends the signal when
	// the thread that forked ends, so this goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if spec.user != nil {
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d:%d", childUserVar, spec.user.Uid, spec.user.Gid))
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace

	if err := cmd.Start(); err != nil {
		return err
	}
	configR.Close()
	readyW.Close()
	if err := json.NewEncoder(configW).Encode(cfg); err != nil {
		cmd.Cancel()
		return errors.Join(fmt.Errorf("telling process %s what to do: %w", spec.name, err), cmd.Wait())
	}
	configW.Close()
	told := make(chan struct{})
	go func() {
		defer close(told)
		if line, err := bufio.NewReader(readyR).ReadString('\n'); err == nil && line == "ready\n" {
			serving()
		}
	}()
	err = cmd.Wait()
	readyR.Close()
	<-told // so that serving is not called after this
	return err
}
