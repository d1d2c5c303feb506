package builder

import (
	"fmt"
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
	texts := []string{layerText(t, statusFile, maxStatus)}
	for _, name := range t.Names(statusFolder) {
		if !strings.HasSuffix(name, ".md5sums") {
			texts = append(texts, layerText(t, path.Join(statusFolder, name), maxStatus))
		}
	}
	for _, text := range texts {
		for _, paragraph := range strings.Split(text, "\n\n") {
			p, ok := insideOf(paragraph)
			if !ok {
				continue
			}
			p.In = s.String()
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

// insideOf reads a paragraph of dpkg's status. What is not installed is none.
func insideOf(paragraph string) (insidePackage, bool) {
	st, err := deb.ParseStanza([]byte(paragraph))
	if err != nil || st.Field("Package") == "" || st.Field("Version") == "" {
		return insidePackage{}, false
	}
	if status := st.Field("Status"); status != "" && !strings.HasSuffix(status, " installed") {
		return insidePackage{}, false
	}
	p := insidePackage{Name: st.Field("Package"), Version: st.Field("Version"), Arch: st.Field("Architecture")}
	p.Source, p.SourceVersion = deb.SourceOf(p.Name, p.Version, st.Field("Source"))
	return p, true
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
