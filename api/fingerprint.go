package api

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
)

// Two kinds of public keys are shown and compared, each by the bytes that
// both sides can take from what they have:
//
//	head  the DER form of its SubjectPublicKeyInfo (RFC 5280 4.1), as
//	      x509.Certificate.RawSubjectPublicKeyInfo has it
//	node  the 32 raw bytes of the ed25519 key inside its public nkey, as
//	      nkeys.Decode(nkeys.PrefixByteUser, key) returns them

// Fingerprint is the short form of a public key that people compare: the
// first 80 bits of its SHA-256 as four groups of four base32 letters, for
// example k7qx-3fza-mm2d-5yth.
func Fingerprint(pub []byte) string {
	sum := sha256.Sum256(pub)
	return shortForm(sum[:])
}

// Pin is the long form that programs compare: the SHA-256 of the public key
// in hexadecimal. muster.pin= on a kernel command line carries the head's.
func Pin(pub []byte) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:])
}

// FingerprintOfPin is the [Fingerprint] of the key that a [Pin] stands for, or
// "" where pin is none.
func FingerprintOfPin(pin string) string {
	sum, err := hex.DecodeString(pin)
	if err != nil || len(sum) != sha256.Size {
		return ""
	}
	return shortForm(sum)
}

func shortForm(sum []byte) string {
	s := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
	return s[0:4] + "-" + s[4:8] + "-" + s[8:12] + "-" + s[12:16]
}

// IsFingerprint tells whether text has the form of a [Fingerprint].
func IsFingerprint(text string) bool {
	groups := strings.Split(text, "-")
	for _, g := range groups {
		if len(g) != 4 || strings.Trim(g, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			return false
		}
	}
	return len(groups) == 4
}
