package builder

import (
	"errors"
	"regexp"
	"strings"

	"muster/builder/deb"
)

// noAssertion is how SPDX says that nothing is said.
const noAssertion = "NOASSERTION"

// maxLicenseText bounds the text of one license that is no SPDX one.
const maxLicenseText = 256 << 10

// spdxID returns the identifier of the SPDX license list for a short name of Debian's
// copyright format, where the two surely mean the same.
func spdxID(name string) (string, bool) {
	base, later := strings.CutSuffix(name, "+")
	if gnu, ok := gnuID(base); ok {
		if later {
			return gnu + "-or-later", true
		}
		return gnu + "-only", true
	}
	if later {
		return "", false
	}
	id, ok := map[string]string{
		"expat": "MIT", "mit": "MIT", "isc": "ISC", "zlib": "Zlib", "apache-2.0": "Apache-2.0", "bsd-2-clause": "BSD-2-Clause",
		"bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause", "cc0-1.0": "CC0-1.0", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0",
		"cc-by-3.0": "CC-BY-3.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-3.0": "CC-BY-SA-3.0", "cc-by-sa-4.0": "CC-BY-SA-4.0",
		"artistic-2.0": "Artistic-2.0", "w3c": "W3C", "psf-2": "PSF-2.0", "psf-2.0": "PSF-2.0", "unlicense": "Unlicense", "0bsd": "0BSD",
		"bsl-1.0": "BSL-1.0", "openssl": "OpenSSL", "curl": "curl",
	}[strings.ToLower(base)]
	return id, ok
}

var gnuRE = regexp.MustCompile(`(?i)^(a|l)?gpl-([0-9.]+)(-only)?$|^(gfdl)-(1\.[0-9])$`)

// gnuID returns the identifier of a license of GNU, without -only or -or-later.
func gnuID(name string) (string, bool) {
	m := gnuRE.FindStringSubmatch(name)
	if m == nil {
		return "", false
	}
	family, version := strings.ToUpper(m[1])+"GPL", m[2]
	if m[4] != "" {
		family, version = "GFDL", m[5]
	}
	if !strings.Contains(version, ".") {
		version += ".0"
	}
	id := family + "-" + version
	switch id {
	case "GPL-1.0", "GPL-2.0", "GPL-3.0", "LGPL-2.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0", "GFDL-1.1", "GFDL-1.2", "GFDL-1.3":
		return id, true
	}
	return "", false
}

// licenseBook collects the licenses of a document that are not in SPDX's list, by their
// identifier: one that is the same everywhere for the same name and text.
type licenseBook map[string]extractedLicense

// ref returns the identifier of a license that is not in SPDX's list.
func (b licenseBook) ref(name, text string) string {
	if text == "" {
		text = "The package's copyright file names this license and does not have its text."
	}
	if len(text) > maxLicenseText {
		text = strings.ToValidUTF8(text[:maxLicenseText], "") + "\n[cut]"
	}
	id := "LicenseRef-" + cleanID(name) + "-" + hashBytes([]byte(name + "\x00" + text))[:8]
	b[id] = extractedLicense{ID: id, Name: name, Text: strings.ToValidUTF8(text, "�")}
	return id
}

// debian returns the license expression of a package with this copyright file: all that
// the file names, since who passes the package on has to keep to all of them.
func (b licenseBook) debian(copyright string) string {
	if strings.TrimSpace(copyright) == "" {
		return noAssertion
	}
	licenses, ok := deb.ParseCopyright(copyright)
	if !ok {
		return b.ref("copyright", copyright)
	}
	texts := make(map[string]string)
	for _, l := range licenses {
		texts[l.Name] = l.Text
	}
	seen := make(map[string]bool)
	var all []string
	for _, l := range licenses {
		e, err := parseLicense(l.Name, func(word string) string {
			if id, ok := spdxID(word); ok {
				return id
			}
			text := texts[word]
			if text == "" {
				text = l.Text
			}
			return b.ref(word, text)
		})
		if err != nil {
			e = b.ref(l.Name, l.Text)
		}
		if !seen[e] {
			seen[e] = true
			all = append(all, e)
		}
	}
	if len(all) > 1 {
		for i, e := range all {
			if strings.Contains(e, " OR ") {
				all[i] = "(" + e + ")"
			}
		}
	}
	return strings.Join(all, " AND ")
}

// parseLicense turns a synopsis of Debian's copyright format ("GPL-1+ or Artistic, and BSD")
// into an SPDX expression; id names a license. A comma ends what binds closer. Exceptions
// ("with") are not taken apart.
func parseLicense(synopsis string, id func(name string) string) (string, error) {
	words := strings.Fields(strings.ReplaceAll(synopsis, ",", " , "))
	if len(words) == 1 {
		return id(words[0]), nil
	}
	var groups []string // of licenses, divided by commas
	var group []string
	var divider []string // and, or
	for i, w := range append(words, ",") {
		switch strings.ToLower(w) {
		case "and", "or":
			if len(group) == 0 {
				divider = append(divider, strings.ToUpper(w))
			} else {
				group = append(group, strings.ToUpper(w))
			}
		case ",":
			if len(group)%2 == 0 {
				return "", errNotSynopsis
			}
			e := strings.Join(group, " ")
			if len(group) > 1 && i < len(words) || len(groups) > 0 && len(group) > 1 {
				e = "(" + e + ")"
			}
			groups, group = append(groups, e), nil
		default:
			if len(group)%2 == 1 {
				return "", errNotSynopsis
			}
			group = append(group, id(w))
		}
	}
	if len(divider) != len(groups)-1 {
		return "", errNotSynopsis
	}
	out := groups[0]
	for i, d := range divider {
		out += " " + d + " " + groups[i+1]
	}
	return out, nil
}

var errNotSynopsis = errors.New("no license synopsis")

var unclean = regexp.MustCompile(`[^A-Za-z0-9.]+`)

// cleanID makes text a part of an SPDX identifier.
func cleanID(text string) string {
	const most = 60
	text = strings.Trim(unclean.ReplaceAllString(text, "-"), "-")
	return text[:min(len(text), most)]
}
