package builder

import (
	"context"
	"fmt"
	"strings"

	"muster/builder/deb"
	"muster/images"
)

// statedRecord is what a package says of itself.
type statedRecord struct {
	Name, Version, Arch   string
	Source, SourceVersion string
	BuiltUsing            string
}

func (statedRecord) blobs() []deb.FileHash { return nil }

// checkStated compares what the lock says of each package with the package. The hash alone says
// which bytes are in the image; names and versions go from the lock into manifest, bill of materials
// and list of sources, so that a lock that was edited would have them tell something else.
func checkStated(ctx context.Context, cfg Config, c *cache, client *deb.Client, lock *images.Lock) error {
	for _, p := range lock.Packages {
		says, _, err := runStep(ctx, c, "stated", p.SHA256, func() (statedRecord, error) {
			got, err := fetchAll(ctx, cfg, client, []images.LockedPackage{p})
			if err != nil {
				return statedRecord{}, err
			}
			return readStated(got[0])
		})
		if err != nil {
			return err
		}
		for _, f := range []struct{ what, lock, says string }{
			{"name", p.Name, says.Name},
			{"version", p.Version, says.Version},
			{"architecture", p.Arch, says.Arch},
			{"source", p.Source, says.Source},
			{"version of the source", p.SourceVersion, says.SourceVersion},
			{"Built-Using", oneLine(p.BuiltUsing), says.BuiltUsing},
		} {
			if f.lock != f.says {
				return inputErrorf("lock %s: the %s of package %s %s is %q, the package with that hash says %q; the lock was edited, make a new one with: muster build --update",
					cfg.LockFile, f.what, p.Name, p.Version, f.lock, f.says)
			}
		}
	}
	return nil
}

func readStated(p fetched) (statedRecord, error) {
	control, err := p.control()
	if err != nil {
		return statedRecord{}, err
	}
	s, err := deb.ParseStanza(control["control"])
	if err != nil {
		return statedRecord{}, fmt.Errorf("package %s %s: control: %w", p.Name, p.Version, err)
	}
	r := statedRecord{Name: s.Field("Package"), Version: s.Field("Version"), Arch: s.Field("Architecture"), BuiltUsing: oneLine(s.Field("Built-Using"))}
	r.Source, r.SourceVersion = deb.SourceOf(r.Name, r.Version, s.Field("Source"))
	return r, nil
}

// oneLine writes a field that may be folded in one of two places.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
