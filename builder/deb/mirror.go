package deb

import (
	"regexp"
	"slices"
	"strings"
)

// The archives that Debian itself runs, used where neither the definition nor
// the host names one.
const (
	debianArchive   = "http://ftp.debian.org/debian"
	securityArchive = "http://security.debian.org/debian-security"
)

const securitySuffix = "-security"

// Mirrors says where packages may be fetched from.
type Mirrors struct {
	// Given is the base URL that a definition names. Nothing else is asked then.
	Given string
	// Host is what apt on this host uses, as [HostSources] reads it. A
	// host of another release has mirrors that serve this one as well; whether
	// they do is seen when they are asked.
	Host []Source
	// NoDefault leaves out the archives that Debian runs, for other
	// distributions and for tests.
	NoDefault bool
}

// Bases returns the base URLs to ask for suite, the best first, without slash at
// the end. What comes from them is verified in any case.
func (m Mirrors) Bases(suite string) []string {
	security := strings.HasSuffix(suite, securitySuffix)
	if m.Given != "" {
		base := strings.TrimRight(m.Given, "/")
		if security {
			// A mirror has security updates beside the archive or in it.
			return []string{securityOf(base), base}
		}
		return []string{base}
	}
	var bases []string
	for _, s := range m.Host {
		if !slices.ContainsFunc(s.Suites, isSuiteName) {
			continue
		}
		if security != slices.ContainsFunc(s.Suites, func(s string) bool { return strings.HasSuffix(s, securitySuffix) || strings.HasSuffix(s, "/updates") }) {
			continue
		}
		for _, u := range s.URIs {
			bases = append(bases, strings.TrimRight(u, "/"))
		}
	}
	if !m.NoDefault {
		if security {
			bases = append(bases, securityArchive)
		} else {
			bases = append(bases, debianArchive)
		}
	}
	var out []string
	for _, b := range bases {
		if !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	return out
}

// snapshotRE matches the end of the base URL of a dated snapshot.
var snapshotRE = regexp.MustCompile(`/[0-9]{8}T[0-9]{6}Z$`)

// securityOf is the archive of security updates beside that at base. A snapshot's date
// stays the end of the URL: debian/DATE has debian-security/DATE beside it.
func securityOf(base string) string {
	date := snapshotRE.FindString(base)
	return strings.TrimSuffix(base, date) + securitySuffix + date
}

// isSuiteName says whether a suite of apt's sources may be one of Debian's, so
// that archives of single vendors are not asked for Debian.
func isSuiteName(s string) bool {
	base, _, _ := strings.Cut(s, "-")
	base, _, _ = strings.Cut(base, "/")
	return slices.Contains([]string{
		"oldoldstable", "oldstable", "stable", "testing", "unstable", "sid",
		"buster", "bullseye", "bookworm", "trixie", "forky", "duke",
	}, base)
}
