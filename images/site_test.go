package images

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSiteCheck(t *testing.T) {
	pin := strings.Repeat("0a", 32)
	for name, c := range map[string]struct {
		site Site
		want string // in the error; "": none
	}{
		"nothing":       {Site{}, ""},
		"all":           {Site{"head.example.org:7421", pin, "rack B", "tty0,/dev/ttyS0"}, ""},
		"IPv4":          {Site{Head: "10.0.0.1"}, ""},
		"IPv6":          {Site{Head: "fd00::1"}, ""},
		"IPv6 and port": {Site{Head: "[fd00::1]:7421"}, ""},
		"URL":           {Site{Head: "https://head"}, "is no address"},
		"port":          {Site{Head: "head:http"}, "is no address"},
		"large port":    {Site{Head: "head:70000"}, "is no address"},
		"only port":     {Site{Head: ":7421"}, "is no address"},
		"space":         {Site{Head: "a head"}, "is no address"},
		"short pin":     {Site{Head: "h", Pin: pin[1:]}, "is not 64 hexadecimal digits"},
		"pin alone":     {Site{Pin: pin}, "no head that it could be of"},
		"newline":       {Site{Label: "a\nb"}, "printable ASCII"},
		"long":          {Site{Label: strings.Repeat("a", 201)}, "at most 200"},
		"console":       {Site{Console: "tty0,../x"}, "no list of devices"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.site.Check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrSite)) {
				t.Errorf("Check() = %v, want %q", err, c.want)
			}
			if err != nil {
				return
			}
			if got, err := ParseSite(c.site.JSON()); err != nil || got != c.site {
				t.Errorf("ParseSite(JSON()) = %+v, %v", got, err)
			}
		})
	}
}

// TestMediaAndSite inherits both, and finds them without influence on the image.
func TestMediaAndSite(t *testing.T) {
	dir := writeAll(t, map[string]string{
		"a.yaml": "name: a\nfrom: compute\nmedia: [iso]\nsite: {head: h, label: a}\n",
		"b.yaml": "name: a\nfrom: ./a.yaml\nmedia: [..., netboot]\nsite: {label: b}\n",
		"c.yaml": "name: a\nfrom: compute\n",
		"d.yaml": "name: a\nfrom: compute\nmedia: [isso]\n",
		"e.yaml": "name: a\nfrom: compute\nmedia: []\n",
	})
	load := func(name string) (*Definition, error) { return Load(filepath.Join(dir, name)) }
	b, err := load("b.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"iso", "netboot"}, b.Media); diff != "" || b.Site != (Site{Head: "h", Label: "b"}) {
		t.Errorf("media differ: %s; site is %+v", diff, b.Site)
	}
	c, err := load("c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if b.Hash() != c.Hash() || b.RequestHash() != c.RequestHash() {
		t.Error("media and site have an influence on the hash of the definition")
	}
	for name, want := range map[string]string{
		"d.yaml": `there is no medium "isso" (did you mean "iso"?); there are: netboot, iso`,
		"e.yaml": "media: the list is empty",
	} {
		if _, err := load(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%s) = %v, want %q", name, err, want)
		}
	}
}

func TestManifestSite(t *testing.T) {
	a := Artifact{Kind: KindISO, Name: "x.iso", Size: 100, SHA256: strings.Repeat("0", 64)}
	for _, r := range []Range{{-1, 10}, {0, 0}, {91, 10}, {0, 101}, {1 << 62, 1 << 62}} {
		a.Site = &r
		if err := a.check(); err == nil || !strings.Contains(err.Error(), "its site segment is not in it") {
			t.Errorf("check() with %+v = %v", r, err)
		}
	}
	m := &Manifest{Artifacts: []Artifact{{Kind: KindKernel}, a}}
	if n := m.Netboot(); len(n.Artifacts) != 1 || len(m.Artifacts) != 2 {
		t.Errorf("Netboot() has %d artifacts of %d, want 1 of 2", len(n.Artifacts), len(m.Artifacts))
	}
}
