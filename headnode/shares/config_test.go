package shares

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

var goldenExports = []Export{
	{ID: 1, Dir: "/srv/data", Clients: clients("10.1.0.9", "10.1.0.2", "fd00::9", "10.1.0.2")},
	{ID: 7, Dir: `/srv/a b/#c $HOME 'q' ü`, ReadOnly: true, NoRootSquash: true, Clients: clients("10.1.0.3")},
	{ID: 300, Dir: "/srv/nobody"},
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

var goldenBasics = ganeshaBasics{recovery: "/var/lib/muster/nfs/recovery", port: 2049, version: 4}

func TestGaneshaConfig(t *testing.T) {
	text := ganeshaConfig(goldenBasics, goldenExports)
	golden(t, "ganesha.conf", text)
	if err := checkGanesha(text, goldenBasics, goldenExports); err != nil {
		t.Error(err)
	}
}

func TestExportsFile(t *testing.T) {
	golden(t, "muster.exports", exportsFile(goldenExports))
}

// What is written is checked before a server reads it: each of these would serve something else, or nothing.
func TestCheckGanesha(t *testing.T) {
	basics := ganeshaBasics{recovery: "/r", plugins: "/usr/lib/p", port: 2049, version: 6}
	good := ganeshaConfig(basics, goldenExports[:2])
	for name, change := range map[string]func(string) string{
		"cut":             func(s string) string { return s[:len(s)-3] },
		"cut in a string": func(s string) string { return s[:strings.Index(s, "/srv/data")+4] },
		"two more":        func(s string) string { return s + "}" },
		"another block":   func(s string) string { return s + `EXPORT { Export_Id = 9; Path = "/"; }` },
		"no semicolon":    func(s string) string { return strings.Replace(s, "Protocols = 4;", "Protocols = 4", 1) },
		"access":          func(s string) string { return strings.Replace(s, "Access_Type = None", "Access_Type = RW", 1) },
		"any port":        func(s string) string { return strings.Replace(s, "PrivilegedPort = true", "PrivilegedPort = false", 1) },
		"other plugins":   func(s string) string { return strings.Replace(s, `"/usr/lib/p"`, `"/tmp"`, 1) },
		"one client more": func(s string) string { return strings.Replace(s, "10.1.0.9", "10.1.0.9, 0.0.0.0", 1) },
		"a value twice":   func(s string) string { return strings.Replace(s, "Protocols = 4;", "Protocols = 4; Protocols = 4;", 1) },
		"a folder": func(s string) string {
			return strings.Replace(s, `"/srv/data"`, `"/srv"; FSAL { Name = VFS; } } EXPORT { Path = "/data"`, 1)
		},
		"deep":          func(s string) string { return s + strings.Repeat("A {", 1000) },
		"not UTF-8":     func(s string) string { return s + "\xff" },
		"an empty word": func(s string) string { return strings.Replace(s, "Protocols = 4;", "Protocols = ;", 1) },
	} {
		if text := change(good); text == good {
			t.Errorf("%s: nothing was changed", name)
		} else if err := checkGanesha(text, basics, goldenExports[:2]); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	if err := checkGanesha(good, basics, goldenExports[:2]); err != nil {
		t.Errorf("as it was written: %v", err)
	}
}

func TestCheckDir(t *testing.T) {
	for dir, want := range map[string]string{
		"/srv/a b": "", "/srv/ü#%{};=,'`$(x)": "", "/": "",
		"srv": "plain path", "/srv/": "plain path", "/srv/../x": "plain path", "/a\nb": "line break", "/a\x7f": "line break", "/a\tb": "line break",
		`/a"b`: "quotation mark", `/a\b`: "backslash", "/a\xff": "UTF-8", "/" + strings.Repeat("x", maxDir): "at most 1024",
	} {
		err := checkDir(dir)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", dir, err, want)
		}
	}
}

func TestWantedCheck(t *testing.T) {
	for name, c := range map[string]struct {
		w    Wanted
		want string
	}{
		"nothing":     {Wanted{}, ""},
		"all":         {Wanted{api.ShareGanesha, goldenExports}, ""},
		"no engine":   {Wanted{"", goldenExports}, "no engine"},
		"external":    {Wanted{api.ShareExternal, goldenExports}, "no engine"},
		"same number": {Wanted{api.ShareKernel, []Export{{ID: 1, Dir: "/a"}, {ID: 1, Dir: "/b"}}}, "twice"},
		"same folder": {Wanted{api.ShareKernel, []Export{{ID: 1, Dir: "/a"}, {ID: 2, Dir: "/a"}}}, "twice"},
		"no number":   {Wanted{api.ShareKernel, []Export{{Dir: "/a"}}}, "export 0"},
		"everybody":   {Wanted{api.ShareKernel, []Export{{ID: 1, Dir: "/a", Clients: clients("0.0.0.0")}}}, "has the address 0.0.0.0"},
		"no address":  {Wanted{api.ShareKernel, []Export{{ID: 1, Dir: "/a", Clients: make([]Client, 1)}}}, "invalid IP"},
		"a zone":      {Wanted{api.ShareKernel, []Export{{ID: 1, Dir: "/a", Clients: clients("fe80::1%(rw)")}}}, "has the address"},
		"many":        {Wanted{api.ShareKernel, make([]Export, maxExports+1)}, "at most"},
		"many nodes":  {Wanted{api.ShareKernel, []Export{{ID: 1, Dir: "/a", Clients: make([]Client, maxClients+1)}}}, "at most"},
	} {
		err := c.w.check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// The numbers by which clients know a file system are of the share alone, and for ever.
func TestFsid(t *testing.T) {
	e := Export{ID: 1, Dir: "/srv/data"}
	if got := e.fsid(); got != "6d757374-6572-8c64-a170-1f773c8aea91" {
		t.Errorf("fsid is %s: clients would find all their files stale", got)
	}
	same := e
	same.ReadOnly, same.Clients = true, clients("10.1.0.1")
	if e.fsid() != same.fsid() || e.fsid() == (Export{ID: 2, Dir: "/srv/data"}).fsid() || e.fsid() == (Export{ID: 1, Dir: "/srv/dat"}).fsid() {
		t.Error("fsid is not of number and folder")
	}
}

// FuzzConfig: whatever a folder is called, it is refused, or both engines are told of this folder and no other.
func FuzzConfig(f *testing.F) {
	for _, dir := range []string{"/srv/data", `/a"b`, "/a\\040b", "/a b", "/a;b{", "/a(rw)", "/a #b", "/ü", "/a\nb", "/*"} {
		f.Add(dir)
	}
	f.Fuzz(func(t *testing.T, dir string) {
		if checkDir(dir) != nil {
			return
		}
		list := []Export{{ID: 1, Dir: dir, Clients: clients("10.1.0.1")}}
		if err := checkGanesha(ganeshaConfig(goldenBasics, list), goldenBasics, list); err != nil {
			t.Errorf("ganesha: %v", err)
		}
		lines := strings.Split(exportsFile(list), "\n")
		word, rest, _ := strings.Cut(lines[1], " ")
		if len(lines) != 4 || unescape(word) != dir || rest != `\` || strings.ContainsAny(word, " \t\"#()*:") {
			t.Errorf("exports: %q of %q", lines, dir)
		}
		if got := parseEtab(escape(dir) + "\t10.1.0.1(rw)\n"); len(got) != 1 || got[0].entry != (entry{dir, "10.1.0.1"}) {
			t.Errorf("table of exports: %+v", got)
		}
	})
}

// FuzzParse: what is no configuration is refused, never a fault.
func FuzzParse(f *testing.F) {
	f.Add(ganeshaConfig(goldenBasics, goldenExports))
	f.Add(`A { B = "c`)
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = parseGanesha(text)
		_ = parseEtab(text)
		_ = parseMounts(text)
		_ = listeners(text, 2049)
	})
}
