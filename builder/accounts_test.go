package builder

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/builder/deb/debtest"
)

const accountList = packageList + `
groups:
- {name: hpc, gid: 2000}
users:
- {name: ada, uid: 100, gid: 2000, groups: [extra, tool, hpc], comment: Ada Lovelace, shell: /bin/bash}
- {name: svc, uid: 101, home: /var/lib/svc/data}
- {name: nohome, uid: 102, home: /proc/x}
`

// Users and groups are in both roots; those of packages get numbers that are left.
func TestAccounts(t *testing.T) {
	cfg := testConfig(t, userlandArchive(t), testDefinition+accountList)
	mustBuild(t, cfg)
	got := inUserland(t, cfg.Out, `cat etc/passwd; echo; cat etc/group; echo; find home var/lib/svc proc -printf '%p %M %U:%G\n' | sort`)
	want := `root:x:0:0:root:/root:/bin/bash
ada:x:100:2000:Ada Lovelace:/home/ada:/bin/bash
svc:x:101:101::/var/lib/svc/data:/bin/sh
nohome:x:102:102::/proc/x:/bin/sh
tool:x:103:103:a tool yes:/var/lib/tool:/usr/sbin/nologin

root:x:0:
hpc:x:2000:ada
svc:x:101:
nohome:x:102:
extra:x:55:ada
tool:x:103:ada

home drwxr-xr-x 0:0
home/ada drwx------ 100:2000
proc dr-xr-xr-x 0:0
var/lib/svc drwxr-xr-x 0:0
var/lib/svc/data drwx------ 101:101
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("userland (-want +got):\n%s", diff)
	}
	files := records(t, cfg.Out)
	wantPasswd := passwd + "ada:x:100:2000:Ada Lovelace:/home/ada:/bin/bash\nsvc:x:101:101::/var/lib/svc/data:/bin/sh\nnohome:x:102:102::/proc/x:/bin/sh\n"
	if diff := cmp.Diff(wantPasswd, string(files["etc/passwd"].Data)); diff != "" {
		t.Errorf("passwd of the initramfs (-want +got):\n%s", diff)
	}
	wantGroup := group + "hpc:x:2000:ada\nsvc:x:101:\nnohome:x:102:\n"
	if diff := cmp.Diff(wantGroup, string(files["etc/group"].Data)); diff != "" {
		t.Errorf("group of the initramfs (-want +got):\n%s", diff)
	}
}

// A conflict names the user of the definition and who has the same.
func TestAccountConflicts(t *testing.T) {
	a := userlandArchive(t)
	fixed := debtest.Package{Name: "fixed", Version: "1", Arch: "all", Files: []debtest.File{
		{Path: "usr/lib/sysusers.d/fixed.conf", Data: "u fixed 77:78 - /\ng plain 79\n"},
	}}
	a.Publish(t, debtest.Suite{Name: "trixie-security", Packages: []debtest.Package{fixed}})
	for name, c := range map[string]struct{ more, want string }{
		"a package's user": {"users: [{name: tool, uid: 5}]\n", "users: tool (DIR:14:9) is also in package tool 2; leave it out, or give it another name"},
		"a package's uid":  {"users: [{name: me, uid: 77}]\n", "users: me (DIR:14:9) has uid 77, which is that of fixed of package fixed 1; give it another number"},
		"a package's gid":  {"groups: [{name: us, gid: 79}]\n", "groups: us (DIR:14:10) has gid 79, which is that of plain of package fixed 1; give it another number"},
		"a user's group":   {"users: [{name: extra, uid: 5}]\n", "users: extra (DIR:14:9) is also in package tool 2"},
		"no such group":    {"users: [{name: me, uid: 5, groups: [tol]}]\n", "users: me (DIR:14:9): groups: the image has no group tol (like it are: tool); add it under groups"},
		"its own passwd":   {"users: [{name: me, uid: 5}]\nfiles: [{path: /etc/passwd, content: x}]\n", "files: /etc/passwd of definition test (DIR:15:9) takes the place of what users and groups of the definition say; leave one out"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(testDefinition+packageList, "files:\n- {path: /etc/motd, content: \"hello\\n\", mode: 0640, owner: 3:4}\n", "", 1)
			text = strings.Replace(text, "[tool]\n", "[tool, fixed]\n"+strings.Repeat("#\n", 14-1-strings.Count(strings.TrimPrefix(text, "\n"), "\n")-1), 1)
			cfg := testConfig(t, a, text+c.more)
			_, err := Build(t.Context(), cfg)
			if err == nil {
				t.Fatal("no error")
			}
			got := err.Error()
			if i := strings.Index(got, "/test.yaml:"); i > 0 {
				start := strings.LastIndex(got[:i], "(") + 1
				got = got[:start] + "DIR" + got[i+len("/test.yaml"):]
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("Build() = %s\nwant it to contain %s", got, c.want)
			}
		})
	}
}
