package images

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed keys/debian-archive-keyring.gpg
var debianKeys []byte

//go:embed keys/ubuntu-archive-keyring.gpg
var ubuntuKeys []byte

// Origin is who publishes an archive, as its Release file says.
type Origin string

// The origins that muster has keys of.
const (
	Debian Origin = "Debian"
	Ubuntu Origin = "Ubuntu"
)

// suites lists the releases that can be the base of an image. An entry is added when
// its kernel was booted.
var suites = map[string]Origin{
	"bookworm": Debian,
	"trixie":   Debian,
	"forky":    Debian,
	"noble":    Ubuntu,
}

// OriginOf returns who publishes suite, or an error that names the suites that
// are known.
func OriginOf(suite string) (Origin, error) {
	if o, ok := suites[suite]; ok {
		return o, nil
	}
	known := sortedKeys(suites)
	return "", fmt.Errorf("suite %q is not known%s; known are: %s",
		suite, didYouMean(suite, known), strings.Join(known, ", "))
}

// Keyring returns the OpenPGP keys, in binary form, that sign the archives of
// an origin; nil for one that muster has no keys of.
func Keyring(o Origin) []byte {
	switch o {
	case Debian:
		return slices.Clone(debianKeys)
	case Ubuntu:
		return slices.Clone(ubuntuKeys)
	}
	return nil
}
