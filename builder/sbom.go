package builder

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"muster/builder/deb"
	"muster/images"
	"muster/initramfs"
)

// The names of the artifacts that say what is in an image.
const (
	sbomName    = "sbom.spdx.json"
	sourcesName = "SOURCES"
)

// goProgram is a program of the image with what it was made of.
type goProgram struct {
	Name    string
	SHA256  string
	Go      string // version of the toolchain; "" where it is not known
	Main    string // path of the main module
	Modules []goModule
}

type goModule struct{ Path, Version, Sum string }

// billFiles are the texts about what is in an image.
type billFiles struct{ SBOM, Sources deb.FileHash }

func (b billFiles) blobs() []deb.FileHash { return []deb.FileHash{b.SBOM, b.Sources} }

// billStep writes what the image is made of, as SPDX and as the list of sources. Both
// follow from the image ID alone.
func billStep(ctx context.Context, cfg Config, c *cache, client *deb.Client, ids ids, lock *images.Lock, inside []insidePackage, commands []goCommand) (billFiles, bool, error) {
	return runStep(ctx, c, "bill", []any{ids, "checked"}, func() (billFiles, error) {
		if err := checkStated(ctx, cfg, c, client, lock); err != nil {
			return billFiles{}, err
		}
		copyrights, err := copyrightsOf(ctx, cfg, c, client, lock)
		if err != nil {
			return billFiles{}, err
		}
		programs := programsOf(cfg, commands)
		doc := describe(cfg, lock, ids, imageTime(cfg, lock), programs, copyrights, licenser(ctx, commands))
		if err := addSources(doc, c, lock, inside); err != nil {
			return billFiles{}, err
		}
		text, err := doc.encode()
		if err != nil {
			return billFiles{}, err
		}
		var out billFiles
		if out.SBOM, err = c.putBytes(text); err != nil {
			return billFiles{}, err
		}
		out.Sources, err = c.putBytes(sourcesText(cfg.Definition, lock, inside, programs))
		return out, err
	})
}

// programsOf reads what the Go programs of the image say about themselves.
func programsOf(cfg Config, commands []goCommand) []goProgram {
	programs := []goProgram{
		readProgram("muster-agent", cfg.Agent),
		readProgram("muster-init", cfg.Init),
		busyboxProgram(cfg.Busybox, cfg.BusyboxInfo),
	}
	for i := range programs {
		programs[i].Main = ownModule
	}
	for _, c := range commands {
		programs = append(programs, readProgram(c.Name, c.data))
	}
	return programs
}

func readProgram(name string, data []byte) goProgram {
	p := goProgram{Name: name, SHA256: hashBytes(data)}
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return p // no program of Go, or one without the information: said in the document
	}
	p.Go, p.Main = info.GoVersion, info.Main.Path
	if v := info.Main.Version; p.Main != ownModule && v != "" && v != "(devel)" {
		p.Modules = append(p.Modules, goModule{p.Main, v, info.Main.Sum})
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		p.Modules = append(p.Modules, goModule{m.Path, m.Version, m.Sum})
	}
	return p
}

// busyboxProgram takes what mkbb wrote down: the busybox is compiled from rewritten
// sources, whose modules are those that it was made of.
func busyboxProgram(data []byte, info *initramfs.Busybox) goProgram {
	p := goProgram{Name: "u-root busybox", SHA256: hashBytes(data), Go: info.GoVersion, Main: ownModule}
	for _, m := range info.Modules {
		p.Modules = append(p.Modules, goModule{m.Path, m.Version, m.Sum})
	}
	return p
}

// licenser returns the function that finds a module's license: in the table, and for
// the commands of a definition in the module cache that they were compiled from.
func licenser(ctx context.Context, commands []goCommand) func(goModule) string {
	dir := ""
	if len(commands) > 0 {
		if out, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output(); err == nil {
			dir = strings.TrimSpace(string(out))
		}
	}
	return func(m goModule) string {
		license := goModuleLicense(m.Path, m.Version)
		if license == "" && dir != "" {
			license = licenseOfDir(filepath.Join(dir, escapeModule(m.Path)+"@"+escapeModule(m.Version)))
		}
		if license == "" {
			return noAssertion
		}
		return license
	}
}

// describe makes the document.
func describe(cfg Config, lock *images.Lock, ids ids, at time.Time, programs []goProgram, copyrights map[string]string, license func(goModule) string) *spdxDocument {
	d := &spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: cfg.Definition.Name,
		Namespace: "https://spdx.org/spdxdocs/muster-" + cfg.Definition.Name + "-" + ids.Image,
		Creation:  spdxCreation{at.UTC().Format(time.RFC3339), []string{"Tool: muster"}},
	}
	image := newPackage("image", cfg.Definition.Name, cfg.Definition.Name, ids.Image)
	image.Comment = "The parts have the licenses; there is none of the whole."
	d.Packages = append(d.Packages, image)
	d.Relationships = append(d.Relationships, spdxRelationship{d.ID, "DESCRIBES", image.ID})
	book := make(licenseBook)
	for _, p := range lock.Packages {
		d.add(image.ID, debianPackage(p, book.debian(copyrights[p.SHA256])))
	}
	for _, f := range ownKernelFiles(cfg.Definition.Kernel) {
		kernel := newPackage("kernel", f.name, f.name, "")
		kernel.sha256(f.sum)
		kernel.LicenseDeclared, kernel.Comment = kernelLicense, "A kernel of the site's own: its sources are with who compiled it."
		d.add(image.ID, kernel)
	}
	for _, p := range programs {
		addProgram(d, image.ID, p, license)
	}
	addCommands(d, cfg, license)
	for _, l := range book {
		d.Extracted = append(d.Extracted, l)
	}
	return d
}

// addSources adds the sources of the userland that are no packages, and the Debian packages that
// container images have inside.
func addSources(d *spdxDocument, c *cache, lock *images.Lock, inside []insidePackage) error {
	image := d.Packages[0].ID
	ids := make(map[string]string)
	for _, s := range lock.Sources {
		pkg := newPackage(string(s.Kind), s.Digest, s.String(), "")
		pkg.sha256(strings.TrimPrefix(s.Digest, "sha256:"))
		pkg.Comment = "A source of the userland; the hash is that of its manifest, its archive or its folder. Licenses are those of what is in it."
		d.add(image, pkg)
		ids[s.String()] = pkg.ID
	}
	book := make(licenseBook)
	for _, p := range inside {
		text := ""
		if p.Copyright.Found {
			b, err := c.read(p.Copyright.Text)
			if err != nil {
				return err
			}
			text = string(b)
		}
		pkg := newPackage("deb", p.In+" "+p.Name, p.Name, p.Version)
		pkg.LicenseDeclared = book.debian(text)
		pkg.SourceInfo = "inside of " + p.In + ", built from " + p.Source + " " + p.SourceVersion
		pkg.purl("pkg:deb/debian/" + url.PathEscape(p.Name) + "@" + url.QueryEscape(p.Version) + "?arch=" + p.Arch)
		d.add(ids[p.In], pkg)
	}
	for _, l := range book {
		if !slices.ContainsFunc(d.Extracted, func(e extractedLicense) bool { return e.ID == l.ID }) {
			d.Extracted = append(d.Extracted, l)
		}
	}
	return nil
}

func debianPackage(p images.LockedPackage, license string) spdxPackage {
	out := newPackage("deb", p.Name, p.Name, p.Version)
	out.sha256(p.SHA256)
	out.Supplier = "Organization: Debian"
	distro := "debian"
	if origin := publisherOf(p.Suite); origin != "" {
		out.Supplier = "Organization: " + string(origin)
		distro = strings.ToLower(string(origin))
	}
	if base := archiveOf(p.Suite); base != "" {
		out.DownloadLocation = base + "/" + p.Path
	}
	out.SourceInfo = "built from " + p.Source + " " + p.SourceVersion
	if p.BuiltUsing != "" {
		out.SourceInfo += ", using " + p.BuiltUsing
	}
	out.LicenseDeclared = license
	out.purl("pkg:deb/" + distro + "/" + url.PathEscape(p.Name) + "@" + url.QueryEscape(p.Version) + "?arch=" + p.Arch)
	return out
}

// addProgram adds a program and its modules.
func addProgram(d *spdxDocument, image string, p goProgram, license func(goModule) string) {
	pkg := newPackage("program", p.Name, p.Name, "")
	pkg.Purpose = "APPLICATION"
	pkg.sha256(p.SHA256)
	if p.Main == ownModule {
		pkg.LicenseDeclared = ownLicense
	} else if len(p.Modules) > 0 && p.Modules[0].Path == p.Main {
		pkg.LicenseDeclared = license(p.Modules[0])
	}
	if p.Go == "" {
		pkg.Comment = "It has no build information of Go: what it was made of is not known."
	}
	d.add(image, pkg)
	if p.Go != "" {
		version := strings.TrimPrefix(p.Go, "go")
		std := newPackage("go", "std-"+version, "Go standard library", version)
		std.LicenseDeclared, std.DownloadLocation = goLicense, "https://go.dev/dl/go"+version+".src.tar.gz"
		std.purl("pkg:golang/std@" + version)
		d.add(pkg.ID, std)
	}
	for _, m := range p.Modules {
		mod := newPackage("go", m.Path+"@"+m.Version, m.Path, m.Version)
		mod.Purpose, mod.LicenseDeclared, mod.DownloadLocation = "LIBRARY", license(m), noAssertion
		if m.Sum != "" {
			mod.SourceInfo = "hash of the module as in go.sum: " + m.Sum
		}
		mod.purl("pkg:golang/" + m.Path + "@" + url.QueryEscape(m.Version))
		d.add(pkg.ID, mod)
	}
}

// addCommands adds the commands of the busybox that the image has.
func addCommands(d *spdxDocument, cfg Config, license func(goModule) string) {
	own := make(map[string]bool)
	for _, p := range initramfs.BusyboxCommands() {
		if rest, ok := strings.CutPrefix(p, "muster/initramfs/cmds/"); ok {
			own[rest] = true
		}
	}
	uroot := goModule{Path: "github.com/u-root/u-root"}
	for _, m := range cfg.BusyboxInfo.Modules {
		if m.Path == uroot.Path {
			uroot.Version, uroot.Sum = m.Version, m.Sum
		}
	}
	box := newPackage("program", "u-root busybox", "", "").ID
	names := cfg.Definition.Commands
	if len(names) == 0 {
		names = cfg.BusyboxInfo.Commands
	}
	for _, name := range names {
		c := newPackage("command", name, name, uroot.Version)
		c.Purpose, c.LicenseDeclared = "APPLICATION", license(uroot)
		c.SourceInfo = uroot.Path + "/cmds/core/" + name
		if own[name] {
			c.Version, c.LicenseDeclared, c.SourceInfo = "", ownLicense, "muster/initramfs/cmds/"+name
		}
		d.add(box, c)
	}
}

// copyrightRecord is the copyright file of a package, where it has one.
type copyrightRecord struct {
	Found bool
	Text  deb.FileHash
}

func (r copyrightRecord) blobs() []deb.FileHash {
	if !r.Found {
		return nil
	}
	return []deb.FileHash{r.Text}
}

const copyrightStep = "copyright"

// copyrightsOf returns the text of each package's copyright file by the package's hash. A
// package without one of its own shares that of another from the same source.
func copyrightsOf(ctx context.Context, cfg Config, c *cache, client *deb.Client, lock *images.Lock) (map[string]string, error) {
	texts := make(map[string]string)
	bySource := make(map[string]string)
	for _, p := range lock.Packages {
		r, _, err := runStep(ctx, c, copyrightStep, p.SHA256, func() (copyrightRecord, error) {
			got, err := fetchAll(ctx, cfg, client, []images.LockedPackage{p})
			if err != nil {
				return copyrightRecord{}, err
			}
			return readCopyright(ctx, c, got[0])
		})
		if err != nil {
			return nil, err
		}
		if !r.Found {
			continue
		}
		text, err := c.read(r.Text)
		if err != nil {
			return nil, err
		}
		texts[p.SHA256] = string(text)
		if _, ok := bySource[p.Source]; !ok {
			bySource[p.Source] = string(text)
		}
	}
	for _, p := range lock.Packages {
		if _, ok := texts[p.SHA256]; !ok {
			texts[p.SHA256] = bySource[p.Source]
		}
	}
	return texts, nil
}

// readCopyright reads the package until it has found its copyright file.
func readCopyright(ctx context.Context, c *cache, p fetched) (r copyrightRecord, err error) {
	f, err := os.Open(p.file)
	if err != nil {
		return r, err
	}
	defer f.Close()
	err = deb.Walk(f, func(e deb.Entry, content io.Reader) error {
		if err := ctx.Err(); err != nil || !isCopyright(p.Name, e) {
			return err
		}
		var data []byte
		if err := readInto(&data, e, content); err != nil {
			return err
		}
		r.Found = true
		r.Text, err = c.putBytes(data)
		if err != nil {
			return err
		}
		return errFound
	})
	if r.Found && err == errFound {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
	}
	return r, err
}

// maxCopyright bounds a copyright file; the largest of Debian has 1 MB.
const maxCopyright = 16 << 20

func isCopyright(name string, e deb.Entry) bool {
	return e.Path == "usr/share/doc/"+name+"/copyright" && e.Type == deb.TypeFile && e.Size <= maxCopyright
}

// escapeModule writes a module's path as the module cache does: an
// upper case letter as ! and the lower case one.
func escapeModule(path string) string {
	var b strings.Builder
	for _, r := range path {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// archiveOf returns the base URL of the archive that its publisher runs for a suite, and "" for
// suites that are not known.
func archiveOf(suite string) string {
	return deb.Archive(string(publisherOf(suite)), suite)
}

// publisherOf returns who publishes a suite or what belongs to it, and "" where that is not known.
func publisherOf(suite string) images.Origin {
	origin, err := images.OriginOf(strings.TrimSuffix(strings.TrimSuffix(suite, "-security"), "-updates"))
	if err != nil {
		return ""
	}
	return origin
}

// allModules returns the modules of all programs, each once, sorted.
func allModules(programs []goProgram) []goModule {
	var all []goModule
	for _, p := range programs {
		all = append(all, p.Modules...)
	}
	slices.SortFunc(all, func(a, b goModule) int { return strings.Compare(a.Path+" "+a.Version, b.Path+" "+b.Version) })
	return slices.CompactFunc(all, func(a, b goModule) bool { return a.Path == b.Path && a.Version == b.Version })
}
