package builder

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"muster/images"

	"github.com/google/go-cmp/cmp"
)

// TestLeftover builds into a folder that has another image: what only that one had is removed and
// said, and nothing that somebody put there or changed.
func TestLeftover(t *testing.T) {
	cfg := testConfig(t, mediumArchive(t), testDefinition)
	said := ""
	cfg.Progress = func(e Event) {
		if e.Step == StepWrite {
			said = e.Detail
		}
	}
	mustBuild(t, cfg)
	if _, err := Personalize(filepath.Join(cfg.Out, "test.iso"), func(s images.Site) images.Site { s.Label = "ours"; return s }); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"notes.iso": "of somebody", "undionly.kpxe": "changed"} {
		if err := os.WriteFile(filepath.Join(cfg.Out, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all := slices.Sorted(maps.Keys(contents(t, cfg.Out)))
	again := cfg
	d := *cfg.Definition
	d.Media = []string{images.MediumISO}
	d.Name = "other"
	again.Definition = &d
	mustBuild(t, again)
	want := slices.DeleteFunc(append(all, "other.iso"), func(name string) bool { return name == "test.iso" || name == "snponly.efi" })
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(contents(t, cfg.Out)))); diff != "" {
		t.Errorf("files differ (-want +got):\n%s", diff)
	}
	if want := cfg.Out + "; removed what only the earlier image there had: snponly.efi, test.iso"; said != want {
		t.Errorf("the build said %q, want %q", said, want)
	}
	if _, err := Verify(cfg.Out); err != nil {
		t.Error(err)
	}
	if mustBuild(t, again); strings.Contains(said, "removed") {
		t.Errorf("the same build again said %q", said)
	}
}

// TestLeftoverAfterManifest removes no file of an image as long as its manifest says that it is whole.
func TestLeftoverAfterManifest(t *testing.T) {
	cfg := testConfig(t, mediumArchive(t), testDefinition)
	m := mustBuild(t, cfg)
	old, err := os.ReadFile(filepath.Join(cfg.Out, manifestName))
	if err != nil {
		t.Fatal(err)
	}
	next := *m
	next.Artifacts = slices.DeleteFunc(slices.Clone(m.Artifacts), func(a images.Artifact) bool { return a.Kind == images.KindISO })
	cfg, err = complete(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := removeLeftover(cfg, old, &next, func() error { return os.ErrPermission }); err == nil {
		t.Error("a manifest that cannot be removed was passed over")
	}
	if _, err := os.Stat(filepath.Join(cfg.Out, "test.iso")); err != nil {
		t.Errorf("the medium is gone and the manifest is there: %v", err)
	}
	if removed, err := removeLeftover(cfg, []byte("{"), &next, nil); err != nil || removed != nil {
		t.Errorf("with a manifest that is none: %v, %v", removed, err)
	}
}
