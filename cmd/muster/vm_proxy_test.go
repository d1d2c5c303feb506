package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"muster/api"
	"muster/internal/need"
	"muster/internal/netnstest"
	"muster/internal/vm"
)

// TestVMProxy boots machines beside another DHCP server: they get their
// addresses there, their boot program from us, and only once enrollment is
// open for them.
func TestVMProxy(t *testing.T) {
	dnsmasq := need.Program(t, "dnsmasq", "dnsmasq-base")
	// The other server comes first, so that the head hears it. Its cable
	// needs the bridge, which the cluster makes with its head; hence a
	// bridge of the office, which the cluster's is plugged into.
	office := netnstest.New(t)
	netnstest.Bridge(t, netnstest.End{Name: "office"})
	netnstest.Veth(t, netnstest.End{Name: "of0", Bridge: "office"}, netnstest.End{NS: office, Name: "eth0", Addrs: netnstest.Addr("10.77.0.2/24")})
	log, err := os.Create(filepath.Join(t.ArtifactDir(), "dnsmasq.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	office.Command(t.Context(), t, func(cmd *exec.Cmd) { cmd.Stdout, cmd.Stderr = log, log }, dnsmasq,
		"--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces",
		"--dhcp-range=10.77.0.100,10.77.0.150,255.255.255.0,1h", "--no-ping",
		"--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"), "--user=root")

	c := newCluster(t)
	netnstest.Veth(t, netnstest.End{Name: "up0", Bridge: "office"}, netnstest.End{Name: "up1", Bridge: c.bridge})
	c.startHead("--dhcp=auto")
	s, err := c.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Boot[0]; got.DHCP != "proxy" || !strings.Contains(got.Reason, "10.77.0.2") {
		t.Fatalf("the boot service does %q (%s), want proxy because of 10.77.0.2", got.DHCP, got.Reason)
	}

	bios := c.boot(vm.Config{Name: "proxy-bios", Firmware: vm.BIOS}, nil)
	n := c.waitState(bios, api.NodeUnanswered)
	if want := "muster node add " + bios.mac; !strings.Contains(n.Hint, want) {
		t.Errorf("hint for a machine that is not answered is %q, want it to name %q", n.Hint, want)
	}
	if r := c.muster("", "enroll", "open", "30m"); r.status != 0 {
		t.Fatalf("muster enroll open: %s", r.stderr)
	}
	if err := bios.Reset(); err != nil {
		t.Fatal(err)
	}
	uefi := c.boot(vm.Config{Name: "proxy-uefi", Firmware: vm.UEFI}, nil)
	for _, g := range []*guest{bios, uefi} {
		node := c.ready(g)
		if !strings.HasPrefix(node.IP, "10.77.0.1") || node.IP == "10.77.0.1" {
			t.Errorf("%s has address %s, want one of the other server's 10.77.0.100 to 150", g.mac, node.IP)
		}
		r := c.muster("b\na\n", "run", "--on", node.Name, "sort")
		if got, want := r.stdout, "a\nb\n"; got != want || r.status != 0 {
			t.Errorf("muster run sort = %q, status %d (%s), want %q", got, r.status, r.stderr, want)
		}
	}
}

// TestVMHeadKilled ends a head as a crash would while a job runs: the job
// goes on, and its output and exit status are there afterwards.
func TestVMHeadKilled(t *testing.T) {
	c := startCluster(t, "--dhcp=full")
	g := c.boot(vm.Config{Name: "killed", Firmware: vm.BIOS}, nil)
	node := c.ready(g)
	type ended struct{ result }
	done := make(chan ended, 1)
	script := `i=0; while test $i -lt 30; do echo line $i; i=$((i+1)); sleep 0.2; done; exit 3`
	go func() { done <- ended{c.muster("", "run", "--", "sh", "-c", script)} }()
	c.eventually(jobTime, "the job runs", func(ctx context.Context) (bool, error) {
		list, err := c.client.Jobs(ctx, false)
		return err == nil && len(list.Items) == 1 && list.Items[0].State == api.JobRunning && list.Items[0].Tasks[0].Output > 20, nil
	})
	c.stopHead(syscall.SIGKILL)
	c.startHead("--dhcp=full")
	r := <-done
	var want strings.Builder
	for i := range 30 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if r.stdout != want.String() || r.status != 3 {
		t.Errorf("the job printed %q and ended with %d (%s), want 30 lines and 3", r.stdout, r.status, r.stderr)
	}
	// The same node, without a second approval.
	if got := c.waitState(g, api.NodeReady); got.Name != node.Name {
		t.Errorf("the node is %q after the head's restart, want %q", got.Name, node.Name)
	}
}
