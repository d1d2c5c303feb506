// Command powercut is the whole system of a virtual machine with a record
// store: as PID 1 it mounts the disk, says on the console which records there
// are, then the number of each batch that was committed, until the power is
// cut.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"muster/headnode/store"
)

const (
	disk      = "/dev/nvme0n1"
	startTime = time.Minute

	// writers commit batches of perBatch records at a time, so that groups
	// of several batches are written too.
	writers  = 4
	perBatch = 5
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Println("powercut: error:", err)
	}
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF) // the console said why
}

func run(ctx context.Context) error {
	for _, kind := range []string{"devtmpfs", "proc"} {
		if err := syscall.Mount(kind, map[string]string{"devtmpfs": "/dev", "proc": "/proc"}[kind], kind, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", kind, err)
		}
	}
	if err := mountDisk(); err != nil {
		return fmt.Errorf("mounting %s: %w", disk, err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, store.Config{Dir: "/disk/nats", NoSync: strings.Contains(string(cmdline), "powercut.nosync")})
	if err != nil {
		return err
	}
	for _, r := range s.List("batch") {
		fmt.Printf("powercut: kept %s\n", r.ID)
	}
	fmt.Println("powercut: listed")
	failed := make(chan error)
	for w := range writers {
		go func() { failed <- write(ctx, s, w) }()
	}
	return <-failed
}

// mountDisk waits for the disk: the kernel looks for disks while the first
// program runs already.
func mountDisk() error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(startTime)
	for {
		err := syscall.Mount(disk, "/disk", "ext4", 0, "")
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-late:
			return err
		}
	}
}

// write commits batches for ever.
func write(ctx context.Context, s *store.Store, writer int) error {
	for n := 0; ; n++ {
		batch := fmt.Sprintf("w%d-b%d", writer, n)
		var ops []store.Op
		for i := range perBatch {
			ops = append(ops, store.Op{Kind: "batch", ID: fmt.Sprintf("%s-%d", batch, i), Data: []byte(`{"schema":1}`)})
		}
		if _, err := s.Commit(ctx, ops...); err != nil {
			return fmt.Errorf("committing %s: %w", batch, err)
		}
		fmt.Printf("powercut: acknowledged %s\n", batch)
	}
}
