package deb

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// aptSets are asked of apt and of [Resolve]. Among them are choices between
// alternatives, virtual packages, versioned ones, and dependency loops.
var aptSets = []string{
	"",
	"bash coreutils findutils grep sed gawk tar gzip xz-utils zstd procps iproute2 python3-minimal perl-base criu libc-bin ca-certificates openssl",
	"python3",
	"perl",
	"mawk",
	"openmpi-bin",
	"build-essential",
	"r-base-core",
	"python3-numpy python3-scipy",
	"default-jre-headless",
	"nfs-common slurmd",
	"postfix",
	"bsd-mailx",
	"octave",
	"git curl rsync openssh-client",
	"gfortran libopenblas-dev",
	"texlive-base",
	"systemd-sysv dbus",
}

// TestResolveLikeApt compares with apt's own answer on the same indexes of
// Debian's archive.
func TestResolveLikeApt(t *testing.T) {
	if os.Getenv("MUSTER_NET") == "" {
		t.Skip("only in make test-net: needs Debian's archive")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("needs apt-get to compare with")
	}
	apt := newApt(t)
	index := NewIndex()
	lists, err := filepath.Glob(filepath.Join(apt.dir, "state/lists/*_Packages"))
	if err != nil || len(lists) == 0 {
		t.Fatalf("apt fetched no index: %v", err)
	}
	for _, name := range lists {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := index.Add(filepath.Base(name), text); err != nil {
			t.Fatal(err)
		}
	}
	if err := index.prepare(); err != nil {
		t.Fatal(err)
	}
	for _, set := range append(aptSets, olderOf(t, index)) {
		t.Run(set, func(t *testing.T) {
			want := apt.install(t, slices.Concat(index.essential, strings.Fields(set)))
			answer, err := Resolve(index, Request{Packages: strings.Fields(set), Essential: true})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range answer {
				got = append(got, p.Name+" "+p.Version)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("packages differ from apt's (-apt +muster):\n%s", diff)
			}
			t.Logf("%d packages", len(got))
		})
	}
}

// olderOf pins the first of some packages that the archive has in several versions to the oldest.
func olderOf(t *testing.T, x *Index) string {
	t.Helper()
	for _, name := range []string{"openssl", "curl", "rsync", "tzdata", "bind9-host", "gpgv", "less", "vim-tiny", "wget", "gzip"} {
		if versions := x.versions(name); len(versions) > 1 {
			return name + "=" + versions[len(versions)-1]
		}
	}
	t.Fatal("the archive has one version of everything; add a package to the list")
	return ""
}

// apt is an apt with a configuration and an empty system of its own.
type apt struct{ dir, conf string }

func newApt(t *testing.T) apt {
	t.Helper()
	a := apt{dir: t.TempDir()}
	key, err := filepath.Abs("../../images/keys/debian-archive-keyring.gpg")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"etc/preferences.d", "etc/apt.conf.d", "etc/trusted.gpg.d", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := Mirrors{Host: HostSources(os.DirFS("/"))}
	var sources strings.Builder
	for _, suite := range []string{"trixie", "trixie-updates", "trixie-security"} {
		fmt.Fprintf(&sources, "deb [signed-by=%s] %s %s main\n", key, m.Bases(suite)[0], suite)
	}
	a.conf = filepath.Join(a.dir, "apt.conf")
	for name, text := range map[string]string{
		a.conf: fmt.Sprintf(`Dir::State %q; Dir::Cache %q; Dir::Etc %q; Dir::State::status %q;
APT::Architecture "amd64"; APT::Architectures {"amd64";}; APT::Sandbox::User ""; Acquire::Languages "none";
Debug::NoLocking "true"; APT::Install-Recommends "false"; Acquire::GzipIndexes "false";
`, a.dir+"/state", a.dir+"/cache", a.dir+"/etc", a.dir+"/status"),
		filepath.Join(a.dir, "status"):           "",
		filepath.Join(a.dir, "etc/sources.list"): sources.String(),
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	a.run(t, "update", "-qq")
	return a
}

func (a apt) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "apt-get", args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.conf, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("apt-get %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var instRE = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) `)

// install returns what apt would install into the empty system.
func (a apt) install(t *testing.T, packages []string) []string {
	t.Helper()
	args := append([]string{"-s", "install", "--no-install-recommends"}, packages...)
	var got []string
	for _, m := range instRE.FindAllStringSubmatch(a.run(t, args...), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	slices.Sort(got)
	return slices.Compact(got)
}
