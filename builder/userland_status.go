package builder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"muster/builder/deb"
	"muster/builder/layers"
	"muster/images"
	"muster/initramfs"
)

// Where dpkg keeps what is installed. Images without a package manager have a file for each
// package in statusFolder.
const (
	statusFile   = "var/lib/dpkg/status"
	statusFolder = "var/lib/dpkg/status.d"
	infoFolder   = "var/lib/dpkg/info"
	maxStatus    = 64 << 20
)

// insidePackage is a Debian package that a container image has in it.
type insidePackage struct {
	In                    string // source
	Name, Version, Arch   string
	Source, SourceVersion string
	Copyright             copyrightRecord
}

// readStatus notes which packages a container image says that it has.
func (r *root) readStatus(cfg Config, s images.Source, t *layers.Tree) error {
	for _, text := range statusOf(t) {
		for _, is := range deb.ParseStatus([]byte(text)) {
			p := insidePackage{
				In: s.String(), Name: is.Name, Version: is.Version, Arch: is.Arch, Source: is.Source, SourceVersion: is.SourceVersion,
			}
			if text := layerText(t, "usr/share/doc/"+p.Name+"/copyright", maxCopyright); text != "" {
				sum, err := cfg.store.putBytes([]byte(text))
				if err != nil {
					return err
				}
				p.Copyright = copyrightRecord{Found: true, Text: sum}
			}
			r.inside = append(r.inside, p)
		}
	}
	return nil
}

// statusOf returns all of dpkg's status in a container image.
func statusOf(t *layers.Tree) []string {
	texts := []string{layerText(t, statusFile, maxStatus)}
	for _, name := range t.Names(statusFolder) {
		if !strings.HasSuffix(name, ".md5sums") {
			texts = append(texts, layerText(t, path.Join(statusFolder, name), maxStatus))
		}
	}
	return texts
}

// isStatus says whether a path in a layer is one that [statusOf] reads.
func isStatus(name string) bool { return name == statusFile || path.Dir(name) == statusFolder }

// installedBelow returns the packages that the container images below those of the definition say they
// have. locked are the sources as [lockSources] pins them.
func installedBelow(ctx context.Context, cfg Config, locked []images.LockedSource) ([]deb.Package, error) {
	var out []deb.Package
	for i, s := range imagesBelow(cfg.Definition) {
		t, err := readLayers(ctx, cfg, s, locked[i], layers.New(memoryStore), isStatus)
		if err != nil {
			return nil, fmt.Errorf("userland: %s: %w", s, err)
		}
		for _, text := range statusOf(t) {
			for _, p := range deb.ParseStatus([]byte(text)) {
				if p.Arch != "all" && p.Arch != cfg.Definition.Arch {
					continue
				}
				out = slices.DeleteFunc(out, func(old deb.Package) bool { return old.Name == p.Name })
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// imagesBelow returns the container images that the list of sources begins with, if packages lie on
// them.
func imagesBelow(d *images.Definition) []images.Source {
	stack := d.Stack()
	n := 0
	for n < len(stack) && stack[n].Kind() == images.SourceOCI {
		n++
	}
	if !slices.ContainsFunc(stack[n:], func(s images.Source) bool { return s.Kind() == images.SourcePackages }) {
		return nil
	}
	return stack[:n]
}

// memoryStore keeps the few small files that dpkg's status is.
func memoryStore(content io.Reader, size int64) (*io.SectionReader, error) {
	if size > maxStatus {
		return nil, fmt.Errorf("it is larger than %d MiB", maxStatus>>20)
	}
	text, err := io.ReadAll(io.LimitReader(content, size))
	if err == nil && int64(len(text)) < size {
		err = io.ErrUnexpectedEOF
	}
	return io.NewSectionReader(bytes.NewReader(text), 0, int64(len(text))), err
}

// upgrade takes away what an image below has of packages that now come anew, as dpkg does
// when it installs another version: files that other packages have too stay.
func (r *root) upgrade(packages []fetched) error {
	if r.absent(statusFile) {
		return nil
	}
	coming := make(map[string]bool)
	for _, p := range packages {
		coming[p.Name] = true
	}
	mine, others := make(map[string]bool), make(map[string]bool)
	for e := range r.tree.All() {
		name, isList := strings.CutSuffix(path.Base(e.Path), ".list")
		if path.Dir(e.Path) != infoFolder || !isList {
			continue
		}
		text, err := r.text(e.Path)
		if err != nil {
			return err
		}
		name, _, _ = strings.Cut(name, ":")
		into := others
		if coming[name] {
			into = mine
		}
		for line := range strings.Lines(text) {
			into[r.resolve(layers.MergeUsr(strings.Trim(line, "/\n")))] = true
		}
	}
	for _, name := range sortedKeys(mine) {
		e := r.tree.Lookup(name)
		if e == nil || e.Type == initramfs.Dir || others[name] {
			continue
		}
		if err := r.displace(name); err != nil {
			return err
		}
	}
	r.inside = slices.DeleteFunc(r.inside, func(p insidePackage) bool { return coming[p.Name] })
	return nil
}

// recordStatus writes into dpkg's status, where an image below has one, what came from packages: so
// what reads it sees what is there.
func (r *root) recordStatus() error {
	if r.absent(statusFile) || len(r.controls) == 0 {
		return nil
	}
	text, err := r.text(statusFile)
	if err != nil {
		return err
	}
	var kept []string
	for _, paragraph := range strings.Split(text, "\n\n") {
		p, err := deb.ParseStanza([]byte(paragraph))
		if err != nil {
			return fmt.Errorf("/%s of %s: %w", statusFile, r.owners[statusFile].name, err)
		}
		if _, again := r.controls[p.Field("Package")]; p.Field("Package") == "" || again {
			continue
		}
		kept = append(kept, strings.Trim(paragraph, "\n")+"\n")
	}
	for _, name := range sortedKeys(r.controls) {
		control := strings.Trim(r.controls[name], "\n") + "\n"
		head, rest, _ := strings.Cut(control, "\n")
		kept = append(kept, head+"\nStatus: install ok installed\n"+rest)
	}
	me := r.owners[statusFile]
	if err := r.displace(statusFile); err != nil {
		return err
	}
	return r.own(initramfs.Entry{
		Path: statusFile, Type: initramfs.File, Mode: 0o644, Data: []byte(strings.Join(kept, "\n")), Source: "muster",
	}, me)
}
