package nodeagent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
	"muster/nodeagent/task"
)

// shareView is a userland with shares: /home, and /data for reading.
func shareView(t *testing.T) (v task.View, home string) {
	t.Helper()
	v.Root = smallUserland(t)
	for _, dir := range []string{"home", "data"} {
		from := filepath.Join(runDir(t), dir)
		for _, d := range []string{from, filepath.Join(v.Root, dir)} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		v.Shares = append(v.Shares, task.Share{From: from, To: "/" + dir, ReadOnly: dir == "data"})
	}
	home = filepath.Join(v.Shares[0].From, "alice\xff")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, 4711, 4712); err != nil {
		t.Fatal(err)
	}
	passwd := filepath.Join(runDir(t), "passwd")
	for file, text := range map[string]string{
		passwd: "alice:x:4711:4712::/home/alice:/bin/sh\n", filepath.Join(v.Root, "etc/passwd"): "root:x:0:0::/:/bin/sh\n",
		filepath.Join(v.Shares[1].From, "numbers"): "42\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	v.Files = []task.File{{From: passwd, To: "/etc/passwd"}, {From: passwd, To: "/etc/no-such-file"}}
	return v, home
}

// A task in a folder of a share works there as its user does, with the user's umask and limits,
// and with names and arguments that are not UTF-8.
func TestTaskInShare(t *testing.T) {
	view, home := shareView(t)
	umask := uint32(0o077)
	n := newNode(t, func(c *Config) { c.view = func() (task.View, error) { return view, nil } })
	inHome := func(job uint64, argv ...string) api.TaskStart {
		s := command(job, argv...)
		s.Dir, s.Umask = api.EncodeText("/home/alice\xff"), &umask
		s.Limits = []api.Limit{{Resource: 7, Soft: 333, Hard: 444}}
		s.Env = []string{api.EncodeText("HOME=/home/alice\xff"), "TMPDIR=/data"}
		return s
	}
	for i, c := range []struct {
		name string
		task api.TaskStart
		want outcome
	}{
		{"where it is", inHome(0, "sh", "-c", `pwd; cd; pwd; echo "$PWD $TMPDIR"`), outcome{State: api.JobFinished, Stdout: "/home/alice\xff\n/home/alice\xff\n/home/alice\xff /data\n"}},
		{"arguments", inHome(0, "sh", "-c", `printf %s "$1"`, "sh", api.EncodeText("\xfe\n\x01")), outcome{State: api.JobFinished, Stdout: "\xfe\n\x01"}},
		{"umask and limits", inHome(0, "sh", "-c", "umask; ulimit -Sn; ulimit -Hn; : >f; ls -ln f | cut -c1-10"), outcome{State: api.JobFinished, Stdout: "0077\n333\n444\n-rw-------\n"}},
		{"its name", inHome(0, "sh", "-c", "id -un; ls /etc"), outcome{State: api.JobFinished, Stdout: "alice\npasswd\nwhich\n"}},
		{"what is only read", inHome(0, "sh", "-c", "cat /data/numbers; echo x >/data/x || echo no"), outcome{State: api.JobFinished, Stdout: "42\nno\n", Stderr: "sh: can't create /data/x: Read-only file system\n"}},
		{"devices and set-uid", inHome(0, "sh", "-c", "grep ' /home ' /proc/self/mounts | grep -c nosuid,nodev"), outcome{State: api.JobFinished, Stdout: "1\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.task.Job = uint64(i + 1)
			if diff := cmp.Diff(c.want, n.outcome(n.begin(c.task))); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("output into a file", func(t *testing.T) {
		s := inHome(50, "sh", "-c", "echo out; echo err >&2")
		s.Output = api.EncodeText("/home/alice\xff/log")
		if diff := cmp.Diff(outcome{State: api.JobFinished}, n.outcome(n.begin(s))); diff != "" {
			t.Error(diff)
		}
		got, err := os.ReadFile(filepath.Join(home, "log"))
		if err != nil || string(got) != "out\nerr\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("output into a file that the user may not make", func(t *testing.T) {
		s := inHome(51, "true")
		s.Output = "/home/log"
		got := n.outcome(n.begin(s))
		if got.Code != 126 || got.Error != "opening /home/log for output: permission denied; this user may not write there; name another file" {
			t.Errorf("%+v", got)
		}
	})
	for i, dir := range []string{"/srv", "/homes", "home", "/home/../etc", "/"} {
		s := command(uint64(60+i), "true")
		s.Dir = dir
		ack := n.ask(n.key, api.VerbStart, s)
		if ack.Err == nil || !strings.Contains(ack.Err.Msg, "is in no share of this node") {
			t.Errorf("working directory %q: %v", dir, ack.Err)
		}
	}
}

// What a task leaves running is waited for while it has the output open, and then ends with it.
func TestTaskLeavesProcesses(t *testing.T) {
	n := newNode(t, nil)
	for i, c := range []struct{ name, script, want string }{
		{"one that still writes", "(sleep 0.3; echo late) & echo early", "early\nlate\n"},
		{"one that has let go", "sleep 1000 >/dev/null 2>&1 & echo early", "early\n"},
		{"one that holds it", "sleep 1000 & echo early", "early\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(outcome{State: api.JobFinished, Stdout: c.want}, n.outcome(n.begin(shell(uint64(i+1), c.script)))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A share below another is mounted in its place or not at all: who may write to the upper one does not make
// the lower one land elsewhere in the tasks of all, such as over their programs. Only tasks that work in the lower one fail then.
func TestShareStaysInItsPlace(t *testing.T) {
	view, _ := shareView(t)
	home := filepath.Join(view.Shares[0].From, "bob")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	lower := runDir(t)
	if err := os.WriteFile(filepath.Join(lower, "sh"), []byte("evil"), 0o755); err != nil {
		t.Fatal(err)
	}
	view.Shares = append(view.Shares, task.Share{From: lower, To: "/home/bob/a/bin"})
	n := newNode(t, func(c *Config) { c.view = func() (task.View, error) { return view, nil } })
	for i, c := range []struct {
		name, make string
		why        string // it is not there
	}{
		{"a folder", "mkdir -p a/bin", ""},
		{"a link", "mkdir a; ln -s /bin a/bin", "too many levels of symbolic links"},
		{"a link on the way", "ln -s / a", "too many levels of symbolic links"},
		{"a file", "mkdir a; touch a/bin", "invalid argument"},
		{"nothing", "true", "no such file or directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out, err := exec.Command("sh", "-c", `cd "$1" && rm -rf a && eval "$2"`, "sh", home, c.make).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			without, within := shell(uint64(2*i+1), "grep -c evil /home/bob/a/bin/sh /bin/sh"), shell(uint64(2*i+2), "cat sh")
			within.Dir = "/home/bob/a/bin"
			for _, task := range []api.TaskStart{without, within} {
				ref := n.begin(task)
				got := n.outcome(ref)
				n.forget(ref)
				switch {
				case c.why == "" && task.Dir == "" && got.Stdout == "/home/bob/a/bin/sh:1\n/bin/sh:0\n":
				case c.why == "" && task.Dir != "" && got.Stdout == "evil":
				case c.why != "" && task.Dir == "" && got.Error == "" && strings.HasSuffix(got.Stdout, "/bin/sh:0\n"):
				case c.why != "" && task.Dir != "" && got.Code == 126 && strings.HasPrefix(got.Error, "mounting /home/bob/a/bin: "+c.why+"; it lies in another share"):
				default:
					t.Errorf("in %q: %+v", task.Dir, got)
				}
			}
		})
	}
}
