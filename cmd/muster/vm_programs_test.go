package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/internal/vm"
)

// squashedConfig is a server as sites have it: root of a node is nobody, and the groups of users are the server's to
// look up, as a request has room for 16.
const squashedConfig = `NFS_CORE_PARAM { Protocols = 4; NFS_Port = 2049; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFSv4 { Minor_Versions = 1; Lease_Lifetime = 10; Grace_Period = 10; RecoveryBackend = fs; RecoveryRoot = "%[1]s/recovery"; Only_Numeric_Owners = true; Delegations = false; }
EXPORT { Export_Id = 1; Path = "%[2]s"; Pseudo = "/x"; Protocols = 4; Transports = TCP; SecType = sys; Access_Type = RW; Squash = root_squash; Anonymous_Uid = 65534; Anonymous_Gid = 65534;
 PrivilegedPort = true; Manage_Gids = true; Attr_Expiration_Time = 0; Filesystem_Id = 1.1; FSAL { Name = VFS; } }
`

// TestVMPrograms does what people do: in a share of an external server, from two nodes, as a user that is not root.
func TestVMPrograms(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm: needs an NFS server on this system and an image with compilers")
	}
	recipes := readRecipes(t)
	haveAccounts(t)
	c := newCluster(t)
	nfs := startNFSWith(t, squashedConfig)
	c.image = shippedImage(t, "software")
	c.startHead("--dhcp=full")
	var nodes [2]string
	var guests [2]*guest
	for i := range guests {
		guests[i] = c.boot(vm.Config{Name: fmt.Sprintf("software%d", i), Firmware: vm.BIOS, MemMiB: 1536, CPUs: 2}, nil)
	}
	for i, g := range guests {
		nodes[i] = c.ready(g).Name
	}
	if r := c.muster("", "share", "add", headAddr+":/x", "--at", nfs.dir); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	c.eventually(time.Minute, "the nodes have mounted the share", func(ctx context.Context) (bool, error) {
		s, err := c.client.Share(ctx, nfs.dir)
		return err == nil && len(s.Mounts) == 2 && s.Mounts[0].State == "mounted" && s.Mounts[1].State == "mounted", nil
	})
	s := newSharedFolder(t, c, nfs.dir, nodes, nfs.waitingLocks(t))
	t.Run("share", func(t *testing.T) { shareChecks(t, s) })
	t.Run("server killed", func(t *testing.T) {
		checkServerKilled(t, s, func() {
			nfs.stop()
			<-time.After(2 * time.Second) // as long as it takes to notice it and to start it again
			nfs.start(t)
		})
	})
	t.Run("recipes", func(t *testing.T) {
		licences := serveLicences(t)
		for _, r := range recipes {
			if len(r.packages) == 0 && !strings.Contains(r.script, "licenses.") {
				continue // TestRecipes follows it
			}
			t.Run(r.name, func(t *testing.T) {
				if strings.Contains(r.script, "--allow containers") {
					if _, err := c.client.SetSetting(t.Context(), "containers", "on"); err != nil {
						t.Fatal(err)
					}
				}
				dir := s.folder(t, strings.ReplaceAll(r.name, " ", "-"))
				writeRecipeFiles(t, dir)
				begin := time.Now()
				got := s.types(t, ada, dir, strings.ReplaceAll(r.script, "licenses.example.org", licences))
				if got.stdout != r.want || got.status != 0 {
					t.Errorf("it prints %q and ends with %d, want %q\n%s", got.stdout, got.status, r.want, got.stderr)
				}
				t.Logf("%v", time.Since(begin).Round(100*time.Millisecond))
			})
		}
		if got := s.on(t, 0, s.dir, "keytool -list -cacerts -storepass changeit | grep -c trustedCertEntry"); len(got) != len("148\n") {
			t.Errorf("Java knows %q authorities", got)
		}
	})
}

// waitingLocks is what becomes of a lock that waits for another node, as docs/shares.md says it.
func (s *nfsServer) waitingLocks(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(s.program, "-v").CombinedOutput()
	if err != nil {
		t.Fatalf("%s -v: %v", s.program, err)
	}
	return waitingLocks(t, string(out))
}

// waitingLocks is what becomes of a lock that waits for another node with an nfs-ganesha, by what it says of its
// version. The documents have to say it.
func waitingLocks(t *testing.T, says string) string {
	t.Helper()
	version := regexp.MustCompile(`V(\d+)\.\d+`).FindStringSubmatch(says)
	if version == nil {
		t.Fatalf("ganesha.nfsd -v says %q", says)
	}
	waits, sentence := "got", "with nfs-ganesha 4.3 a lock that waits for a program on another node is had"
	if major, err := strconv.Atoi(version[1]); err != nil || major > 4 {
		waits, sentence = "EIO", "With nfs-ganesha 6.5 it fails at once with an I/O error (EIO)"
	}
	page, err := os.ReadFile("../../docs/shares.md")
	if err != nil || !strings.Contains(string(page), sentence) {
		t.Errorf("docs/shares.md does not say: %s (%v)", sentence, err)
	}
	return waits
}

// recordProgram appends numbered lines until the file stop is there, each on the server's disk before it is
// acknowledged with the time that it took.
const recordProgram = `import os, time
f = os.open("records", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
n, last = 0, time.monotonic()
while not os.path.exists("stop"):
    os.write(f, b"record %d\n" % n); os.fsync(f)
    now = time.monotonic(); print(n, round(now - last, 2), flush=True)
    n, last = n + 1, now
`

// maxStall is how long a writer may wait for a server that is killed and started again.
const maxStall = 15.0

// checkServerKilled kills the server under a writer three times; kill returns when it is, or will be by itself, started again.
func checkServerKilled(t *testing.T, s sharedFolder, kill func()) {
	dir := s.folder(t, "killed")
	s.write(t, filepath.Join(dir, "record.py"), recordProgram, "644")
	cmd := s.shell(t.Context(), ada, dir, "exec muster run --on $A python3 record.py")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
		close(lines)
	}()
	acknowledged, longest := 0, 0.0
	next := func() bool {
		select {
		case line, ok := <-lines:
			if !ok {
				return false
			}
			f := strings.Fields(line)
			n, err1 := strconv.Atoi(f[0])
			took, err2 := strconv.ParseFloat(f[len(f)-1], 64)
			if err1 != nil || err2 != nil || n != acknowledged {
				t.Fatalf("the writer says %q behind %d records", line, acknowledged)
			}
			acknowledged, longest = n+1, max(longest, took)
			return true
		case <-time.After(shareTime):
			t.Fatalf("the writer waits for more than %v after %d records", shareTime, acknowledged)
			return false
		}
	}
	for range 3 {
		for range 20 {
			if !next() {
				t.Fatal("the writer has ended")
			}
		}
		kill()
	}
	for range 20 {
		next()
	}
	s.write(t, filepath.Join(dir, "stop"), "", "644")
	for next() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the writer ended with %v", err)
	}
	var want strings.Builder
	for n := range acknowledged {
		fmt.Fprintf(&want, "record %d\n", n)
	}
	if got := s.read(t, filepath.Join(dir, "records")); got != want.String() {
		t.Errorf("%d records were acknowledged, the file has %d", acknowledged, strings.Count(got, "\n"))
	}
	if longest >= maxStall {
		t.Errorf("the writer waited for %.1f s, want less than %.0f", longest, maxStall)
	}
	t.Logf("the server was killed 3 times: %d records, none lost, the longest wait was %.1f s", acknowledged, longest)
}
