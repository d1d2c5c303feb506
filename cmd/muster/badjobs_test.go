package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/api/client"
)

// nobody is a user without rights of any kind.
const nobody = 65534

// shareFolder makes a folder of size bytes that is a share of the cluster, before its agent is started: the agent finds it
// mounted, as an earlier agent would have left it. There is no server.
func (c *cluster) shareFolder(a *agent, id int, size string, flags uintptr) string {
	c.t.Helper()
	dir, err := os.MkdirTemp("/srv", "muster share-") // a name with a space
	if err != nil {
		c.t.Fatal(err)
	}
	export := fmt.Sprintf("/x%d", id)
	if err := unix.Mount(headAddr+":"+export, dir, "tmpfs", flags, "mode=1777,size="+size); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		_ = os.Remove(dir)
	})
	at := filepath.Join(a.dir, "shares", strconv.Itoa(id))
	a.prepare(fmt.Sprintf("mkdir -p '%s' && mount --bind '%s' '%s'", at, dir, at))
	args := []string{"share", "add", headAddr + ":" + export, "--at", dir}
	if flags&unix.MS_RDONLY != 0 {
		args = append(args, "--ro")
	}
	if r := c.muster("", args...); r.status != 0 {
		c.t.Fatalf("muster share add: %+v", r)
	}
	return dir
}

// prepare has the machine run a shell command before its agent.
func (a *agent) prepare(command string) {
	if a.before != "" {
		command = a.before + " && " + command
	}
	a.before = command
}

// asker is who runs muster, and where.
type asker struct {
	dir   string
	uid   int
	env   []string // nil: that of the test
	shell string   // runs in dir and gets muster as "$1"; "": muster itself
}

func (c *cluster) command(by asker, args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := exec.Command(c.bin, args...)
	if by.shell != "" {
		cmd = exec.Command("/bin/sh", append([]string{"-c", by.shell, "sh", c.bin}, args...)...)
	}
	cmd.Env, cmd.Dir = os.Environ(), by.dir
	if by.env != nil {
		cmd.Env = by.env
	}
	cmd.Env = append(cmd.Env, "MUSTER_HEAD="+c.socket())
	if by.uid != 0 {
		id := uint32(by.uid)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	}
	return cmd
}

// ask runs muster to its end.
func (c *cluster) ask(by asker, args ...string) result {
	c.t.Helper()
	cmd := c.command(by, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	c.finish(cmd)
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// finish runs a command and waits for its end, which must come.
func (c *cluster) finish(cmd *exec.Cmd) {
	c.t.Helper()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	late := time.AfterFunc(jobTime, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // the status tells
	if !late.Stop() {
		c.t.Errorf("%q did not end within %v", cmd.Args, jobTime)
	}
}

// start starts muster and kills it at the end of the test.
func (c *cluster) start(cmd *exec.Cmd) *programRun {
	c.t.Helper()
	r := &programRun{cmd: cmd, ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		r.err = cmd.Wait()
		r.status = cmd.ProcessState.ExitCode()
		close(r.ended)
	}()
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, unless the test failed
		<-r.ended
	})
	return r
}

// named finds a job by its name when it runs.
func (c *cluster) named(name string) api.Job {
	c.t.Helper()
	var found api.Job
	c.eventually(jobTime, "job "+name+" runs", func(ctx context.Context) (bool, error) {
		list, err := c.client.Jobs(ctx, true)
		if err != nil {
			return false, err
		}
		for _, j := range list.Items {
			if j.Name == name {
				found = j
				return j.State != api.JobQueued, nil
			}
		}
		return false, nil
	})
	return found
}

// badCluster is a cluster with shares, one to write to and one only to read.
func badCluster(t *testing.T) (c *cluster, a *agent, share, readOnly string) {
	t.Helper()
	c = newAgentCluster(t)
	// Others have to reach the head's socket.
	if err := os.Chmod(filepath.Dir(filepath.Dir(c.state)), 0o755); err != nil {
		t.Fatal(err)
	}
	c.startHead("--dhcp=full")
	a = c.newAgent()
	share = c.shareFolder(a, 1, "256m", 0)
	readOnly = c.shareFolder(a, 2, "1m", unix.MS_RDONLY)
	a.start("-shares")
	a.ready()
	return c, a, share, readOnly
}

// long makes so many bytes of variables or arguments.
func long(bytes int) []string {
	var list []string
	for i := range bytes / (100 << 10) {
		list = append(list, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 100<<10)))
	}
	return list
}

// TestBadJobs gives users of a cluster with shares what they may run into.
func TestBadJobs(t *testing.T) {
	c, _, share, readOnly := badCluster(t)
	b := c.newAgent()
	b.start()
	patience := newPatience(t, c, b, b.ready().Name)
	mustRun := func(script string) {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-ec", script)
		cmd.Dir = share
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	mustRun(`mkdir folder; mkdir -m 700 secret; echo x >roots; ln -s folder link
		printf 'echo x\n' >plain; printf '#!/no/such\n' >script; chmod 755 script; printf '\177ELF' >"$(printf 'bad\nname')"; chmod 755 bad*`)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(share, link); err != nil {
		t.Fatal(err)
	}
	here := asker{dir: share}
	bare := []string{"PATH=/usr/bin:/bin"}
	inShell := func(script string) asker { return asker{dir: share, shell: script} }
	for _, tc := range []struct {
		name   string
		by     asker
		args   []string
		status int
		out    string
		said   []string // "": nothing at all
	}{
		{"folder in no share", asker{dir: "/usr"}, []string{"run", "true"}, exitMuster, "", []string{"/usr is in no share", "cd to a folder on a share (" + min(share, readOnly), "muster share add HOST:/EXPORT --at /usr", "--send FILE", "--private"}},
		{"folder by a link", inShell(`cd "` + link + `" && exec "$@"`), []string{"run", "pwd"}, 0, share + "\n", nil},
		{"folder that is gone", inShell(`mkdir gone && cd gone && rmdir ../gone && exec "$@"`), []string{"run", "true"}, exitMuster, "", []string{"this folder was removed", "--private"}},
		{"no folder needed", inShell(`mkdir gone && cd gone && rmdir ../gone && exec "$@"`), []string{"run", "--private", "echo", "x"}, 0, "x\n", nil},
		{"another's folder", inShell(fmt.Sprintf(`cd secret && exec setpriv --reuid %d --regid %[1]d --clear-groups "$@"`, nobody)), []string{"run", "true"}, 126, "", []string{"entering working directory " + share + "/secret: permission denied; this user may not enter it"}},
		{"output into no folder", here, []string{"run", "-o", "no/out", "true"}, 126, "", []string{share + "/no/out for output: no such file or directory; make its folder first"}},
		{"output into a folder", here, []string{"run", "-o", "folder", "true"}, 126, "", []string{share + "/folder for output: is a directory; name a file in it"}},
		{"output into folder/", here, []string{"run", "-o", "folder/", "true"}, exitUsage, "", []string{"-o folder/: it is a folder; name a file in it"}},
		{"output into nothing", here, []string{"run", "-o", "", "true"}, exitUsage, "", []string{"-o is given no name of a file"}},
		{"output beside shares", here, []string{"run", "-o", "/etc/out", "true"}, exitMuster, "", []string{"-o /etc/out: no share has that folder", "muster share list"}},
		{"output into another's file", asker{dir: share, uid: nobody}, []string{"run", "-o", "roots", "true"}, 126, "", []string{share + "/roots for output: permission denied; this user may not write there"}},
		{"output into a share for reading", here, []string{"run", "-o", readOnly + "/out", "true"}, 126, "", []string{readOnly + "/out for output: read-only file system; the share is for reading only"}},
		{"errors into no folder", here, []string{"run", "-e", "no/err", "true"}, 126, "", []string{share + "/no/err for output: no such file"}},
		{"output of many into one", here, []string{"run", "-n", "8", "-o", "out", "true"}, exitMuster, "", []string{"8 tasks would write over each other in " + share + "/out", "-o out-%t"}},
		{"no HOME", asker{dir: share, env: bare}, []string{"run", "sh", "-c", `test -d "$HOME" && cd && echo home`}, 0, "home\n", nil},
		{"no environment", asker{dir: share, env: []string{}}, []string{"run", "sh", "-c", `test -d "$HOME" && test -n "$PATH" && ls roots`}, 0, "roots\n", nil},
		{"no program", here, []string{"run"}, exitUsage, "", []string{"no command to run; as in: muster run hostname"}},
		{"program without a name", here, []string{"run", "--", "", "x"}, exitMuster, "", []string{"the job has no program; name a program: muster run PROGRAM ARGS"}},
		{"program that is not there", here, []string{"run", "no\nsuch\x1b[31m"}, 127, "", []string{`task 0 on n1: no\nsuch\x1b[31m: command not found on this node`}},
		{"file that is not there", here, []string{"run", "./no\nsuch\xff"}, 127, "", []string{`./no\nsuch\xff: no such file on this node; --send ./no\nsuch\xff sends it along`}},
		{"no program of this kind", here, []string{"run", "./bad\nname"}, 126, "", []string{`./bad\nname: it is a program for another kind of processor`}},
		{"not executable", here, []string{"run", "./plain"}, 126, "", []string{"./plain: it is not executable; chmod +x it"}},
		{"a folder as a program", here, []string{"run", "./folder"}, 126, "", []string{"./folder: it is a directory"}},
		{"no interpreter", here, []string{"run", "./script"}, 126, "", []string{"./script: it needs /no/such, which this node does not have"}},
		{"names in the list", here, []string{"job", "list"}, 0, "*", nil},
		// Linux has 6 MB for both at most, whatever the limit of the stack.
		{"too much environment", asker{dir: share, env: append(bare, long(1500<<10)...)}, []string{"run", "true"}, exitMuster, "", []string{"arguments and environment have 1536", "V10=", "alone 102404", "at most 524288 are taken", "--send FILE", "env -u NAME"}},
		{"too many arguments", here, append([]string{"run", "true"}, long(1500<<10)...), exitMuster, "", []string{"at most 524288 are taken", "--send FILE"}},
		{"argument too long for the shell", inShell(`x=$(head -c 200000 /dev/zero | tr '\0' x); "$1" run true "$x"`), nil, 126, "", []string{"Argument list too long"}},
		{"no line end", here, []string{"run", "--prefix", "printf", "a\nb"}, 0, "0: a\n0: b\n", nil},
		{"closed input", inShell(`exec "$@" <&-`), []string{"run", "cat"}, 0, "", nil},
		{"closed output", inShell(`"$@" >&-; echo $?`), []string{"run", "echo", "x"}, 0, "*", nil},
		{"only one line is read", inShell(`"$@" | head -1`), []string{"run", "--name", "endless", "sh", "-c", "while :; do echo line; done"}, 0, "line\n", nil},
		{"devices", here, []string{"run", "sh", "-c", "cat /dev/mem /dev/sda /dev/kmsg; mknod d b 8 0"}, 1, "", []string{"/dev/mem", "/dev/sda", "/dev/kmsg", "No such file or directory", "Operation not permitted"}},
		{"mounting", here, []string{"run", "mount", "-t", "tmpfs", "x", share + "/folder"}, -2, "", []string{"mount"}},
		{"set-uid", asker{dir: share, uid: nobody}, []string{"run", "sh", "-c", "grep NoNewPrivs /proc/self/status; cat '" + share + "/secret/x'"}, 1, "NoNewPrivs:\t1\n", []string{"ermission denied"}},
		{"unknown job", here, []string{"job", "cancel", "999"}, exitFailed, "", []string{"there is no job 999; see the jobs with: muster job list"}},
		{"no number of a job", here, []string{"job", "logs", "x"}, exitUsage, "", []string{`"x" is no job; jobs are numbers`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c.during(t)
			r := c.ask(tc.by, tc.args...)
			if r.status != tc.status && (tc.status != -2 || r.status == 0) {
				t.Errorf("it ended with %d, want %d", r.status, tc.status)
			}
			if tc.out != "*" && r.stdout != tc.out {
				t.Errorf("it wrote %q, want %q", r.stdout, tc.out)
			}
			for _, text := range tc.said {
				if !strings.Contains(r.stderr, text) {
					t.Errorf("it said %q, want %q in it", r.stderr, text)
				}
			}
			if tc.said == nil && r.stderr != "" {
				t.Errorf("it said %q, want nothing", r.stderr)
			}
			if said := r.stdout + r.stderr; strings.Contains(said, "\x1b") || strings.Contains(said, "\xff") {
				t.Errorf("what is no text came to the terminal: %q %q", r.stdout, r.stderr)
			}
		})
	}
	if j := c.ended(c.named("endless").ID); j.Tasks[0].Signal != int(syscall.SIGPIPE) {
		t.Errorf("the job whose reader left ended by signal %d, want SIGPIPE", j.Tasks[0].Signal)
	}

	t.Run("a folder that is gone when the job starts", func(t *testing.T) {
		c.during(t)
		j, err := c.client.Run(t.Context(), api.JobSpec{Argv: []string{"true"}, Dir: share + "/gone by now"}, client.RunOptions{})
		if err != nil || j.ExitCode != 126 || !strings.Contains(j.Reason, "/gone by now: no such file or directory; the folder was removed meanwhile") {
			t.Errorf("it ended with %d (%s), %v", j.ExitCode, j.Reason, err)
		}
	})

	t.Run("a job that ignores TERM", func(t *testing.T) {
		c.during(t)
		var out lines
		cmd := c.command(here, "run", "--name", "stubborn", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.2; done")
		cmd.Stdout, cmd.Stderr = &out, &out
		run := c.start(cmd)
		out.wait(t, "ready")
		id := fmt.Sprint(c.named("stubborn").ID)
		if r := c.ask(here, "job", "cancel", id); r.status != 0 || !strings.Contains(r.stdout, "job "+id+" gets TERM now, and KILL in 5 s if it does not end") {
			t.Errorf("muster job cancel: %+v", r)
		}
		run.wait(t, 20*time.Second)
		if run.status != 137 || !strings.Contains(out.text(), "canceled by root; it did not end on TERM and was killed after 5s") {
			t.Errorf("muster run ended with %d and said %q", run.status, out.text())
		}
		if r := c.ask(here, "job", "cancel", id); r.status != exitFailed || !strings.Contains(r.stderr, "has ended: it is canceled") {
			t.Errorf("a second muster job cancel: %+v", r)
		}
	})

	t.Run("another's job", func(t *testing.T) {
		c.during(t)
		c.start(c.command(here, "run", "--name", "mine", "sleep", "100"))
		id := fmt.Sprint(c.named("mine").ID)
		for _, verb := range []string{"cancel", "logs", "attach"} {
			r := c.ask(asker{dir: share, uid: nobody}, "job", verb, id)
			if r.status != exitFailed || !strings.Contains(r.stderr, "job "+id+" belongs to root: user nobody may not") {
				t.Errorf("muster job %s: %+v", verb, r)
			}
		}
		if r := c.ask(asker{dir: share, uid: nobody}, "share", "remove", share); r.status != exitFailed || !strings.Contains(r.stderr, "user nobody may not") {
			t.Errorf("muster share remove: %+v", r)
		}
		if r := c.ask(here, "share", "remove", share); r.status != exitFailed || !strings.Contains(r.stderr, "is in use by") || !strings.Contains(r.stderr, "muster job cancel") {
			t.Errorf("muster share remove of one that is in use: %+v", r)
		}
		if r := c.ask(here, "job", "cancel", id); r.status != 0 { // the control
			t.Errorf("muster job cancel: %+v", r)
		}
	})

	t.Run("no room on the node", func(t *testing.T) {
		c.during(t)
		b := c.newAgent() // a small one
		tasks := filepath.Join(b.dir, "tasks")
		b.prepare(fmt.Sprintf("mkdir -m 711 '%s' && mount -t tmpfs -o size=8m,mode=711 tasks '%s'", tasks, tasks))
		b.start()
		n := b.ready()
		if err := os.WriteFile(filepath.Join(share, "big"), make([]byte, 16<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		checkFails(t, c.ask(here, "run", "--on", n.Name, "--send", "big", "true"), 126, "the node has no memory left for the files that are sent along", "they have 16 MiB, and 8 have room; put them on a share")
		if r := c.ask(here, "run", "--on", n.Name, "--private", "sh", "-c", "head -c 16m /dev/zero >x"); r.status == 0 || !strings.Contains(r.stderr, "No space left on device") {
			t.Errorf("writing more than there is: %+v", r)
		}
		if r := c.ask(here, "run", "--on", n.Name, "--private", "echo", "lives"); r.stdout != "lives\n" {
			t.Errorf("afterwards: %+v", r)
		}
	})

	t.Run("a node of another's name", func(t *testing.T) {
		c.during(t)
		b := c.newAgent()
		b.start()
		n := b.wait(api.NodePending)
		r := c.muster("", "node", "approve", n.Fingerprint, "--name", "n1")
		if r.status == 0 || !strings.Contains(r.stderr, "n1") || !strings.Contains(r.stderr, "name") {
			t.Errorf("a second n1: %+v", r)
		}
		if n, _ := b.state(t.Context()); n.State != api.NodePending {
			t.Errorf("the second machine is %s, want pending still", n.State)
		}
	})

	t.Run("shares", func(t *testing.T) { c.during(t); badShares(t, c, share) })
	t.Run("a server that moves", func(t *testing.T) { c.during(t); movingServer(t, c) })
	t.Run("input", func(t *testing.T) { c.during(t); muchInput(t, c, here) })
	t.Run("interrupts", func(t *testing.T) { c.during(t); interruptsOf(t, c, here) })
	t.Run("terminal in the background", func(t *testing.T) { c.during(t); backgroundTerminal(t, c, here) })
	patience.check(t)
}

// checkFails checks how a command failed and what it said.
func checkFails(t *testing.T, r result, status int, texts ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("it ended with %d, want %d", r.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("it said %q, want %q in it", r.stderr, text)
		}
	}
}

// badShares tries places and servers of shares.
func badShares(t *testing.T, c *cluster, share string) {
	// A server that takes connections and says nothing.
	quiet, err := net.Listen("tcp", headAddr+":2049")
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	for i, tc := range []struct {
		name, source, at string
		status           int
		said             string
	}{
		{"spaces", headAddr + ":/a b", "/srv/a b", 0, "does not answer as an NFS server does"},
		{"inside another", headAddr + ":/x", share + "/in", 0, "will be mounted at"},
		{"trailing slash", headAddr + ":/x/", "/srv/slash/", 0, "will be mounted at /srv/slash by"},
		{"one export twice", headAddr + ":/x", "/srv/twice", 0, "will be mounted at"},
		{"refuses", "127.0.0.1:/x", "/srv/refuses", 0, "127.0.0.1 runs no NFS server on port 2049"},
		{"hangs", "10.77.0.99:/x", "/srv/hangs", 0, "10.77.0.99 does not answer on port 2049; is there a firewall?"},
		{"the same path twice", headAddr + ":/y", share, exitFailed, "there is a share at " + share + " already; choose another path with --at, or remove it first: muster share remove"},
		{"line end", headAddr + ":/x", "/srv/a\nb", exitUsage, `"/srv/a\nb" cannot be where nodes mount a share; choose a path`},
		{"escape", headAddr + ":/x", "/srv/\x1b[31m", exitUsage, `without control characters`},
		{"line end in an export", headAddr + ":/a\nb", "/srv/q", exitUsage, "is not HOST:/EXPORT; name an NFS server"},
		{"up", headAddr + ":/x", "/srv/../etc", exitUsage, "name it from / on, without . and .."},
		{"up in an export", headAddr + ":/x/../y", "/srv/q", exitUsage, "without . and .."},
		{"relative", headAddr + ":/x", "srv", exitUsage, "name it from / on"},
		{"the root", headAddr + ":/x", "/", exitUsage, "a share cannot be the root"},
		{"no export", headAddr + ":x", "/srv/q", exitUsage, "is not HOST:/EXPORT"},
		{"unknown server", "nosuchhost:/x", "/srv/q", exitUsage, "give its address, or have the head's resolver know the name"},
		{"a folder of tasks", headAddr + ":/x", "/bin/x", exitUsage, "tasks have /bin of their own"},
	} {
		if i == 1 {
			quiet.Close() // each look at it takes its time
		}
		r := c.muster("", "share", "add", tc.source, "--at", tc.at)
		if all := r.stdout + r.stderr; r.status != tc.status || !strings.Contains(all, tc.said) {
			t.Errorf("%s: muster share add %q --at %q ended with %d and said %q, want %d and %q", tc.name, tc.source, tc.at, r.status, all, tc.status, tc.said)
		}
		if r.status == 0 {
			if r := c.muster("", "share", "remove", strings.TrimRight(tc.at, "/")); r.status != 0 {
				t.Errorf("%s: muster share remove: %+v", tc.name, r)
			}
		}
	}
}

// muchInput sends input to a command that reads it all, and to one that reads none, and looks how much memory that takes.
func muchInput(t *testing.T, c *cluster, by asker) {
	const size = 128 << 20
	in, err := os.Create(filepath.Join(t.TempDir(), "input"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.Truncate(size); err != nil {
		t.Fatal(err)
	}
	before := peaks(t, c)
	cmd := c.command(by, "run", "wc", "-c")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, os.Stderr
	most := map[*exec.Cmd]int{cmd: c.peakOf(cmd)}
	if got := strings.TrimSpace(out.String()); got != fmt.Sprint(size) {
		t.Errorf("the command read %q bytes, want %d", got, size)
	}
	unread := c.command(by, "run", "sleep", "1")
	unread.Stdin = in
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	most[unread] = c.peakOf(unread)
	for cmd, kb := range most {
		if kb == 0 || kb > 80<<10 {
			t.Errorf("%q took %d MB", cmd.Args, kb>>10)
		}
	}
	for pid, now := range peaks(t, c) {
		if was, known := before[pid]; known && now-was > 64<<10 {
			t.Errorf("process %d grew by %d MB for %d MB of input", pid, (now-was)>>10, size>>20)
		}
	}
}

// peakOf runs a command to its end and returns how many kB it had at most.
func (c *cluster) peakOf(cmd *exec.Cmd) (kb int) {
	c.t.Helper()
	run := c.start(cmd)
	c.eventually(10*jobTime, "the command has ended", func(context.Context) (bool, error) {
		kb = max(kb, peak(cmd.Process.Pid))
		select {
		case <-run.ended:
			return true, nil
		default:
			return false, nil
		}
	})
	return kb
}

// peak is how many kB a process had at most, 0 when it has ended.
func peak(pid int) (kb int) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kb, _ = strconv.Atoi(f[1])
		}
	}
	return kb
}

// peaks is how many kB the head's and the agents' processes had at most.
func peaks(t *testing.T, c *cluster) map[int]int {
	t.Helper()
	found := map[int]int{}
	for _, pid := range append(processesWith("muster-agent\x00agent\x00"), processesWith("head-child\x00core\x00")...) {
		if kb := peak(pid); kb > 0 {
			found[pid] = kb
		}
	}
	if len(found) < 2 {
		t.Fatalf("only the processes %v are found", found)
	}
	return found
}
