package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"muster/builder/deb"
	"muster/images"
)

// leftover is what an earlier build wrote into a folder and this one does not: a medium that
// the definition has dropped, or that of another name. Somebody would take it for a part of the new image.
type leftover struct {
	ours    []string // as the earlier build wrote them
	changed []string // somebody has changed them since
}

// leftoverOf compares the manifest of the image in dir with that of the one that will be there.
func leftoverOf(dir string, old, m *images.Manifest) (leftover, error) {
	var l leftover
	stays := map[string]bool{manifestName: true}
	for _, a := range m.Artifacts {
		stays[a.Name] = true
	}
	for _, a := range old.Artifacts {
		if stays[a.Name] {
			continue
		}
		same, err := isArtifact(filepath.Join(dir, filepath.FromSlash(a.Name)), a)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return l, err
		case same:
			l.ours = append(l.ours, a.Name)
		default:
			l.changed = append(l.changed, a.Name)
		}
	}
	return l, nil
}

// isArtifact says whether a file has the bytes of an artifact, a medium with whatever site segment.
func isArtifact(name string, a images.Artifact) (bool, error) {
	fi, err := os.Lstat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return false, err
	}
	if fi.Size() != a.Size {
		return false, nil
	}
	var got deb.FileHash
	if a.Site == nil {
		got, err = hashFile(name)
	} else {
		got, _, err = hashMedium(name, *a.Site)
	}
	return err == nil && got == deb.FileHash{Size: a.Size, SHA256: a.SHA256}, err
}

// removeLeftover removes what only the image of the manifest in text, if it is one, has in the
// folder, and returns the names. invalidate is called before.
func removeLeftover(cfg Config, text []byte, m *images.Manifest, invalidate func() error) ([]string, error) {
	old, err := images.ParseManifest(manifestName, text)
	if err != nil {
		return nil, nil // nobody knows what there was
	}
	l, err := leftoverOf(cfg.Out, old, m)
	if err != nil {
		return nil, err
	}
	if len(l.changed) > 0 {
		cfg.Log.Warn("files of an earlier image stay, since somebody changed them; they are no part of this one", "artifact", strings.Join(l.changed, ", "))
	}
	if len(l.ours) == 0 {
		return nil, nil
	}
	if err := invalidate(); err != nil {
		return nil, err
	}
	for _, name := range l.ours {
		if err := os.Remove(filepath.Join(cfg.Out, filepath.FromSlash(name))); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return l.ours, nil
}
