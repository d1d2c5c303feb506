// Command powercut is the whole system of a virtual machine that is a head: as
// PID 1 it mounts the disk, starts muster head on it, and says on the console
// which jobs the head knows, then the number of each job that it submits and
// the head acknowledges, until the power is cut.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"muster/api"
	"muster/api/client"
)

const (
	disk   = "/dev/nvme0n1"
	state  = "/disk/state"
	socket = state + "/run/head.sock"

	// startTime is how long the head may take to serve, and submitters is
	// how many jobs are submitted at a time.
	startTime  = 2 * time.Minute
	submitters = 4
)

func main() {
	if err := run(); err != nil {
		fmt.Println("powercut: error:", err)
	}
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF) // the console said why
}

func run() error {
	for _, m := range []struct{ source, target, kind string }{
		{"devtmpfs", "/dev", "devtmpfs"}, {"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"tmpfs", "/tmp", "tmpfs"},
	} {
		if err := syscall.Mount(m.source, m.target, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	// The kernel looks for disks while the first program runs already.
	err := retry(ctx, func() error { return syscall.Mount(disk, "/disk", "ext4", 0, "") })
	if err != nil {
		return fmt.Errorf("mounting %s: %w", disk, err)
	}
	ended, err := startHead()
	if err != nil {
		return err
	}
	c, err := client.New(socket)
	if err != nil {
		return err
	}
	err = retry(ctx, func() error {
		select {
		case err := <-ended:
			cancel()
			return fmt.Errorf("muster head ended: %w", err)
		default:
		}
		_, err := c.Status(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for the head: %w", err)
	}
	return work(context.Background(), c)
}

// startHead starts the head as the kernel's command line says.
func startHead() (<-chan error, error) {
	args := []string{"head", "--state", state, "--dhcp", "off", "--api-port", "0"}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	if strings.Contains(string(cmdline), "powercut.nosync") {
		args = append(args, "--no-sync")
	}
	head := exec.Command("/muster", args...)
	head.Env = []string{"PATH=/", "HOME=/"}
	out, err := head.StdoutPipe()
	if err != nil {
		return nil, err
	}
	head.Stderr = head.Stdout
	if err := head.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			fmt.Println("head:", lines.Text())
		}
		if err := head.Wait(); err != nil {
			ended <- err
			return
		}
		ended <- errors.New("without an error")
	}()
	return ended, nil
}

// retry calls f until it succeeds or ctx is done, and returns its last error.
func retry(ctx context.Context, f func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// work says which jobs are there, and submits more for ever.
func work(ctx context.Context, c *client.Client) error {
	list, err := c.Jobs(ctx, true)
	if err != nil {
		return fmt.Errorf("listing jobs: %w", err)
	}
	for _, j := range list.Items {
		fmt.Printf("powercut: kept %d %s\n", j.ID, j.Name)
	}
	fmt.Printf("powercut: listed %d\n", len(list.Items))
	failed := make(chan error)
	for range submitters {
		go func() {
			for {
				j, err := c.Submit(ctx, api.JobSpec{Argv: []string{"true"}, Name: "kept", Tasks: 1, Detached: true})
				if err != nil {
					failed <- fmt.Errorf("submitting: %w", err)
					return
				}
				fmt.Printf("powercut: acknowledged %d %s\n", j.ID, j.Name)
			}
		}()
	}
	return <-failed
}
