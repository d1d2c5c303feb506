package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"muster/headnode/shares"
)

// startEngine has the keeper serve folders of the head by NFS, for which it takes root
// (docs/decisions/0010). It begins with what was served before, so that nodes wait for no other part of
// the head. The caller calls stop.
func startEngine(ctx context.Context, o headOptions, cred *syscall.Credential, log *slog.Logger) (stop func(), err error) {
	f, err := listenUnix(o.engineSocket(), 0o600, cred)
	if err != nil {
		return nil, err
	}
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("using the socket %s: %w", o.engineSocket(), err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("finding this program: %w", err), l.Close())
	}
	server, err := shares.NewServer(shares.Config{
		State: o.State, Listener: l, Port: o.NFSPort, Log: log,
		Command: func(name string, args ...string) *exec.Cmd {
			return exec.Command(self, append([]string{"head-engine", fmt.Sprint(os.Getpid()), name}, args...)...)
		},
	})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Run(ctx); err != nil {
			log.Error("folders of the head are not served any more", "err", err)
		}
	}()
	return func() { cancel(); <-done }, nil
}

// engineCaps is what nfs-ganesha needs of root: to open files by handle and as their owners.
var engineCaps = []int{
	unix.CAP_DAC_READ_SEARCH, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_CHOWN, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_FSETID, unix.CAP_MKNOD,
}

func newHeadEngineCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "head-engine KEEPER PROGRAM ARGS",
		Short:              "The NFS engine of a head; started by muster head",
		Hidden:             true,
		DisableFlagParsing: true,
		Args:               cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			var keeper int
			if _, err := fmt.Sscan(args[0], &keeper); err != nil {
				return usagef("head-engine is started by muster head")
			}
			return becomeEngine(keeper, args[1], args[1:])
		},
	}
}

// becomeEngine executes an engine in place of this program, without the capabilities that it does
// not need and without a way to get them. The engine does not outlive the keeper.
func becomeEngine(keeper int, program string, argv []string) error {
	runtime.LockOSThread() // an exec takes over what the calling thread has
	for c := 0; c <= 63; c++ {
		if slices.Contains(engineCaps, c) {
			continue
		}
		// EINVAL: past the last.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); errors.Is(err, unix.EINVAL) {
			break
		} else if err != nil {
			return fmt.Errorf("giving up capabilities: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding new privileges: %w", err)
	}
	if err := dieWithKeeper(keeper); err != nil {
		return err
	}
	syscall.Umask(0) // the mode of a file is its maker's affair, on a node
	if err := syscall.Exec(program, argv, os.Environ()); err != nil {
		return fmt.Errorf("executing %s: %w", program, err)
	}
	return nil
}
