package images

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Where a userland is may be said by the key of its own, or as the one word behind userland:, which leaves the
// sources as they are.
func TestUserlandIn(t *testing.T) {
	const sources = "userland: [{packages: [bash]}]\n"
	for text, want := range map[string]UserlandIn{
		"packages: [bash]\n":                          "",
		"packages: [bash]\nuserland: share\n":         UserlandShare,
		"packages: [bash]\nuserland: 'memory'\n":      UserlandMemory,
		"userland: auto\n":                            UserlandAuto,
		sources + "userland-in: share\n":              UserlandShare,
		"userland-in: auto\npackages: []\n" + sources: UserlandAuto,
	} {
		d, err := Parse("d.yaml", []byte("name: x\nfrom: compute\n"+text))
		if err != nil || d.UserlandIn != want || (d.Userland != nil) != strings.Contains(text, "[{") {
			t.Errorf("%s: %q, sources %v, %v; want %q", text, d.UserlandIn, d.Userland, err, want)
		}
	}
	for text, want := range map[string]string{
		"userland: shared\n":                       `d.yaml:3:11: userland: "shared" (did you mean "share"?) is neither one of memory, share, auto nor a list of sources, such as - dir: ./tree`,
		"userland: share\nuserland-in: memory\n":   "d.yaml:3:11: userland: share and userland-in: say the same; leave one of them out",
		"userland-in: [share]\n":                   "d.yaml:3:",
		"packages: [a]\nuserland: {dir: ./tree}\n": "d.yaml:4:",
	} {
		if _, err := Parse("d.yaml", []byte("name: x\nfrom: compute\n"+text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestUserlandInInherits(t *testing.T) {
	base := &Definition{UserlandIn: UserlandShare, Userland: []Source{{Dir: "a"}}, Packages: []string{"bash"}}
	for in, want := range map[UserlandIn]UserlandIn{"": UserlandShare, UserlandMemory: UserlandMemory} {
		m := merge(base, &Definition{UserlandIn: in})
		if m.UserlandIn != want || len(m.Userland) != 1 {
			t.Errorf("%q over share: %q, sources %v", in, m.UserlandIn, m.Userland)
		}
	}
	// It is part of the image, and of nothing that is asked of the archive.
	child := merge(base, &Definition{UserlandIn: UserlandMemory})
	if base.Hash() == child.Hash() || base.RequestHash() != child.RequestHash() {
		t.Error("it has to change the image, and not the lock")
	}
}

func TestCheckUserlandIn(t *testing.T) {
	for name, c := range map[string]struct {
		d    Definition
		want string
	}{
		"nothing":       {Definition{}, ""},
		"auto":          {Definition{UserlandIn: UserlandAuto}, ""},
		"share":         {Definition{UserlandIn: UserlandShare, Packages: []string{"bash"}}, ""},
		"another word":  {Definition{UserlandIn: "disk"}, `userland-in: "disk"; can be: memory, share, auto`},
		"no userland":   {Definition{UserlandIn: UserlandShare}, "userland-in: share: there is no userland; give packages, or leave it out"},
		"no modules":    {Definition{UserlandIn: UserlandShare, Packages: []string{"bash"}, Modules: Modules{Rest: RestNone}}, "userland-in: share: a node needs the modules nfsv4 and dm_verity for it, which modules: rest: none leaves out; name them in modules: names"},
		"named modules": {Definition{UserlandIn: UserlandShare, Packages: []string{"bash"}, Modules: Modules{Rest: RestNone, Names: []string{"nfsv4", "dm-verity"}}}, ""},
	} {
		got := ""
		if err := checkUserlandIn(&c.d); err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestManifestVerity(t *testing.T) {
	root := strings.Repeat("ab", 32)
	a := Artifact{Kind: KindUserland, Name: "u", Size: 4 * 4096, SHA256: root, ChunksSHA256: []string{root}, In: UserlandShare, Verity: &Verity{Root: root, Blocks: 2}}
	if err := a.check(); err != nil {
		t.Error(err)
	}
	u := a.Userland()
	if u.In != UserlandShare || u.VerityRoot != root || u.VerityBlocks != 2 {
		t.Errorf("it is described as %+v", u)
	}
	for name, v := range map[string]Verity{"no root": {Blocks: 2}, "no blocks": {Root: root}, "more than there is": {Root: root, Blocks: 4}} {
		a.Verity = &v
		if err := a.check(); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	a.Verity = nil // an image of before, which only says how it is held
	if u := a.Userland(); a.check() != nil || u.In != "" {
		t.Errorf("without a tree: %v, %+v", a.check(), u)
	}
}
