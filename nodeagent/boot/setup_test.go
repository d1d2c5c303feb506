package boot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/internal/need"
)

func putFile(t *testing.T, root, name, text string) {
	t.Helper()
	name = filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestReadSetup(t *testing.T) {
	root := t.TempDir()
	if s, err := ReadSetup(root); err != nil || len(s.Services)+len(s.Sysctls) > 0 {
		t.Errorf("ReadSetup() without a file = %+v, %v", s, err)
	}
	putFile(t, root, api.NodeFile, `{"sysctls": [{"name": "vm.swappiness", "value": "10"}]}`)
	s, err := ReadSetup(root)
	if diff := cmp.Diff(api.NodeSetup{Sysctls: []api.NodeSysctl{{Name: "vm.swappiness", Value: "10"}}}, s); diff != "" || err != nil {
		t.Errorf("ReadSetup() differs: %s, %v", diff, err)
	}
	putFile(t, root, api.NodeFile, `{`)
	if _, err := ReadSetup(root); err == nil || !strings.Contains(err.Error(), "reading /etc/muster/node.json: ") {
		t.Errorf("ReadSetup() = %v", err)
	}
}

func TestApplySysctls(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"vm/swappiness", "net/ipv4/conf/eth0.1/rp_filter", "kernel/core_pattern"} {
		putFile(t, dir, name, "0\n")
	}
	unknown, errs := applySysctls(dir, []api.NodeSysctl{
		{Name: "vm.swappiness", Value: "10"},
		{Name: "net.ipv4.conf.eth0/1.rp_filter", Value: "2"},
		{Name: "kernel.core_pattern", Value: "|/bin/false"},
		{Name: "net.bridge.x", Value: "1"},
		{Name: "vm", Value: "1"},
		{Name: "//.x", Value: "1"},
	})
	if diff := cmp.Diff([]api.NodeSysctl{{Name: "net.bridge.x", Value: "1"}}, unknown); diff != "" {
		t.Errorf("unknown (-want +got):\n%s", diff)
	}
	var texts []string
	for _, err := range errs {
		texts = append(texts, strings.ReplaceAll(err.Error(), dir, "DIR"))
	}
	if diff := cmp.Diff([]string{"setting vm: open DIR/vm: is a directory", "setting //.x: it is no name of a setting"}, texts); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{"vm/swappiness": "10\n", "net/ipv4/conf/eth0.1/rp_filter": "2\n", "kernel/core_pattern": "|/bin/false\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
}

// TestKernelTakesSysctls makes settings of a network namespace of the test's own.
func TestKernelTakesSysctls(t *testing.T) {
	if os.Getenv("MUSTER_TEST_SYSCTL") == "" {
		need.Root(t)
		cmd := exec.Command(need.Program(t, "unshare", "util-linux"), "-n", os.Args[0], "-test.run=^TestKernelTakesSysctls$", "-test.v")
		cmd.Env = append(os.Environ(), "MUSTER_TEST_SYSCTL=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("in a network namespace: %v\n%s", err, out)
		}
		return
	}
	unknown, errs := applySysctls("/proc/sys", []api.NodeSysctl{
		{Name: "net.ipv4.ip_forward", Value: "1"},
		{Name: "net.ipv4.ip_local_port_range", Value: "20000 30000"},
		{Name: "net.ipv4.nothing_like_it", Value: "1"},
		{Name: "net.ipv4.tcp_retries2", Value: "many"},
	})
	if len(unknown) != 1 || unknown[0].Name != "net.ipv4.nothing_like_it" {
		t.Errorf("unknown are %v", unknown)
	}
	if len(errs) != 1 || errs[0].Error() != "setting net.ipv4.tcp_retries2 to many: invalid argument; this kernel takes another value" {
		t.Errorf("errors are %v", errs)
	}
	for name, want := range map[string]string{"ip_forward": "1\n", "ip_local_port_range": "20000\t30000\n"} {
		if got, err := os.ReadFile("/proc/sys/net/ipv4/" + name); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
}

// What the image says about modules counts, and the kernel command line counts more.
func TestModuleConf(t *testing.T) {
	root := t.TempDir()
	putFile(t, root, "etc/modprobe.d/muster.conf", "options e1000e InterruptThrottleRate=1 debug=1\n")
	putFile(t, root, "etc/modprobe.d/a.conf", "options e1000e debug=0\nblacklist nouveau\n")
	putFile(t, root, "etc/modprobe.d/readme", "options e1000e debug=7\n")
	putFile(t, root, "proc/cmdline", "quiet e1000e.debug=2 loop.max_loop=8\n")
	conf, err := ModuleConf(root)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"e1000e": "debug=0 InterruptThrottleRate=1 debug=1 debug=2", "loop": "max_loop=8"}
	if diff := cmp.Diff(want, conf.Options); diff != "" || !conf.Blacklist["nouveau"] {
		t.Errorf("options (-want +got):\n%s, blacklist %v", diff, conf.Blacklist)
	}
	if conf, err := ModuleConf(t.TempDir()); err != nil || len(conf.Options) > 0 {
		t.Errorf("ModuleConf() of nothing = %+v, %v", conf, err)
	}
}
