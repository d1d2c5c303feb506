package main

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/nodeagent"
	"muster/nodeagent/boot"
)

func TestUse(t *testing.T) {
	tests := map[string]struct {
		argv []string
		pid  int
		verb string
		args []string
	}{
		"started by the kernel":       {[]string{"/init", "quiet"}, 1, "init", nil},
		"the kernel wants a module":   {[]string{"/sbin/modprobe", "-q", "--", "fs-vfat"}, 77, "modprobe", []string{"-q", "--", "fs-vfat"}},
		"started by PID 1":            {[]string{"/init", "agent"}, 77, "agent", []string{}},
		"by a person":                 {[]string{"muster-agent", "modprobe", "loop"}, 77, "modprobe", []string{"loop"}},
		"without a verb":              {[]string{"muster-agent"}, 77, "", nil},
		"without so much as its name": {nil, 77, "", nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			verb, args := use(tc.argv, tc.pid)
			if verb != tc.verb || !slices.Equal(args, tc.args) {
				t.Errorf("use(%q) = %q, %q, want %q, %q", tc.argv, verb, args, tc.verb, tc.args)
			}
		})
	}
}

func TestRunExitStatus(t *testing.T) {
	none := t.TempDir()
	tests := map[string]struct {
		argv   []string
		status int
		stderr string // part of it; empty: nothing at all
	}{
		"no verb":            {[]string{"muster-agent"}, 2, "usage: muster-agent init | modprobe"},
		"unknown verb":       {[]string{"muster-agent", "fly"}, 2, "usage:"},
		"version":            {[]string{"muster-agent", "version"}, 0, "muster-agent devel"},
		"init by a person":   {[]string{"muster-agent", "init"}, 1, "init is for the kernel to start, as PID 1"},
		"shim by a person":   {[]string{"muster-agent", "shim"}, 1, "started by the agent"},
		"agent's help":       {[]string{"muster-agent", "agent", "-h"}, 0, "-head"},
		"agent, bad flag":    {[]string{"muster-agent", "agent", "-x"}, 2, "not defined: -x"},
		"agent, bad pin":     {[]string{"muster-agent", "agent", "-pin", "12", "-run", none}, 1, "want 64 hexadecimal digits"},
		"modprobe nothing":   {[]string{"modprobe"}, 2, "usage: modprobe"},
		"modprobe, no index": {[]string{"modprobe", "-d", none, "loop"}, 1, "modules.dep"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if got := run(tc.argv, 77, &stderr); got != tc.status {
				t.Errorf("run(%q) = %d, want %d", tc.argv, got, tc.status)
			}
			if !strings.Contains(stderr.String(), tc.stderr) {
				t.Errorf("stderr = %q, want %q in it", stderr.String(), tc.stderr)
			}
		})
	}
}

// A module that no index knows: the kernel asks for many and wants no words.
func TestModprobeUnknown(t *testing.T) {
	dir := filepath.Join(t.TempDir(), kernelRelease())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "modules.dep"), []byte("kernel/loop.ko:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args   []string
		stderr string
	}{
		{[]string{"modprobe", "-q", "-d", filepath.Dir(dir), "--", "fs-nosuch"}, ""},
		{[]string{"modprobe", "-d", filepath.Dir(dir), "nosuch"}, "nosuch"},
		{[]string{"modprobe", "-q", "-a", "-d", filepath.Dir(dir), "nosuch", "nosuch2"}, ""},
	} {
		var stderr bytes.Buffer
		if got := run(tc.args, 77, &stderr); got != 1 {
			t.Errorf("run(%q) = %d, want 1", tc.args, got)
		}
		if got := stderr.String(); tc.stderr == "" && got != "" || !strings.Contains(got, tc.stderr) {
			t.Errorf("run(%q) said %q, want %q", tc.args, got, tc.stderr)
		}
	}
}

func TestHeadAddress(t *testing.T) {
	for in, want := range map[string]string{
		"":             "",
		"10.0.0.1":     "10.0.0.1:7421",
		"10.0.0.1:99":  "10.0.0.1:99",
		"head.example": "head.example:7421",
		"fd00::1":      "[fd00::1]:7421",
		"[fd00::1]":    "[fd00::1]:7421",
		"[fd00::1]:99": "[fd00::1]:99",
	} {
		if got := headAddress(in); got != want {
			t.Errorf("headAddress(%q) = %q, want %q", in, got, want)
		}
	}
}

// fakeScreen keeps what is shown.
type fakeScreen struct{ shown []boot.Status }

func (f *fakeScreen) Show(s boot.Status) { f.shown = append(f.shown, s) }

func TestDisplay(t *testing.T) {
	const node, head = "k7qx-3fza-mm2d-5yth", "abcd-efgh-ijkl-mnop"
	lease := &boot.Lease{Link: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Addr: netip.MustParsePrefix("10.0.0.5/24")}
	agent := nodeagent.Status{Head: "10.0.0.1:7421", Fingerprint: node, HeadFingerprint: head}
	phase := func(p nodeagent.Phase, message, reason, name string) func(*display) {
		return func(d *display) {
			a := agent
			a.Phase, a.Message, a.Reason, a.Name = p, message, reason, name
			d.Show(a)
		}
	}
	common := boot.Status{
		Head: agent.Head, Fingerprint: node, HeadFingerprint: head, Address: "10.0.0.5/24 on eth0",
		Problems: []string{"found by PID 1", "of the command line"},
	}
	with := func(change func(*boot.Status)) boot.Status {
		s := common
		change(&s)
		return s
	}
	tests := map[string]struct {
		step func(*display)
		want boot.Status
	}{
		"no address": {func(d *display) { d.address(nil); d.network("no cable has a signal: eth0") }, with(func(s *boot.Status) {
			s.State, s.Address, s.Why = boot.StateBooting, "", "no cable has a signal: eth0"
		})},
		"connecting": {phase(nodeagent.PhaseConnecting, "", "the head does not answer", ""), with(func(s *boot.Status) {
			s.State, s.Why = boot.StateConnecting, "the head does not answer"
		})},
		"pending": {phase(nodeagent.PhasePending, "a person must approve it", "", ""), with(func(s *boot.Status) {
			s.State, s.Why, s.Type = boot.StatePending, "a person must approve it", []string{"muster node approve " + node}
		})},
		"ready": {phase(nodeagent.PhaseReady, "", "", "n1"), with(func(s *boot.Status) {
			s.State, s.Name = boot.StateReady, "n1"
		})},
		"rejected": {phase(nodeagent.PhaseRejected, "rejected by root", "", ""), with(func(s *boot.Status) {
			s.State, s.Why = boot.StateRejected, "rejected by root"
		})},
		"no head": {phase(nodeagent.PhaseNoHead, "", "no head is known", ""), with(func(s *boot.Status) {
			s.State, s.Why = boot.StateNoHead, "no head is known"
		})},
		"stick": {func(d *display) { d.medium = "USB stick"; phase(nodeagent.PhaseReady, "", "", "n1")(d) }, with(func(s *boot.Status) {
			s.State, s.Name, s.Medium = boot.StateReady, "n1", "USB stick"
		})},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			screen := &fakeScreen{}
			d := newDisplay(screen, []string{"of the command line"})
			d.found = func() []string { return []string{"found by PID 1"} }
			d.Show(agent)
			d.network("")
			d.address(lease)
			tc.step(d)
			if diff := cmp.Diff(tc.want, screen.shown[len(screen.shown)-1]); diff != "" {
				t.Errorf("shown, -want +got:\n%s", diff)
			}
		})
	}
}
