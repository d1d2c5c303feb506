package api

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
)

// Fingerprint is the short form of a public key that people compare: the
// first 80 bits of its SHA-256 as four groups of four base32 letters, for
// example k7qx-3fza-mm2d-5yth.
func Fingerprint(pub []byte) string {
	sum := sha256.Sum256(pub)
	return shortForm(sum[:])
}

// Pin is the long form that programs compare: the SHA-256 of the public key
// in hexadecimal.
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
