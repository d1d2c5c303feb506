package task

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestEnvironment(t *testing.T) {
	const work = "/run/muster/tasks/17-2-1/work"
	dirs := func(list ...string) func(string) bool { return func(s string) bool { return slices.Contains(list, s) } }
	ours := []string{"PWD=" + work, "MUSTER_JOB=17", "MUSTER_TASK=2", "MUSTER_TASKS=4", "MUSTER_NODE=n1"}
	for name, c := range map[string]struct {
		given []string
		isDir func(string) bool
		want  []string
	}{
		"nothing given": {
			nil, dirs(),
			append([]string{"PATH=" + basePath, "HOME=" + work, "TMPDIR=/tmp"}, ours...),
		},
		"folders that are here": {
			[]string{"HOME=/home/alice", "LANG=C", "TMPDIR=/scratch", "PATH=/opt/bin:/bin"},
			dirs("/home/alice", "/scratch"),
			append([]string{"HOME=/home/alice", "LANG=C", "TMPDIR=/scratch", "PATH=/opt/bin:/bin:/bbin:/usr/bin:/sbin:/usr/sbin"}, ours...),
		},
		"folders that are not": {
			[]string{"HOME=/home/alice", "TMPDIR=/scratch", "PWD=/elsewhere", "MUSTER_JOB=1"},
			dirs(),
			append([]string{"PATH=" + basePath, "HOME=" + work, "TMPDIR=/tmp"}, ours...),
		},
		"what is no variable": {
			[]string{"=x", "novalue", "A==", "A=b=c"},
			dirs(),
			append([]string{"A==", "A=b=c", "PATH=" + basePath, "HOME=" + work, "TMPDIR=/tmp"}, ours...),
		},
	} {
		t.Run(name, func(t *testing.T) {
			start := api.TaskStart{TaskRef: api.TaskRef{Job: 17, Index: 2, Epoch: 1}, Env: c.given, Tasks: 4, Node: "n1"}
			if diff := cmp.Diff(c.want, environment(start, work, c.isDir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPrivateFolders(t *testing.T) {
	all := func(string) bool { return true }
	for agent, want := range map[string][]string{
		"/run/muster":   {"/run", "/tmp", "/var/tmp"},
		"/tmp/x":        {"/run", "/tmp", "/var/tmp"},
		"/tmpfs/muster": {"/run", "/tmp", "/var/tmp", "/tmpfs/muster"},
	} {
		if diff := cmp.Diff(want, privateFolders(agent, all)); diff != "" {
			t.Errorf("agent in %s: %s", agent, diff)
		}
	}
	if got := privateFolders("/agent", func(s string) bool { return s == "/tmp" }); len(got) != 1 {
		t.Errorf("folders that are not here: %v", got)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	sum := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		files []api.SentFile
		want  string
	}{
		"fine":           {[]api.SentFile{{Path: "a/b", SHA256: sum, Mode: 0o755}, {Path: "a/c", SHA256: sum}}, ""},
		"absolute":       {[]api.SentFile{{Path: "/etc/passwd", SHA256: sum}}, "not a clean path"},
		"above":          {[]api.SentFile{{Path: "../x", SHA256: sum}}, "not a clean path"},
		"above and back": {[]api.SentFile{{Path: "a/../../x", SHA256: sum}}, "not a clean path"},
		"unclean":        {[]api.SentFile{{Path: "a//b", SHA256: sum}}, "not a clean path"},
		"the folder":     {[]api.SentFile{{Path: ".", SHA256: sum}}, "not a clean path"},
		"empty":          {[]api.SentFile{{SHA256: sum}}, "not a clean path"},
		"twice":          {[]api.SentFile{{Path: "a", SHA256: sum}, {Path: "a", SHA256: sum}}, "sent twice"},
		"no hash":        {[]api.SentFile{{Path: "a", SHA256: "x"}}, "SHA-256"},
		"negative size":  {[]api.SentFile{{Path: "a", SHA256: sum, Size: -1}}, "negative"},
		"set-uid":        {[]api.SentFile{{Path: "a", SHA256: sum, Mode: 0o4755}}, "more than permissions"},
		"too many":       {make([]api.SentFile, maxFiles+1), "send an archive"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkFiles(c.files)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}
