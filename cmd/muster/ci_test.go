package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"muster/builder/deb/debtest"
	"muster/images"
	"muster/internal/need"
)

// siteDefinition is the image of docs/ci.md in the test.
const siteDefinition = `name: site
from: compute
mirror: MIRROR
keyring: archive.gpg
firmware: [realtek]
kernel:
  cmdline: ... quiet
`

// siteArchive has what siteDefinition asks for.
func siteArchive(t *testing.T) *debtest.Archive {
	t.Helper()
	base, err := images.Load("compute")
	if err != nil {
		t.Fatal(err)
	}
	return debtest.Small(t, "6.12.9+deb13-amd64", "6.12.10+deb13-amd64", debtest.Programs(base.Packages...)...)
}

// ciStep is a shell script of a CI file.
type ciStep struct{ name, script string }

// githubSteps returns the steps that run something, job after job.
func githubSteps(t *testing.T, text string) []ciStep {
	t.Helper()
	var file struct {
		Jobs yaml.MapSlice `yaml:"jobs"`
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	var out []ciStep
	for _, job := range file.Jobs {
		raw, err := yaml.Marshal(job.Value)
		if err != nil {
			t.Fatal(err)
		}
		var j struct {
			Container any `yaml:"container"`
			Steps     []struct {
				Name string `yaml:"name"`
				Uses string `yaml:"uses"`
				Run  string `yaml:"run"`
			} `yaml:"steps"`
		}
		if err := yaml.Unmarshal(raw, &j); err != nil {
			t.Fatal(err)
		}
		if j.Container != nil {
			t.Errorf("job %v wants a container", job.Key)
		}
		for _, s := range j.Steps {
			switch {
			case s.Run != "":
				out = append(out, ciStep{s.Name, s.Run})
			case !strings.HasPrefix(s.Uses, "actions/checkout@") && !strings.HasPrefix(s.Uses, "actions/cache@") && !strings.HasPrefix(s.Uses, "actions/upload-artifact@"):
				t.Errorf("job %v uses %q", job.Key, s.Uses)
			}
		}
	}
	return out
}

// gitlabSteps returns the scripts of all jobs, each behind the script before it.
func gitlabSteps(t *testing.T, text string) []ciStep {
	t.Helper()
	var file map[string]struct {
		Before []string `yaml:"before_script"`
		Script []string `yaml:"script"`
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	var out []ciStep
	for _, job := range []string{"build", "newer-packages"} {
		script := append(append([]string{}, file["default"].Before...), file[job].Script...)
		if len(file[job].Script) == 0 {
			t.Errorf("there is no job %s", job)
		}
		out = append(out, ciStep{job, strings.Join(script, "\n")})
	}
	return out
}

// TestCIFiles runs the CI files of docs/ci.md step by step, against an archive of the
// test, in which a newer kernel appears between the build and the look for newer packages.
func TestCIFiles(t *testing.T) {
	if _, err := payload("bb"); err != nil {
		need.Missing(t, "the programs of an image are not there: %v", err)
	}
	for _, program := range []string{"git", "curl"} {
		need.Program(t, program, program)
	}
	page, err := os.ReadFile("../../docs/ci.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```yaml\n")
	if len(blocks) != 3 {
		t.Fatalf("docs/ci.md has %d files, want 2", len(blocks)-1)
	}
	for i, name := range []string{"github", "gitlab"} {
		text, _, _ := strings.Cut(blocks[i+1], "```")
		t.Run(name, func(t *testing.T) {
			read := map[string]func(*testing.T, string) []ciStep{"github": githubSteps, "gitlab": gitlabSteps}[name]
			ci := newCIRunner(t)
			look := ""
			for _, s := range read(t, text) {
				if look == "" && strings.Contains(s.script, "muster lock") {
					look = s.script
					ci.publishNewer(t)
				}
				if out, err := ci.run(t, s.script); err != nil {
					t.Fatalf("step %s: %v\n%s", s.name, err, out)
				}
			}
			ci.check(t, name)
			if out, err := ci.run(t, "sed -i 's,^mirror: .*,mirror: http://127.0.0.1:1/none,' site.yaml"); err != nil {
				t.Fatalf("changing the mirror: %v\n%s", err, out)
			}
			if out, err := ci.run(t, look); err == nil {
				t.Errorf("the look for newer packages does not fail where no mirror answers:\n%s", out)
			}
		})
	}
}

// ciRunner is a clone of a site's repository with what a CI service puts around it.
type ciRunner struct {
	dir     string // the clone
	origin  string
	env     []string
	archive *debtest.Archive
}

func newCIRunner(t *testing.T) *ciRunner {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	top := t.TempDir()
	c := &ciRunner{dir: filepath.Join(top, "clone"), origin: filepath.Join(top, "origin.git")}
	c.archive = siteArchive(t)
	// The indexes of the test's archive are of the past; they do not run out.
	c.archive.Publish(t, debtest.Suite{Name: "trixie-updates"})
	program := filepath.Join(top, "muster")
	c.env = append(os.Environ(), "MUSTER_URL=file://"+program, "HOME="+top, "XDG_CACHE_HOME="+top+"/none", "GIT_CONFIG_NOSYSTEM=1")
	for name, text := range map[string]string{
		program:                "#!/bin/sh\nMUSTER_TEST_AS_PROGRAM=1 exec " + self + " \"$@\"\n",
		c.dir + "/site.yaml":   strings.Replace(siteDefinition, "MIRROR", c.archive.Serve(t), 1),
		c.dir + "/archive.gpg": string(c.archive.Key.Keyring(t)),
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := c.run(t, program+` lock ./site.yaml --lock site.lock.json --cache ../first --write
git init --quiet --bare ../origin.git
git init --quiet
git add site.yaml site.lock.json archive.gpg
git -c user.name=x -c user.email=x@example.org commit --quiet -m site
git remote add origin ../origin.git`); err != nil {
		t.Fatalf("making the repository: %v\n%s", err, out)
	}
	return c
}

// run runs a script as CI services do at least: it ends with the first command that fails. Where a
// command of a pipe fails GitHub's shell goes on, unless a file asks for another one.
func (c *ciRunner) run(t *testing.T, script string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-e", "-c", script)
	cmd.Dir, cmd.Env = c.dir, c.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *ciRunner) publishNewer(t *testing.T) {
	t.Helper()
	const newest = "6.12.11+deb13-amd64"
	c.archive.Publish(t, debtest.Suite{Name: "trixie-security", Packages: debtest.Kernel(t, "linux-image-amd64", newest, "6.12.11-1")})
}

// check looks for what the steps have left.
func (c *ciRunner) check(t *testing.T, name string) {
	t.Helper()
	for _, file := range []string{"vmlinuz", "initramfs.zst", "manifest.json", "sbom.spdx.json", "SOURCES"} {
		if _, err := os.Stat(filepath.Join(c.dir, "image", file)); err != nil {
			t.Errorf("the build left no %s: %v", file, err)
		}
	}
	look := "cat changes.json"
	if name == "github" {
		look = "git --git-dir=../origin.git show newer-packages"
	}
	out, err := c.run(t, look)
	if err != nil || !strings.Contains(out, "6.12.11-1") || !strings.Contains(out, "6.12.10-1") {
		t.Errorf("what is newer was not shown: %v\n%s", err, out)
	}
	// A definition that the lock does not fit ends the build with exit status 2.
	out, err = c.run(t, `sed -i s/realtek// site.yaml
status=0; bin/muster build ./site.yaml --lock site.lock.json --locked --cache .muster-cache --output image || status=$?
test $status = 2`)
	if err != nil || !strings.Contains(out, "firmware: realtek less") {
		t.Errorf("a lock that does not fit: %v\n%s", err, out)
	}
}
