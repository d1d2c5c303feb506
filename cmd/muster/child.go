package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// childBodies are the processes of a head by name. A body serves until ctx
// is done and calls ready once it does.
var childBodies = map[string]func(ctx context.Context, env childEnv) error{
	"core":  runCore,
	"boot":  runBoot,
	"files": runFiles,
}

// childEnv is what the body of a process works with.
type childEnv struct {
	opts  headOptions
	log   *slog.Logger
	files map[string]uintptr // descriptors of the sockets by name
	ready func()
}

// file takes a socket over.
func (e childEnv) file(name string) (*os.File, error) {
	fd, ok := e.files[name]
	if !ok {
		return nil, fmt.Errorf("the keeper passed no socket %s", name)
	}
	syscall.CloseOnExec(int(fd))
	return os.NewFile(fd, name), nil
}

// listener returns a socket as a listener.
func (e childEnv) listener(name string) (net.Listener, error) {
	f, err := e.file(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("using the socket %s: %w", name, err)
	}
	return l, nil
}

// Environment of a child.
const (
	childUserVar = "MUSTER_CHILD_USER"    // UID:GID that it is to run as; empty: as the keeper
	childDropped = "MUSTER_CHILD_DROPPED" // it was executed again without capabilities
)

func newHeadChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "head-child NAME",
		Short:  "A process of a head; started by muster head",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, ok := childBodies[args[0]]
			if !ok {
				return usagef("no process of a head is called %q", args[0])
			}
			if os.Getenv(childDropped) == "" {
				return dropPrivileges()
			}
			return childMain(cmd.Context(), args[0], body)
		},
	}
}

func childMain(ctx context.Context, name string, body func(context.Context, childEnv) error) error {
	var cfg childConfig
	in := os.NewFile(childConfigFD, "config")
	if in == nil {
		return usagef("head-child is started by muster head")
	}
	if err := json.NewDecoder(in).Decode(&cfg); err != nil {
		return fmt.Errorf("reading what process %s is to do: %w", name, err)
	}
	in.Close()
	if err := dieWithKeeper(cfg.Keeper); err != nil {
		return err
	}
	out := os.NewFile(childReadyFD, "ready")
	return body(ctx, childEnv{
		opts:  cfg.Head,
		log:   newLogger(os.Stderr, cfg.Head.Verbose).With("part", name),
		files: cfg.Files,
		ready: func() {
			if _, err := out.WriteString("ready\n"); err == nil {
				out.Close()
			}
		},
	})
}

// dieWithKeeper makes the kernel end this process when its keeper ends,
// however that happens. What the keeper asked for at the start was lost when
// the capabilities changed (prctl(2), PR_SET_PDEATHSIG).
func dieWithKeeper(keeper int) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("binding this process to its keeper: %w", err)
	}
	if os.Getppid() != keeper {
		return errors.New("the keeper has ended")
	}
	return nil
}

// dropPrivileges executes this program again as the user that the keeper
// names, without any capability and without a way to get one. An exec takes
// over the credentials of the calling thread alone, so no other thread of the
// runtime has to be changed. The exec itself takes the capabilities away: until
// then they let root reach this program where the new credentials cannot, as
// in the home of an ordinary user.
func dropPrivileges() error {
	runtime.LockOSThread()
	last := 63
	for c := 0; c <= last; c++ {
		// EPERM: not allowed to change the set, as a process without
		// CAP_SETPCAP; it has nothing to give away then. EINVAL: past the last.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
			break
		}
	}
	// linux/securebits.h: uid 0 gives no capability by an exec, changes of the
	// uid take none away, and both for good.
	const (
		noRoot, noRootLocked               = 1 << 0, 1 << 1
		noSetuidFixup, noSetuidFixupLocked = 1 << 2, 1 << 3
		secbits                            = noRoot | noRootLocked | noSetuidFixup | noSetuidFixupLocked
	)
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbits, 0, 0, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("giving up root's capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up ambient capabilities: %w", err)
	}
	if err := becomeUser(os.Getenv(childUserVar)); err != nil {
		return fmt.Errorf("becoming the user of the head's processes: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	caps[0].Inheritable, caps[1].Inheritable = 0, 0
	if err := unix.Capset(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("giving up capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding new privileges: %w", err)
	}
	// By this link the program is found also where its path is closed.
	if err := syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), childDropped+"=1")); err != nil {
		return fmt.Errorf("executing %s again without capabilities: %w", os.Args[0], err)
	}
	return nil
}

// becomeUser gives the calling thread the ids of a user, written UID:GID, and
// no further group.
func becomeUser(ids string) error {
	if ids == "" {
		return nil
	}
	var uid, gid uint32
	if _, err := fmt.Sscanf(ids, "%d:%d", &uid, &gid); err != nil {
		return fmt.Errorf("%s=%q: %w", childUserVar, ids, err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("leaving root's groups: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
		return fmt.Errorf("setting gid %d: %w", gid, errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return fmt.Errorf("setting uid %d: %w", uid, errno)
	}
	return nil
}
