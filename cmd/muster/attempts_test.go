package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"

	"muster/api"
)

// buildAttempts builds the program that tries what no task may do (nodeagent/testdata/attempts) and
// returns its folder.
func buildAttempts(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(dir, "attempts"), "../../nodeagent/testdata/attempts")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building attempts: %v\n%s", err, b)
	}
	return dir
}

// attempt is the outcome of one: what it says, and whether it got what it wanted.
type attempt struct {
	says string
	got  bool
}

func attempted(t *testing.T, cmd *exec.Cmd) attempt {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code > 1 || errOut.Len() > 0 {
		t.Fatalf("%q: the attempt is at fault: status %d, %s%s", cmd.Args, code, out.String(), errOut.String())
	}
	return attempt{strings.TrimSpace(out.String()), cmd.ProcessState.Success()}
}

// TestAttemptsOnTheHead makes from inside of a task what no task may do with the head and with a server
// of files, and then what it takes for it to succeed.
func TestAttemptsOnTheHead(t *testing.T) {
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	node := a.ready()
	dir := buildAttempts(t)
	// In a task, and on the node beside it, as root, as an agent is.
	inTask := func(args ...string) attempt {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), c.bin, append([]string{"--head", c.socket(), "run", "--send", "attempts", "--", "./attempts"}, args...)...)
		cmd.Dir = dir
		return attempted(t, cmd)
	}
	asRoot := func(args ...string) attempt {
		t.Helper()
		out, err := a.ns.Output(t.Context(), t, filepath.Join(dir, "attempts"), args...)
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) {
			t.Fatalf("%q: the attempt is at fault: %v, %s", args, err, out)
		}
		return attempt{strings.TrimSpace(out), err == nil}
	}
	const mac, token = "52:54:00:77:00:77", "a token"
	if r := c.muster("", "node", "add", mac, "--name", "away"); r.status != 0 {
		t.Fatalf("muster node add: %+v", r)
	}
	sum := sha256.Sum256([]byte(token))
	if err := os.WriteFile(filepath.Join(c.state, "tokens"), []byte("root "+hex.EncodeToString(sum[:])+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ATTEMPT\tHELD BY\tWITH\tWITHOUT")
	row := func(what, heldBy string, with, without attempt) {
		t.Helper()
		if with.got {
			t.Errorf("%s: succeeded in a task: %s", what, with.says)
		}
		if !without.got {
			t.Errorf("%s: refused without %s: %s", what, heldBy, without.says)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", what, heldBy, with.says, without.says)
	}
	agents, api443 := headAddr+":7421", "https://"+headAddr+":7443/v1/nodes"
	joined := inTask("join", agents, mac)
	row("join as a machine that is known", "ports below 1024 (capabilities)", joined, asRoot("join", agents, mac))
	row("use the API of users", "tokens", inTask("ask", "GET", api443), inTask("ask", "GET", api443, token))
	for _, port := range []string{"80", "7480"} {
		row("use it at port "+port, "it is not there", inTask("ask", "GET", "http://"+headAddr+":"+port+"/v1/nodes"), asRoot("ask-unix", c.socket(), "GET", "/v1/nodes"))
	}
	row("use the head's socket", "private folders", inTask("ask-unix", c.socket(), "GET", "/v1/nodes"), asRoot("ask-unix", c.socket(), "GET", "/v1/nodes"))
	w.Flush()
	t.Logf("\n%s", table.String())

	nodes, err := c.client.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		if n.Name == node.Name && n.State != api.NodeReady {
			t.Errorf("after this the node is %s", n.State)
		}
	}
}

// TestAttemptsOnAServerOfFiles speaks NFS by hand from inside of a task, as another user.
func TestAttemptsOnAServerOfFiles(t *testing.T) {
	program, err := exec.LookPath("ganesha.nfsd")
	if err != nil || os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-vm after: apt install nfs-ganesha nfs-ganesha-vfs")
	}
	c := newAgentCluster(t)
	c.startHead("--dhcp=full")
	a := c.newAgent()
	a.start()
	a.ready()
	dir, share := buildAttempts(t), t.TempDir()
	secret := filepath.Join(share, "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("of another user"), 0o600), os.Chown(secret, 5000, 5000)); err != nil {
		t.Fatal(err)
	}
	serve := func(port int, privileged bool) string {
		run := t.TempDir()
		config := filepath.Join(run, "ganesha.conf")
		text := fmt.Sprintf(`NFS_CORE_PARAM { Protocols = 4; NFS_Port = %d; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFSv4 { Minor_Versions = 0, 1; Lease_Lifetime = 5; Grace_Period = 5; Graceless = true; RecoveryBackend = fs; RecoveryRoot = "%s"; Only_Numeric_Owners = true; }
EXPORT { Export_Id = 1; Path = "%s"; Pseudo = "/x"; Protocols = 4; Transports = TCP; SecType = sys; Access_Type = RW; PrivilegedPort = %v; Filesystem_Id = 1.1; FSAL { Name = VFS; } }
`, port, run, share, privileged)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		log, err := os.Create(filepath.Join(t.ArtifactDir(), fmt.Sprintf("ganesha-%d.log", port)))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		cmd := exec.Command(program, "-F", "-f", config, "-L", "STDERR", "-p", filepath.Join(run, "pid"))
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		addr := net.JoinHostPort(headAddr, fmt.Sprint(port))
		c.eventually(agentTime, "the server of files serves", func(ctx context.Context) (bool, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err == nil {
				conn.Close()
			}
			return err == nil, nil
		})
		return addr
	}
	inTask := func(addr string) attempt {
		cmd := exec.CommandContext(t.Context(), c.bin, "--head", c.socket(), "run", "--send", "attempts", "--", "./attempts", "nfs", addr, "5000", "x", "secret")
		cmd.Dir = dir
		return attempted(t, cmd)
	}
	closed, open := serve(2049, true), serve(2050, false)
	with := inTask(closed)
	out, err := a.ns.Output(t.Context(), t, filepath.Join(dir, "attempts"), "nfs", closed, "5000", "x", "secret")
	asRoot := attempt{strings.TrimSpace(out), err == nil}
	without := inTask(open)
	t.Logf("NFS by hand: with both %q; from a low port %q; at a server that takes any port %q", with.says, asRoot.says, without.says)
	if with.got {
		t.Errorf("a task reads another's file: %s", with.says)
	}
	for _, control := range []attempt{asRoot, without} {
		if !control.got || !strings.Contains(control.says, "another user") {
			t.Errorf("with one protection off it is refused: %s", control.says)
		}
	}
}
