package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/api"
	"muster/internal/vm"
)

// Limits of the drivers, as share show says them.
const (
	namesLimit = "files made, renamed or removed in the last seconds before a power cut of the head may be lost, what is in files that were synced is not; mount its file system with dirsync"
	locksLimit = "a lock that has to wait for another node may fail with an input/output error"
	waitsLimit = "a lock that waits for a program on another node may be had only 30 seconds after it is free"
	graceLimit = "after a restart of the NFS server, who writes waits up to its grace time"
)

// TestVMShareKernel has a head in a machine of its own, which serves a folder by the kernel's NFS server.
func TestVMShareKernel(t *testing.T) {
	m := startHeadMachine(t, "engine=kernel")
	s := m.shareFolder(t, "nfs-kernel-server", "got")
	m.checkLimits(t, s, []string{graceLimit, waitsLimit}, []string{namesLimit, locksLimit})
	t.Run("share", func(t *testing.T) { shareChecks(t, s) })
	t.Run("server restarted", func(t *testing.T) {
		// As nfs-server.service does.
		checkServerKilled(t, s, func() {
			s.server(t, "", "PATH=$PATH:/usr/sbin; rpc.nfsd 0; exportfs -au; exportfs -f; sleep 1; exportfs -r; rpc.nfsd")
		})
	})
	t.Run("power cut", func(t *testing.T) { checkPowerCut(t, m, s, "engine=kernel", true) })
}

// TestVMShareGanesha does the same with nfs-ganesha 6.5, which waiting locks and names at a power cut are known to be a
// limit of.
func TestVMShareGanesha(t *testing.T) {
	m := startHeadMachine(t, "")
	s := m.shareFolder(t, "nfs-ganesha", "")
	s.waits = waitingLocks(t, s.server(t, "", "ganesha.nfsd -v"))
	m.checkLimits(t, s, []string{namesLimit, locksLimit}, []string{graceLimit, waitsLimit})
	t.Run("share", func(t *testing.T) { shareChecks(t, s) })
	t.Run("server killed", func(t *testing.T) {
		checkServerKilled(t, s, func() { s.server(t, "", "kill -9 $(cat /var/lib/muster/nfs/ganesha.pid)") })
	})
	t.Run("power cut", func(t *testing.T) { checkPowerCut(t, m, s, "dirsync", false) })
	m.checkLimits(t, s, []string{locksLimit}, []string{namesLimit})
	t.Run("power cut with dirsync", func(t *testing.T) { checkPowerCut(t, m, s, "dirsync", true) })
	t.Run("version 4.2", func(t *testing.T) { checkReadPlus(t, m, s) })
}

// plusConfig is a server as an administrator may set it up, with version 4.2.
const plusConfig = `NFS_CORE_PARAM { Protocols = 4; NFS_Port = 2049; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFSv4 { Minor_Versions = 1, 2; Lease_Lifetime = 10; Grace_Period = 10; RecoveryBackend = fs; RecoveryRoot = "/state/plus"; Only_Numeric_Owners = true; Delegations = false; }
EXPORT { Export_Id = 9; Path = "/srv/plus"; Pseudo = "/x"; Protocols = 4; Transports = TCP; SecType = sys; Access_Type = RW; Squash = root_squash; Attr_Expiration_Time = 0; Filesystem_Id = 9.1; FSAL { Name = VFS; } }
`

// plusSentence is what the documents say of it, unlike of version 4.3.
const plusSentence = "with `Minor_Versions = 1, 2` it gives zeros in place of data that is not on disk yet, which 6.5 does not"

// checkReadPlus has nodes read by version 4.2 of NFS what the server itself wrote a moment ago and is not on the disk yet.
func checkReadPlus(t *testing.T, m *headMachine, s sharedFolder) {
	s.server(t, "", `muster share remove "$1"; while pgrep -x ganesha.nfsd; do sleep 0.2; done; mkdir -m 777 /state/plus /srv/plus`, path.Dir(s.dir))
	s.write(t, "/state/plus.conf", plusConfig, "644")
	s.server(t, "", `setsid ganesha.nfsd -F -f /state/plus.conf -L STDERR -p /state/plus.pid </dev/null >/state/plus.log 2>&1 &
until grep -q "NFS SERVER INITIALIZED" /state/plus.log; do sleep 0.2; done; muster share add head:/x --at /srv/plus`)
	m.c.mountedBy("/srv/plus", 2, bootTime)
	if got := s.on(t, 0, "/srv/plus", "grep ' /srv/plus ' /proc/self/mounts"); !strings.Contains(got, "vers=4.2") {
		t.Fatalf("it is mounted as %s", got)
	}
	wrong := 0
	for i := range 10 {
		file := fmt.Sprintf("/srv/plus/file%d", i)
		want := s.server(t, "", `head -c 300000 /dev/urandom > "$1"; md5sum < "$1"`, file)
		if got := s.on(t, i%2, "/srv/plus", "md5sum < "+file); got != want {
			wrong++
		}
	}
	page, err := os.ReadFile("../../docs/shares.md")
	if says := strings.Contains(string(page), plusSentence); err != nil || !says || wrong > 0 {
		t.Errorf("of 10 files that were not on the disk yet, nodes read %d wrong; docs/shares.md says %q: %v (%v)", wrong, plusSentence, says, err)
	}
}

// startHeadMachine switches a head's machine on and starts the head in it.
func startHeadMachine(t *testing.T, words string) *headMachine {
	t.Helper()
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: boots a machine that is a head, with two nodes")
	}
	m := newHeadMachine(t, "software")
	begin := time.Now()
	m.boot(t, words)
	m.startHead(t, "--dhcp=full")
	t.Logf("the head serves %v after its machine was switched on", time.Since(begin).Round(100*time.Millisecond))
	return m
}

// shareFolder has two nodes boot and mount a folder of the head, which an engine serves.
func (m *headMachine) shareFolder(t *testing.T, engine, waits string) sharedFolder {
	t.Helper()
	c := m.c
	var nodes [2]string
	var guests [2]*guest
	for i := range guests {
		guests[i] = c.boot(vm.Config{Name: fmt.Sprintf("node%d", i), Firmware: vm.BIOS, MemMiB: 1536, CPUs: 2}, nil)
	}
	for i, g := range guests {
		nodes[i] = c.ready(g).Name
	}
	share := path.Join(insideShares, "data")
	begin := time.Now()
	s := sharedFolder{c: c, bin: c.openToUsers(), dir: path.Join(share, "ada"), nodes: nodes, waits: waits}
	if got := s.server(t, "", `mkdir "$1" && muster share add "$1"`, share); !strings.Contains(got, "the head serves it with "+engine) {
		t.Fatalf("share add says\n%s", got)
	}
	c.mountedBy(share, 2, bootTime)
	t.Logf("two nodes have mounted the folder %v after share add began", time.Since(begin).Round(10*time.Millisecond))
	s.mkdir(t, s.dir)
	return s
}

// nodesBack waits until so many nodes are ready again, after an end of the head.
func (c *cluster) nodesBack(nodes int, most time.Duration) {
	c.t.Helper()
	c.eventually(most, "the nodes are back", func(ctx context.Context) (bool, error) {
		list, err := c.client.Nodes(ctx)
		return err == nil && len(list.Items) == nodes && !slices.ContainsFunc(list.Items, func(n api.Node) bool { return n.State != api.NodeReady }), nil
	})
}

// mountedBy waits until so many nodes have mounted a share.
func (c *cluster) mountedBy(share string, nodes int, most time.Duration) {
	c.t.Helper()
	c.eventually(most, fmt.Sprintf("%d nodes have mounted %s", nodes, share), func(ctx context.Context) (bool, error) {
		s, err := c.client.Share(ctx, share)
		mounted := 0
		for _, m := range s.Mounts {
			if m.State == "mounted" {
				mounted++
			}
		}
		return err == nil && s.State == "served" && mounted == nodes, nil
	})
}

// checkLimits checks which limits are said of a share.
func (m *headMachine) checkLimits(t *testing.T, s sharedFolder, said, unsaid []string) {
	t.Helper()
	shown := s.server(t, "", `muster share show "$1"`, path.Dir(s.dir))
	for _, l := range said {
		if !strings.Contains(shown, l) {
			t.Errorf("share show does not say %q:\n%s", l, shown)
		}
	}
	for _, l := range unsaid {
		if strings.Contains(shown, l) {
			t.Errorf("share show says %q:\n%s", l, shown)
		}
	}
}

// cutProgram has a lock, writes records into one file and files of their own and has each on the server's disk before it
// says so, makes empty files, says "now", and goes on with records until the file stop is there.
const cutProgram = `import fcntl, os, sys, time
os.chdir(sys.argv[1])
lock = open("lock.fcntl", "r+"); fcntl.lockf(lock, fcntl.LOCK_EX)
f = os.open("records", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
longest, n = 0, 0
def record():
    global longest, n
    begin = time.monotonic()
    os.write(f, b"record %d\n" % n); os.fsync(f)
    longest = max(longest, time.monotonic() - begin); n += 1
for i in range(40):
    record()
    g = os.open(f"file{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(g, b"synced"); os.fsync(g); os.close(g)
for i in range(12): os.close(os.open(f"name{i}", os.O_CREAT | os.O_EXCL))
print("now", n, flush=True)
time.sleep(10) # what is synced now would take the names along
while not os.path.exists("stop"): record()
print("end", n, round(longest, 1), flush=True)
`

// checkPowerCut cuts the power of the head under a writer and starts it again, with these words for its system. What
// was synced is there, the writer goes on with what it had open, and its lock is still its own. namesKept tells
// whether files that were made a moment ago are there: the limit, or the lack of it.
func checkPowerCut(t *testing.T, m *headMachine, s sharedFolder, words string, namesKept bool) {
	dir := s.folder(t, fmt.Sprintf("cut%d", m.boots))
	s.write(t, path.Join(dir, "lock.py"), lockProgram, "644")
	s.write(t, path.Join(dir, "lock.fcntl"), "", "666")
	s.write(t, path.Join(dir, "cut.py"), cutProgram, "644")
	s.server(t, "", "sync")
	// What it prints is kept by the head, on the other disk: nothing of it makes the file system of the share sync.
	started := s.types(t, ada, "/", fmt.Sprintf("muster run -d --private --on $A python3 %s/cut.py %s", dir, dir))
	id, _, _ := strings.Cut(strings.TrimSpace(started.stdout), " ")
	if started.status != 0 || id == "" {
		t.Fatalf("%+v", started)
	}
	before := m.follow(t, s, id, "now ", m.cutPower)
	begin := time.Now()
	m.boot(t, words)
	names := s.server(t, "", `cd "$1" && { cat file* | wc -c; ls | grep -c ^name || true; }`, dir)
	m.startHead(t, "--dhcp=full")
	m.c.nodesBack(2, bootTime)
	m.c.mountedBy(path.Dir(s.dir), 2, bootTime)
	t.Logf("the nodes are back %v after the power cut", time.Since(begin).Round(100*time.Millisecond))
	var bytes, kept int
	if _, err := fmt.Sscan(names, &bytes, &kept); err != nil || bytes != 40*len("synced") {
		t.Errorf("what was synced: %d bytes of files, want %d (%v)", bytes, 40*len("synced"), err)
	}
	if namesKept && kept != 12 || !namesKept && kept == 12 {
		t.Errorf("%d of 12 files that were made a moment ago are there, want all: %v", kept, namesKept)
	}
	if got := s.lock(t, dir, 1, "fcntl", "try").next(t); got != "EAGAIN" && got != "EWOULDBLOCK" {
		t.Errorf("a lock that the writer has is tried after the power cut: %q", got)
	}
	s.write(t, path.Join(dir, "stop"), "", "644")
	after := m.follow(t, s, id, "end ", nil)
	f := strings.Fields(after)
	n, err := strconv.Atoi(f[1])
	if err != nil || !strings.HasPrefix(before, "now 40") {
		t.Fatalf("the writer said %q and %q", before, after)
	}
	var want strings.Builder
	for i := range n {
		fmt.Fprintf(&want, "record %d\n", i)
	}
	if got := s.read(t, path.Join(dir, "records")); got != want.String() {
		t.Errorf("%d records were acknowledged, the file has %d\n%.300q", n, strings.Count(got, "\n"), got)
	}
	t.Logf("power cut: %d records, none lost, the longest wait was %s s; %d of 12 names that were a moment old are there", n, f[2], kept)
}

// follow reads what a job prints until a line begins with a word, and returns that line. then is called at once.
func (m *headMachine) follow(t *testing.T, s sharedFolder, id, word string, then func(*testing.T)) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shareTime)
	defer cancel()
	cmd := s.shell(ctx, account{}, "/", `exec muster job logs -f "$1"`, id)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), word) {
			if then != nil {
				then(t)
			}
			return lines.Text()
		}
	}
	t.Fatalf("job %s does not say %q", id, word)
	return ""
}
