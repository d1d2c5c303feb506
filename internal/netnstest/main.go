package netnstest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"muster/internal/need"
)

const (
	// outsideVar holds the network namespace that the tests must not be in.
	// The inner process, and what it starts of itself (fuzz workers), find
	// it in their environment.
	outsideVar = "MUSTER_NETNSTEST_OUTSIDE"

	// probeVar makes the inner process end after it has set up the namespace.
	probeVar = "MUSTER_NETNSTEST_PROBE"

	ownNamespace = "/proc/thread-self/ns/net"
)

// Main runs the tests of m in namespaces of their own and exits with their
// status. It is all that a TestMain has to do. Mounts that tests make are
// seen by the tests alone; /sys is the machine's.
func Main(m *testing.M) {
	outside, inside := os.LookupEnv(outsideVar)
	here, err := os.Readlink(ownNamespace)
	if err != nil {
		fatal(fmt.Errorf("finding out in which network namespace the tests run: %w", err))
	}
	if !inside || outside == here {
		os.Exit(outer(here))
	}
	if err := setUp(); err != nil {
		fatal(fmt.Errorf("setting up the test namespace: %w", err))
	}
	if os.Getenv(probeVar) != "" {
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "netnstest:", err)
	os.Exit(1)
}

// way is one way to start the test binary in namespaces of its own.
type way struct {
	name string
	make func(env []string, args ...string) *exec.Cmd
}

// outer finds a way that works here and runs the tests with it.
func outer(here string) int {
	ways := []way{{"a user namespace", userNamespace}, {"sudo", sudo}}
	if os.Geteuid() == 0 {
		ways = []way{{"root", rootNamespace}, {"a user namespace", userNamespace}}
	}
	env := append(os.Environ(), outsideVar+"="+here)
	var reasons []string
	for _, w := range ways {
		if err := probe(w, env); err != nil {
			reasons = append(reasons, fmt.Sprintf("with %s: %v", w.name, err))
			continue
		}
		return run(w.make(env, os.Args[1:]...))
	}
	return skipAll("no network namespace for the tests: " + strings.Join(reasons, "; ") +
		"; run the tests as root, or allow user namespaces with: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
}

// probe starts the binary by w only to set up the namespaces. Forbidding may
// show late: AppArmor lets a user namespace be made and then refuses every
// right in it.
func probe(w way, env []string) error {
	cmd := w.make(append(env[:len(env):len(env)], probeVar+"=1"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if text := strings.TrimSpace(out.String()); err != nil && text != "" {
		return errors.New(text)
	}
	return err
}

// run runs the tests to their end, passes on the signals by which `go test`
// ends a binary, and returns the exit status.
func run(cmd *exec.Cmd) int {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT)
	// The death signal follows the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		fatal(fmt.Errorf("starting the tests: %w", err))
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended by itself
		}
	}()
	err := cmd.Wait()
	if err == nil {
		return 0
	}
	if code := cmd.ProcessState.ExitCode(); code > 0 {
		return code
	}
	fatal(fmt.Errorf("running the tests: %w", err))
	return 1
}

func self(env []string, args []string, attr syscall.SysProcAttr) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = env
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = &attr
	return cmd
}

func rootNamespace(env []string, args ...string) *exec.Cmd {
	return self(env, args, syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS})
}

func userNamespace(env []string, args ...string) *exec.Cmd {
	return self(env, args, syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	})
}

// sudo runs the binary as root, which then makes its namespaces itself: the
// marker of the inside is left out, everything else of the environment
// is carried over by env, since sudo keeps little of it.
func sudo(env []string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	command := []string{"-n", "env"}
	for _, kv := range env {
		if !strings.HasPrefix(kv, outsideVar+"=") {
			command = append(command, kv)
		}
	}
	return exec.Command("sudo", append(append(command, exe), args...)...)
}

// setUp makes the new namespace usable: mounts stay inside, lo is up, IPv6
// addresses are usable at once.
func setUp() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	return setUpNetwork()
}

// setUpNetwork prepares the network namespace of the calling thread.
func setUpNetwork() error {
	for _, name := range []string{"all", "default"} {
		// Without IPv6 in the kernel there is nothing to switch off.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0o644)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("switching lo on: %w", err)
	}
	return nil
}

// skipAll reports one skipped (or failed) test in place of the package's own,
// so that the reason is in the output as that of a test and not lost.
func skipAll(reason string) int {
	test := testing.InternalTest{Name: "TestNetworkNamespace", F: func(t *testing.T) { need.Missing(t, "%s", reason) }}
	everything := func(string, string) (bool, error) { return true, nil }
	testing.Main(everything, []testing.InternalTest{test}, nil, nil) // exits
	return 1
}
