package main

import (
	"context"
	"os/exec"
	"strings"

	"muster/api"
	"muster/nodeagent/boot"
	"muster/nodeagent/userland"
)

// userland is that of the image which the machine was booted from; nil: it has
// none.
func (m *machine) userland(runDir string) *userland.Holder {
	want, ok, err := userland.Read(api.UserlandFile)
	if !ok {
		return nil
	}
	return userland.New(userland.Config{
		Want: want, Problem: err, RunDir: runDir,
		MemTotalMiB: boot.MemTotalMiB("/"),
		Modprobe:    func(name string) error { return exec.Command("/sbin/modprobe", "-q", name).Run() },
		Mounted: func(root string) {
			boot.UseFirmware(root, m.log)
			close(m.mounted)
		},
		Log: m.log,
	})
}

// moreDrivers has devices get the drivers that are not in the initramfs, as soon as
// the userland says which there are.
func (m *machine) moreDrivers(ctx context.Context) {
	if m.params.Probe == "network" { // a person wants no more drivers than that takes
		return
	}
	select {
	case <-m.mounted:
	case <-ctx.Done():
		return
	}
	if err := boot.MoreDrivers(ctx, m.loadMore); err != nil {
		m.log.Warn("devices get no drivers of the userland", "err", err)
	}
}

// loadMore loads what aliases stand for by a process of its own, since the index of
// all modules takes memory that is not needed for long.
func (m *machine) loadMore(ctx context.Context, aliases []string) (again []string) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "drivers")
	cmd.Stdin = strings.NewReader(strings.Join(aliases, "\n"))
	out, err := cmd.CombinedOutput()
	if text := strings.TrimSpace(string(out)); err != nil && ctx.Err() == nil {
		m.log.Warn("drivers not loaded", "err", err, "text", text)
	}
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == exitAgain {
		return aliases
	}
	return nil
}
