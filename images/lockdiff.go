package images

import (
	"slices"
	"strings"
)

// LockChange is a package, or another source of the userland, that differs between two locks.
type LockChange struct {
	Package  string `json:"package"`       // of a source its kind and where it is: oci ./base
	Old      string `json:"old,omitempty"` // version or digest; "": the old lock does not have it
	New      string `json:"new,omitempty"` // likewise
	Suite    string `json:"suite"`         // that the new version is from, or the old where there is no new
	Security bool   `json:"security"`      // the new version is from a suite of security updates
}

// DiffLocks returns the packages that differ, sorted by name. old may be nil: then
// all packages of fresh are new.
func DiffLocks(old, fresh *Lock) []LockChange {
	have := make(map[string]LockedPackage)
	if old != nil {
		for _, p := range old.Packages {
			have[p.Name] = p
		}
	}
	changes := []LockChange{}
	for _, p := range fresh.Packages {
		was, ok := have[p.Name]
		delete(have, p.Name)
		if ok && was.Version == p.Version && was.SHA256 == p.SHA256 {
			continue
		}
		changes = append(changes, LockChange{
			Package: p.Name, Old: was.Version, New: p.Version,
			Suite: p.Suite, Security: strings.HasSuffix(p.Suite, "-security"),
		})
	}
	for _, p := range have {
		changes = append(changes, LockChange{Package: p.Name, Old: p.Version, Suite: p.Suite})
	}
	changes = append(changes, diffSources(old, fresh)...)
	slices.SortFunc(changes, func(a, b LockChange) int { return strings.Compare(a.Package, b.Package) })
	return changes
}

// Request is what a definition asks of the package archive. A lock holds the
// one that it was made for.
type Request struct {
	Arch     string   `json:"arch"`
	Suite    string   `json:"suite"`
	Kernel   string   `json:"kernel"`
	Firmware []string `json:"firmware"`
	Packages []string `json:"packages"`
	// Userland are its sources in their order, in words.
	Userland []string `json:"userland,omitempty"`
	// Loaders are the packages with boot loaders, which a muster decides and not a definition.
	// A lock of an early muster has none.
	Loaders []string `json:"loaders,omitempty"`
}

// Request returns what d asks of the package archive.
func (d *Definition) Request() Request {
	return Request{
		Arch: d.Arch, Suite: d.Suite, Kernel: d.Kernel.Package, Firmware: d.Firmware,
		Packages: d.AllPackages(), Userland: d.sourcesAsked(),
		Loaders: slices.Concat(MediumPackages(), UKIPackages()),
	}
}

// Hash returns the SHA-256 of r. A list that is not there and one without items differ in
// it, and in the JSON form of r.
func (r Request) Hash() string {
	return hashJSON(struct {
		Arch, Suite, Kernel string
		Firmware, Packages  []string
		Loaders             []string
		Userland            []string `json:",omitempty"`
	}{r.Arch, r.Suite, r.Kernel, r.Firmware, r.Packages, r.Loaders, r.Userland})
}

// Against says in words what r asks for that other does not, and the reverse.
func (r Request) Against(other Request) string {
	var parts []string
	value := func(key, a, b string) {
		if a != b {
			parts = append(parts, key+": "+a+" instead of "+b)
		}
	}
	value("arch", r.Arch, other.Arch)
	value("suite", r.Suite, other.Suite)
	value("kernel", r.Kernel, other.Kernel)
	list := func(key string, a, b []string) {
		var words []string
		for _, s := range a {
			if !slices.Contains(b, s) {
				words = append(words, s+" more")
			}
		}
		for _, s := range b {
			if !slices.Contains(a, s) {
				words = append(words, s+" less")
			}
		}
		if len(words) == 0 && !slices.Equal(a, b) {
			words = append(words, "another order")
		}
		if len(words) > 0 {
			parts = append(parts, key+": "+strings.Join(words, ", "))
		}
	}
	list("firmware", r.Firmware, other.Firmware)
	list("packages", r.Packages, other.Packages)
	list("userland", r.Userland, other.Userland)
	list("boot loaders", r.Loaders, other.Loaders)
	return strings.Join(parts, "; ")
}
