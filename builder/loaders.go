package builder

import (
	"context"
	"fmt"
	"io"
	"strings"

	"muster/builder/deb"
	"muster/images"
)

// loader is a network boot program.
type loader struct {
	Name, Client, Arch string
	Package            string
	deb.FileHash
}

type loaderFiles struct{ Loaders []loader }

func (l loaderFiles) blobs() []deb.FileHash {
	var out []deb.FileHash
	for _, x := range l.Loaders {
		out = append(out, x.FileHash)
	}
	return out
}

// wantedLoaders are the programs of the loader package, by their path in it.
func wantedLoaders() map[string]loader {
	return map[string]loader{
		"usr/lib/ipxe/undionly.kpxe": {Name: "undionly.kpxe", Client: "bios", Arch: "amd64"},
		"usr/lib/ipxe/snponly.efi":   {Name: "snponly.efi", Client: "uefi", Arch: "amd64"},
	}
}

// loaderStep fetches the network boot programs.
func loaderStep(ctx context.Context, cfg Config, c *cache, client *deb.Client, lock *images.Lock) (loaderFiles, bool, error) {
	packages := lock.ByRole(images.RoleLoader)
	return runStep(ctx, c, "loaders", hashesOf(packages), func() (loaderFiles, error) {
		got, err := fetchAll(ctx, cfg, client, packages)
		if err != nil {
			return loaderFiles{}, err
		}
		want := wantedLoaders()
		var out loaderFiles
		for _, p := range got {
			err := p.walk(ctx, func(e deb.Entry, r io.Reader) error {
				l, ok := want[e.Path]
				if !ok || e.Type != deb.TypeFile {
					return nil
				}
				var data []byte
				if err := readInto(&data, e, r); err != nil {
					return err
				}
				var err error
				l.FileHash, err = c.putBytes(data)
				l.Package = p.Name + " " + p.Version
				out.Loaders = append(out.Loaders, l)
				delete(want, e.Path)
				return err
			})
			if err != nil {
				return loaderFiles{}, err
			}
		}
		if len(want) > 0 {
			return loaderFiles{}, fmt.Errorf("package %s: it does not have %s", packageNames(got), strings.Join(sortedKeys(want), ", "))
		}
		return out, nil
	})
}
