package deb

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// distribution is what is known of a publisher of suites.
type distribution struct {
	// The archives that it runs itself, used where neither the definition nor the host
	// names one.
	archive, security string
	// suites are the names of releases by which apt's sources are known to be its.
	suites []string
}

var distributions = map[string]distribution{
	"Debian": {"http://ftp.debian.org/debian", "http://security.debian.org/debian-security", []string{
		"oldoldstable", "oldstable", "stable", "testing", "unstable", "sid",
		"buster", "bullseye", "bookworm", "trixie", "forky", "duke",
	}},
	"Ubuntu": {"http://archive.ubuntu.com/ubuntu", "http://security.ubuntu.com/ubuntu", []string{
		"devel", "focal", "jammy", "noble", "plucky", "questing", "resolute",
	}},
}

// Archive returns the base URL of the archive that the publisher of suite runs for it, and
// "" for a publisher that is not known. Origin is its name, as Release files have it.
func Archive(origin, suite string) string {
	if strings.HasSuffix(suite, securitySuffix) {
		return distributions[origin].security
	}
	return distributions[origin].archive
}

const securitySuffix = "-security"

// Mirrors says where packages may be fetched from.
type Mirrors struct {
	// Given is the base URL that a definition names. Nothing else is asked then.
	Given string
	// Host is what apt on this host uses, as [HostSources] reads it. A
	// host of another release has mirrors that serve this one as well; whether
	// they do is seen when they are asked.
	Host []Source
	// Origin is who publishes the suite, as Release files say it; "": Debian.
	Origin string
	// NoDefault leaves out the archives that the publisher runs, for tests.
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
	origin := cmp.Or(m.Origin, "Debian")
	var bases []string
	for _, s := range m.Host {
		if !slices.ContainsFunc(s.Suites, func(name string) bool {
			return distributions[origin].has(name) && isSecurity(name) == security
		}) {
			continue
		}
		for _, u := range s.URIs {
			bases = append(bases, strings.TrimRight(u, "/"))
		}
	}
	if own := Archive(origin, suite); own != "" && !m.NoDefault {
		bases = append(bases, own)
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

// isSecurity says whether a suite of apt's sources is one of security updates.
func isSecurity(suite string) bool {
	return strings.HasSuffix(suite, securitySuffix) || strings.HasSuffix(suite, "/updates")
}

// has says whether a suite of apt's sources may be one of the distribution's, so that
// archives of single vendors are not asked for it.
func (d distribution) has(suite string) bool {
	base, _, _ := strings.Cut(suite, "-")
	base, _, _ = strings.Cut(base, "/")
	return slices.Contains(d.suites, base)
}
