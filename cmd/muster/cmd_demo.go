package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"muster/internal/vm"
)

// demoOptions is what the two halves of the demo share: the one that builds
// as the calling user, and the one that runs in namespaces of its own.
type demoOptions struct {
	Dir    string // folder for everything
	Image  string // folder of the image
	Engine string // folder of an unpacked nfs-ganesha; "": no folder is shared
	Share  string // folder that is shared; "": none
	// NoShare says why none is.
	NoShare string
	// Owner is who the demo runs as, where root began it in the folder of another user.
	Owner  *syscall.Credential
	Keep   bool // stay until Ctrl-C
	MemMiB int
	User   *demoUser // who submits the jobs; nil: whoever the demo runs as
}

func newDemoCommand() *cobra.Command {
	o := demoOptions{MemMiB: 512}
	var image, keep string
	c := &cobra.Command{
		Use:   "demo",
		Short: "See it all here: an image, a head, two virtual machines, jobs",
		Long: `Build the image compute-vm, start a head in a network namespace of its own, boot
two virtual machines without a disk over that network, one with BIOS and one
with UEFI firmware, approve them and run jobs. Nothing of this machine's network
changes, and nothing stays but the build folder. QEMU emulates the machines
where the processor cannot run them itself, so a boot takes half a minute.

As root or with sudo the head also shares a folder, by Debian's nfs-ganesha,
which is unpacked into the demo's folder and installed nowhere.

On a terminal the cluster stays up until Ctrl-C.`,
		Example: "  muster demo\n  muster demo --keep=no --dir /tmp/demo",
		GroupID: "start",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch keep {
			case "auto":
				o.Keep = term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
			case "yes", "no":
				o.Keep = keep == "yes"
			default:
				return usagef("--keep=%s: say auto, yes or no", keep)
			}
			return runDemo(cmd, o, image)
		},
	}
	c.Flags().StringVar(&o.Dir, "dir", filepath.Join("build", "demo"), "`folder` for everything that the demo writes")
	c.Flags().StringVar(&image, "image", "", "`folder` of an image to use (default: build compute-vm)")
	c.Flags().StringVar(&o.Engine, "engine", "", "`folder` of an unpacked nfs-ganesha to use (default: fetch Debian's)")
	c.Flags().StringVar(&keep, "keep", "auto", "`auto|yes|no`: keep the cluster up until Ctrl-C; auto: on a terminal")
	c.Flags().IntVar(&o.MemMiB, "mem", o.MemMiB, "memory of each virtual machine, in `MiB`")
	return c
}

// runDemo builds the image and starts the part that needs namespaces.
func runDemo(cmd *cobra.Command, o demoOptions, image string) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	for _, f := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		if err := vm.Installed(f); err != nil {
			return err
		}
	}
	if err := makeDemoDir(o.Dir); err != nil {
		return fmt.Errorf("making the demo's folder: %w; name another with --dir", err)
	}
	o.Image = image
	if image == "" {
		o.Image = filepath.Join(o.Dir, "compute-vm")
		fmt.Fprintln(out, "$ muster build compute-vm")
		if err := buildImage(ctx, buildRequest{name: "compute-vm", output: o.Image, stdout: out, stderr: cmd.ErrOrStderr()}); err != nil {
			return err
		}
	}
	if o.Image, err = filepath.Abs(o.Image); err != nil {
		return err
	}
	o.findEngine(ctx, cmd.ErrOrStderr())
	status, err := runInNamespaces(ctx, o)
	if err != nil {
		return err
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

// runInNamespaces runs `muster demo-inside` as process 1 of a process,
// mount and network namespace: when it ends, the kernel ends everything that
// was started there.
func runInNamespaces(ctx context.Context, o demoOptions) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() == 0 {
		if o.Owner, err = ownerOf(o.Dir); err != nil {
			return 0, err
		}
		if o.Owner == nil { // else it runs as a user all through
			o.User = submitter(o, self)
		}
	}
	arg, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	if os.Geteuid() != 0 {
		if sudo := usableSudo(); sudo != "" {
			fmt.Println("the network part of the demo needs root; it goes on with sudo")
			return wait(ctx, exec.Command(sudo, self, "demo-namespaces", string(arg)))
		}
		o.Engine, o.NoShare = "", "serving it takes root of this machine"
		if arg, err = json.Marshal(o); err != nil {
			return 0, err
		}
		// One id is enough: the demo's own files and processes are all ours.
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	cmd := exec.Command(self, "demo-inside", string(arg))
	cmd.SysProcAttr = attr
	status, err := wait(ctx, cmd)
	switch {
	case !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSPC): // ENOSPC: too many namespaces
	case attr.Cloneflags&syscall.CLONE_NEWUSER != 0:
		return 0, userNamespaceError(os.ReadFile, err)
	default:
		return 0, fmt.Errorf("%w: root may not make namespaces here, as in most containers; start the container with --privileged, or run the demo outside it", err)
	}
	return status, err
}

// makeDemoDir makes the demo's folder. What root makes in the folder of another
// user belongs to that user.
func makeDemoDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDemoDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := owner(parent)
	if err != nil {
		return err
	}
	return os.Lchown(dir, uid, gid)
}

// ownerOf is the owner of the demo's folder, nil for root. Root's demo runs as that user: files and sockets then belong to
// who cloned the repository, not to root, and the head's processes, which have
// no capability, may pass through a home that is closed to others.
func ownerOf(dir string) (*syscall.Credential, error) {
	uid, gid, err := owner(dir)
	if err != nil || uid == 0 {
		return nil, err
	}
	cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if _, kvm, err := owner("/dev/kvm"); err == nil && kvm != 0 {
		cred.Groups = []uint32{uint32(kvm)}
	}
	return cred, nil
}

// asOwner runs a command as the owner of the demo's folder, with the capabilities that the network part takes.
func (o demoOptions) asOwner(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if o.Owner != nil {
		cmd.SysProcAttr.Credential = o.Owner
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE}
	}
}

func owner(path string) (uid, gid int, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return int(st.Uid), int(st.Gid), nil
}

// userNamespaceError says what forbids user namespaces, and the command that
// allows them.
func userNamespaceError(readFile func(string) ([]byte, error), err error) error {
	for _, knob := range []struct{ path, bad, allow string }{
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=1000"},
		{"/proc/sys/user/max_net_namespaces", "0", "user.max_net_namespaces=1000"},
	} {
		if v, rerr := readFile(knob.path); rerr == nil && strings.TrimSpace(string(v)) == knob.bad {
			return fmt.Errorf("%s forbids ordinary users a network of their own; run the demo as root, or allow it with: sudo sysctl -w %s", knob.path, knob.allow)
		}
	}
	return fmt.Errorf("this machine forbids ordinary users a network of their own (%w); run the demo as root", err)
}

// usableSudo is the path of a sudo that may be asked: one that needs no
// password, or a terminal to type it on.
func usableSudo() string {
	sudo, err := exec.LookPath("sudo")
	if err != nil {
		return ""
	}
	if term.IsTerminal(int(os.Stdin.Fd())) || exec.Command(sudo, "-n", "true").Run() == nil {
		return sudo
	}
	return ""
}

// wait runs cmd with our terminal. At the end of ctx it is asked to end, and
// waited for.
func wait(ctx context.Context, cmd *exec.Cmd) (int, error) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	runtime.LockOSThread() // Pdeathsig follows this thread
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting the demo's namespaces: %w", err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-ctx.Done():
			// A terminal's Ctrl-C reached it too; once more does no harm.
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case <-done:
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if exit.ExitCode() < 0 {
			return 0, fmt.Errorf("the demo was ended: %w", err)
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// newDemoInsideCommands returns the hidden commands that the demo starts
// itself with.
func newDemoInsideCommands() []*cobra.Command {
	parse := func(arg string) (o demoOptions, err error) {
		if err := json.Unmarshal([]byte(arg), &o); err != nil {
			return o, usagef("this command is started by muster demo")
		}
		return o, nil
	}
	return []*cobra.Command{
		{
			Use: "demo-namespaces OPTIONS", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				o, err := parse(args[0])
				if err != nil {
					return err
				}
				status, err := runInNamespaces(cmd.Context(), o)
				if err == nil && status != 0 {
					return exitStatus(status)
				}
				return err
			},
		},
		{
			Use: "demo-inside OPTIONS", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				o, err := parse(args[0])
				if err != nil {
					return err
				}
				status, err := demoFirst(cmd.Context(), o)
				if err == nil && status != 0 {
					return exitStatus(status)
				}
				return err
			},
		},
		{
			Use: "demo-show OPTIONS", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				o, err := parse(args[0])
				if err != nil {
					return err
				}
				return demoInside(cmd.Context(), o, cmd.OutOrStdout())
			},
		},
		{
			Use: "demo-engine FOLDER", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return unpackGanesha(cmd.Context(), args[0], cmd.ErrOrStderr())
			},
		},
	}
}
