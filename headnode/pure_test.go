package headnode

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestMachineSteps(t *testing.T) {
	want := map[string]string{ // from: everything that it may become
		"": "unanswered booting pending ready declared", "unanswered": "booting pending ready declared",
		"booting": "pending ready unanswered declared", "pending": "ready rejected declared",
		"rejected": "pending", "declared": "ready", "ready": "",
	}
	all := []api.NodeState{api.NodeUnanswered, api.NodeBooting, api.NodePending, api.NodeRejected, api.NodeDeclared, api.NodeReady}
	for from, to := range want {
		for _, s := range all {
			allowed := false
			for _, f := range strings.Fields(to) {
				allowed = allowed || f == string(s)
			}
			if err := machineStep(api.NodeState(from), s); (err == nil) != allowed {
				t.Errorf("machineStep(%q, %s) = %v, want allowed %v", from, s, err, allowed)
			}
		}
	}
}

func TestAdminSteps(t *testing.T) {
	allowed := map[string]bool{
		"ready draining": true, "ready paused": true, "draining paused": true, "draining ready": true, "paused ready": true,
		"ready ready": true, "draining draining": true, "paused paused": true,
	}
	all := []api.AdminState{api.AdminReady, api.AdminDraining, api.AdminPaused}
	for _, from := range all {
		for _, to := range all {
			if err := adminStep(from, to); (err == nil) != allowed[string(from)+" "+string(to)] {
				t.Errorf("adminStep(%s, %s) = %v", from, to, err)
			}
		}
	}
	if err := adminStep(api.AdminReady, "gone"); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("adminStep(ready, gone) = %v, want invalid", err)
	}
}

func TestLinkOf(t *testing.T) {
	for _, c := range []struct {
		silent, interval time.Duration
		booting          bool
		want             api.LinkState
	}{
		{0, time.Second, false, api.LinkUp},
		{2500 * time.Millisecond, time.Second, false, api.LinkUp},
		{2501 * time.Millisecond, time.Second, false, api.LinkLate},
		{9999 * time.Millisecond, time.Second, false, api.LinkLate},
		{10 * time.Second, time.Second, false, api.LinkUnreachable},
		{20 * time.Second, 10 * time.Second, false, api.LinkUp},
		{49 * time.Second, 10 * time.Second, false, api.LinkLate},
		{50 * time.Second, 10 * time.Second, false, api.LinkUnreachable},
		{time.Hour, time.Second, true, api.LinkBooting},
	} {
		if got := linkOf(c.silent, c.interval, c.booting); got != c.want {
			t.Errorf("linkOf(%v, %v, %v) = %s, want %s", c.silent, c.interval, c.booting, got, c.want)
		}
	}
	for n, want := range map[int]time.Duration{0: time.Second, 1000: time.Second, 10_000: 10 * time.Second} {
		if got := heartbeatInterval(n); got != want {
			t.Errorf("heartbeatInterval(%d) = %v, want %v", n, got, want)
		}
	}
}

func TestShownState(t *testing.T) {
	for _, c := range []struct {
		admin api.AdminState
		link  api.LinkState
		want  api.NodeState
	}{
		{api.AdminReady, api.LinkUp, api.NodeReady},
		{api.AdminReady, api.LinkLate, api.NodeLate},
		{api.AdminDraining, api.LinkLate, api.NodeDraining},
		{api.AdminPaused, api.LinkUp, api.NodePaused},
		{api.AdminPaused, api.LinkUnreachable, api.NodeUnreachable},
		{api.AdminDraining, api.LinkBooting, api.NodeBooting},
	} {
		if got := shownState(c.admin, c.link); got != c.want {
			t.Errorf("shownState(%s, %s) = %s, want %s", c.admin, c.link, got, c.want)
		}
	}
}

func TestDecideJoin(t *testing.T) {
	for name, c := range map[string]struct {
		v     joinView
		state api.JoinState
		bind  bool
		waits bool
	}{
		"unknown":                     {joinView{}, api.JoinPending, false, false},
		"a node's key":                {joinView{key: api.NodeReady, known: true, policy: rejoinApprove}, api.JoinApproved, false, false},
		"a rejected key":              {joinView{key: api.NodeRejected, declared: true}, api.JoinRejected, false, false},
		"a rejected address":          {joinView{rejected: true, known: true, silent: time.Hour, policy: rejoinAddress}, api.JoinRejected, false, false},
		"declared":                    {joinView{declared: true, policy: rejoinApprove}, api.JoinApproved, true, false},
		"known, policy approve":       {joinView{known: true, silent: time.Hour, policy: rejoinApprove}, api.JoinPending, false, false},
		"known and silent":            {joinView{known: true, silent: silence, policy: rejoinAddress}, api.JoinApproved, true, false},
		"known and heard":             {joinView{known: true, silent: silence - 1, policy: rejoinAddress}, api.JoinPending, false, true},
		"anyone who is declared":      {joinView{declared: true, anyone: true}, api.JoinPending, false, false},
		"anyone who is known":         {joinView{known: true, silent: time.Hour, anyone: true, policy: rejoinAddress}, api.JoinPending, false, false},
		"anyone with a node's key":    {joinView{key: api.NodeReady, known: true, anyone: true}, api.JoinApproved, false, false},
		"pending, then known, silent": {joinView{key: api.NodePending, known: true, silent: silence, policy: rejoinAddress}, api.JoinApproved, true, false},
	} {
		if d := decideJoin(c.v); d.state != c.state || d.bind != c.bind || d.waits != c.waits {
			t.Errorf("%s: decideJoin = %+v, want %s, bind %v, waits %v", name, d, c.state, c.bind, c.waits)
		}
	}
}

func TestDecideBoot(t *testing.T) {
	for name, c := range map[string]struct {
		v      bootView
		answer bool
		reason string
	}{
		"node, closed":     {bootView{state: api.NodeReady}, true, ""},
		"declared, closed": {bootView{state: api.NodeDeclared}, true, ""},
		"rejected, open":   {bootView{state: api.NodeRejected, open: true, mac: mac1}, false, "an administrator rejected it; muster node remove " + mac1 + " forgets that"},
		"unknown, open":    {bootView{open: true}, true, ""},
		"unknown, closed":  {bootView{mac: mac1}, false, "enrollment is closed; take it with: muster node add " + mac1 + ", or muster enroll open 30m"},
	} {
		if answer, reason := decideBoot(c.v); answer != c.answer || reason != c.reason {
			t.Errorf("%s: decideBoot = %v, %q, want %v, %q", name, answer, reason, c.answer, c.reason)
		}
	}
	for _, c := range []struct {
		firmware, image string
		want            bool
	}{
		{"", "amd64", true},
		{"amd64", "amd64", true},
		{"i386", "amd64", true},
		{"arm64", "amd64", false},
		{"amd64", "arm64", false},
		{"i386", "arm64", false},
		{"odd", "amd64", true},
	} {
		if got := archFits(c.firmware, c.image); got != c.want {
			t.Errorf("archFits(%s, %s) = %v, want %v", c.firmware, c.image, got, c.want)
		}
	}
}

func TestAdvice(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(stage api.BootStage, ago time.Duration, client string) []api.BootEvent {
		return []api.BootEvent{{Time: now.Add(-ago), MAC: mac1, Stage: stage, Client: client, Detail: "why it is so"}}
	}
	for name, c := range map[string]struct {
		log  []api.BootEvent
		want string // a part of it; "" for none
	}{
		"nothing":                {nil, ""},
		"goes on":                {at(api.StageKernel, time.Second, "ipxe"), ""},
		"ready":                  {at(api.StageReady, time.Hour, ""), ""},
		"refused":                {at(api.StageRefused, 0, "bios"), "It was not answered: why it is so."},
		"stuck":                  {at(api.StageStuck, 0, "bios"), "in circles: why it is so"},
		"pending":                {at(api.StagePending, time.Hour, ""), "muster node approve " + mac1},
		"after DHCP, firmware":   {at(api.StageDHCP, time.Minute, "bios"), "TFTP (69/udp"},
		"after DHCP, iPXE":       {at(api.StageDHCP, time.Minute, "ipxe"), "port 80/tcp"},
		"after the loader":       {at(api.StageLoader, time.Minute, "uefi"), "before it asked for the script"},
		"after a UKI":            {at(api.StageLoader, time.Minute, "http"), "enroll the certificate"},
		"after the script":       {at(api.StageScript, time.Minute, "ipxe"), "7480/tcp"},
		"after the kernel":       {at(api.StageKernel, 2*time.Minute, "ipxe"), "slow or broken"},
		"after the initramfs":    {at(api.StageInitramfs, 2*time.Minute, "ipxe"), "no driver for the network card"},
		"the agent was heard":    {at(api.StageAgent, time.Minute, ""), "agent heard once"},
		"let in and silent":      {at(api.StageApproved, time.Minute, ""), "after it was let in"},
		"fetches":                {at(api.StageUserland, time.Minute, ""), "7480/tcp"},
		"fetches since a moment": {at(api.StageUserland, time.Second, ""), ""},
		"prepares":               {at(api.StagePreparing, time.Minute, ""), "why it is so. Its agent says more"},
		"the initramfs is young": {at(api.StageInitramfs, 80*time.Second, "ipxe"), ""},
	} {
		got := adviceFor(c.log, now)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: adviceFor = %q, want %q in it", name, got, c.want)
		}
	}
}

func TestBootLogsAreBounded(t *testing.T) {
	b := newBootLogs()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for i := range 100 {
		b.add(api.BootEvent{Time: now.Add(time.Duration(i) * time.Second), MAC: "52-54-00-00-00-01", Stage: api.StageDHCP, Detail: "again"})
	}
	if got := b.of(mac1); len(got) != 1 || !got[0].Time.Equal(now.Add(99*time.Second)) {
		t.Errorf("%d events for one question that was repeated, want 1 with the latest time", len(got))
	}
	for i := range 200 {
		b.add(api.BootEvent{Time: now.Add(time.Duration(i) * time.Second), MAC: mac1, Stage: api.StageKernel, Bytes: int64(i), Detail: "\x1b[31mred"})
	}
	got := b.of(mac1)
	if len(got) != bootEvents || got[len(got)-1].Bytes != 199 || got[0].Detail != "[31mred" {
		t.Errorf("%d events, the last of %d bytes, first detail %q", len(got), got[len(got)-1].Bytes, got[0].Detail)
	}
	b.add(api.BootEvent{MAC: "junk"})
	for i := range bootMachines + 50 {
		b.add(api.BootEvent{Time: now.Add(time.Hour), MAC: "02:00:00:00:" + hex2(i>>8) + ":" + hex2(i&255), Stage: api.StageDHCP})
	}
	if len(b.logs) > bootMachines || len(b.of(mac1)) != 0 {
		t.Errorf("%d machines are remembered, and the oldest of them: %v", len(b.logs), len(b.of(mac1)) != 0)
	}
}

func hex2(i int) string { return string("0123456789abcdef"[i>>4]) + string("0123456789abcdef"[i&15]) }

func TestNormalMAC(t *testing.T) {
	for in, want := range map[string]string{
		"52:54:00:AB:CD:EF": "52:54:00:ab:cd:ef", "52-54-00-ab-cd-ef": "52:54:00:ab:cd:ef", "525400abcdef": "52:54:00:ab:cd:ef",
		"5254.00ab.cdef": "52:54:00:ab:cd:ef", " 52:54:00:ab:cd:ef\n": "52:54:00:ab:cd:ef",
		"": "", "52:54:00": "", "52:54:00:ab:cd:ef:00:11": "", "n1": "", "zz5400abcdef": "",
	} {
		if got, ok := normalMAC(in); got != want || ok != (want != "") {
			t.Errorf("normalMAC(%q) = %q, %v, want %q", in, got, ok, want)
		}
	}
}

// FuzzJoinRequest checks that nothing that a stranger says of itself reaches
// terminals and records unbounded.
func FuzzJoinRequest(f *testing.F) {
	seed, _ := json.Marshal(agent{key: "U", mac: mac1}.request())
	f.Add(seed)
	f.Add([]byte(`{"hardware":{"macs":["52:54:00:00:00:01","x",""],"uuid":"\u001b","cpu_model":"\u001b[31m\u0000é","cores":-4},"ip":"fe80::1%eth0"}`))
	f.Add([]byte(`{"speed":1e400}`))
	f.Add([]byte(`{"stage":"\u0000\u001b","software":{"userland":"../x","userland_wanted":"AB"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var req api.JoinRequest
		if json.Unmarshal(data, &req) != nil {
			return
		}
		cleanFacts(&req)
		hw, sw := req.Hardware, req.Software
		for _, s := range []string{req.BootID, hw.Vendor, hw.Product, hw.Arch, hw.CPUModel, hw.Firmware, sw.Agent, sw.Kernel, sw.ImageID, sw.RuntimeID, sw.Medium, sw.Userland, sw.UserlandWanted, req.Stage} {
			if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Fatalf("text %q is left", s)
			}
		}
		if len(hw.MACs) > maxMACs || hw.Cores < 0 || hw.MemoryMiB < 0 || req.Speed < 0 || len(req.Tasks) > maxHeldTasks {
			t.Fatalf("%+v is out of bounds", req)
		}
		again := req
		cleanFacts(&again)
		if diff := cmp.Diff(req, again); diff != "" {
			t.Fatalf("cleaning again changes something (-want +got):\n%s", diff)
		}
		var said struct{ Stage string }
		if json.Unmarshal(data, &said) == nil && said.Stage != "" && req.Stage == "" {
			t.Fatal("a stage that cannot be shown is none")
		}
		hb := api.Heartbeat{Stage: req.Stage, Software: &sw}
		cleanHeartbeat(&hb)
		if hb.Stage != req.Stage || *hb.Software != sw {
			t.Fatalf("a heartbeat is cleaned in another way: %+v", hb)
		}
		rec, err := json.Marshal(machineRecord{Hardware: hw, Software: sw})
		if err != nil || len(rec) > 16<<10 {
			t.Fatalf("record of %d bytes, %v", len(rec), err)
		}
	})
}

func TestSettleDir(t *testing.T) {
	shares := []string{"/home", "/srv/data"}
	for name, c := range map[string]struct {
		spec    api.JobSpec
		shares  []string
		private bool
		err     string
	}{
		"in a share":             {api.JobSpec{Dir: "/home/alice"}, shares, false, ""},
		"the share itself":       {api.JobSpec{Dir: "/srv/data"}, shares, false, ""},
		"beside it":              {api.JobSpec{Dir: "/srv/database"}, shares, false, "/srv/database is in no share"},
		"in none, asked for":     {api.JobSpec{Dir: "/root", Private: true}, shares, true, ""},
		"no shares at all":       {api.JobSpec{Dir: "/root"}, nil, true, ""},
		"nowhere":                {api.JobSpec{}, shares, true, ""},
		"not UTF-8":              {api.JobSpec{Dir: api.EncodeText("/home/\xff")}, shares, false, ""},
		"output in a share":      {api.JobSpec{Dir: "/root", Private: true, Output: "/home/alice/log"}, shares, true, ""},
		"output in none":         {api.JobSpec{Dir: "/home/alice", Output: "/tmp/log"}, shares, false, "-o /tmp/log: no share has that folder"},
		"errors without a share": {api.JobSpec{Dir: "/root", Errors: "/tmp/log"}, nil, false, "-e /tmp/log: no share has that folder"},
	} {
		got, err := settleDir(c.spec, c.shares)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
		case err != nil || got.Private != c.private:
			t.Errorf("%s: private %v, %v", name, got.Private, err)
		}
	}
}

func TestTaskFile(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/home/a": "/home/a", "/home/%j-%t.out": "/home/17-3.out", "/h/100%%": "/h/100%", api.EncodeText("/\xff%t"): api.EncodeText("/\xff3"),
	} {
		if got := taskFile(in, 17, 3); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// What a task may not have yet is refused, not passed over.
func TestSpecThatCannotBe(t *testing.T) {
	one := uint32(1)
	for name, c := range map[string]struct {
		spec api.JobSpec
		want string
	}{
		"fetch":              {api.JobSpec{Argv: []string{"a"}, Fetch: []string{"../out"}}, "clean relative path"},
		"terminals":          {api.JobSpec{Argv: []string{"a"}, Tasks: 2, Terminal: &api.Window{}}, "2 tasks with one terminal"},
		"terminal and file":  {api.JobSpec{Argv: []string{"a"}, Terminal: &api.Window{}, Output: "/home/x"}, "not to both"},
		"one file for two":   {api.JobSpec{Argv: []string{"a"}, Tasks: 2, Output: "/home/x"}, "write over each other"},
		"a relative folder":  {api.JobSpec{Argv: []string{"a"}, Dir: "home", Umask: &one}, "not a clean absolute path"},
		"a hidden zero byte": {api.JobSpec{Argv: []string{"a", api.EncodeText("\xff\x00")}}, "zero byte"},
	} {
		_, _, err := checkSpec(c.spec)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
