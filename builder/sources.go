package builder

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"muster/images"
)

// source is a Debian source package that something of the image was built from.
type source struct {
	name, version string
	binaries      []string // packages of the image
	dsc           string   // below an archive's base URL; "": not known
	suite         string
}

// builtUsingRE is one relation of the field Built-Using.
var builtUsingRE = regexp.MustCompile(`([a-z0-9][a-z0-9+.-]*) \(= ([^)\s]+)\)`)

// sourcesOf returns the sources of all packages, sorted.
func sourcesOf(lock *images.Lock) []source {
	found := make(map[string]*source)
	add := func(name, version, binary, suite, dir string) {
		key := name + " " + version
		s, ok := found[key]
		if !ok {
			s = &source{name: name, version: version, suite: suite}
			if dir != "" {
				_, upstream, epoch := strings.Cut(version, ":")
				if !epoch {
					upstream = version
				}
				s.dsc = path.Join(dir, name+"_"+upstream+".dsc")
			}
			found[key] = s
		}
		if !slices.Contains(s.binaries, binary) {
			s.binaries = append(s.binaries, binary)
		}
	}
	for _, p := range lock.Packages {
		if p.File != "" {
			continue // of the site's own
		}
		add(p.Source, p.SourceVersion, p.Name, p.Suite, path.Dir(p.Path))
		for _, m := range builtUsingRE.FindAllStringSubmatch(p.BuiltUsing, -1) {
			add(m[1], m[2], p.Name, p.Suite, poolDir(p.Path, m[1]))
		}
	}
	var out []source
	for _, key := range sortedKeys(found) {
		out = append(out, *found[key])
	}
	return out
}

// poolDir is the folder of a source in the part of the pool that file is in:
// pool/main/l/linux for linux, pool/main/libx/libxml2 for libxml2.
func poolDir(file, name string) string {
	parts := strings.Split(file, "/")
	if len(parts) < 3 || parts[0] != "pool" {
		return ""
	}
	prefix := name[:1]
	if strings.HasPrefix(name, "lib") && len(name) > 3 {
		prefix = name[:4]
	}
	// The security archive has pool/updates/COMPONENT/….
	component := parts[1:2]
	if parts[1] == "updates" {
		component = parts[1:3]
	}
	return path.Join("pool", path.Join(component...), prefix, name)
}

// sourcesText says which sources the image was built from and where they are, which
// who passes on an image with programs under the GPL has to say, or pass on with it.
func sourcesText(def *images.Definition, lock *images.Lock, inside []insidePackage, programs []goProgram) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `The sources of image %s

This image holds free software, much of it under the GNU General Public License. These
are the exact sources of everything in it. Who passes the image on has to pass
them on too, or say where they are; for the GPL, for as long as the image is passed on.

A file .dsc names the parts of a Debian source package; dget -d URL fetches all of
them. Archives drop old versions, https://snapshot.debian.org keeps them.

Debian source packages (suite %s, %s)

`, def.Name, lock.Suite, lock.Date.UTC().Format("2006-01-02"))
	for _, s := range sourcesOf(lock) {
		fmt.Fprintf(&b, "%s %s\n  of %s\n", s.name, s.version, strings.Join(s.binaries, ", "))
		if base := archiveOf(s.suite); base != "" && s.dsc != "" {
			fmt.Fprintf(&b, "  %s/%s\n  https://snapshot.debian.org/package/%s/%s/\n", base, s.dsc, s.name, s.version)
		}
	}
	for _, p := range lock.Packages {
		if p.File != "" {
			fmt.Fprintf(&b, "%s %s, from the file %s: its sources are with who made it\n  SHA-256 %s\n", p.Name, p.Version, p.File, p.SHA256)
		}
	}
	if own := ownKernelFiles(def.Kernel); len(own) > 0 {
		b.WriteString("\nA kernel of the site's own, whose sources are with who compiled it\n\n")
		for _, f := range own {
			fmt.Fprintf(&b, "%s\n  SHA-256 %s\n", f.name, f.sum)
		}
	}
	if len(lock.Sources) > 0 {
		b.WriteString("\nOther sources of the userland; what is in them comes from who made them\n\n")
		for _, s := range lock.Sources {
			fmt.Fprintf(&b, "%s\n  %s\n", s, s.Digest)
			for _, p := range inside {
				if p.In == s.String() {
					fmt.Fprintf(&b, "  %s %s, built from %s %s\n", p.Name, p.Version, p.Source, p.SourceVersion)
				}
			}
		}
	}
	b.WriteString("\nGo modules of the programs\n\n")
	for _, m := range allModules(programs) {
		fmt.Fprintf(&b, "%s %s\n  %s\n", m.Path, m.Version, moduleSource(m))
	}
	b.WriteString("\nGo toolchains, whose standard library is in the programs\n\n")
	var toolchains []string
	for _, p := range programs {
		if p.Go != "" {
			toolchains = append(toolchains, p.Go)
		}
	}
	slices.Sort(toolchains)
	for _, v := range slices.Compact(toolchains) {
		fmt.Fprintf(&b, "%s\n  https://go.dev/dl/%s.src.tar.gz\n", v, v)
	}
	return b.Bytes()
}

// moduleSource is the command that fetches the source of a module. A module
// without a version is muster itself.
func moduleSource(m goModule) string {
	if m.Version == "" {
		return noAssertion
	}
	return "go mod download " + m.Path + "@" + m.Version
}
