package uki

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Signer is a key with its certificate.
type Signer struct {
	// Chain is the certificate of the key, and those that others signed it with, which go
	// into signatures. Firmware has to know one of them.
	Chain []*x509.Certificate
	key   *rsa.PrivateKey
}

// Sizes of keys, in bits. Firmware has to know 2048 (UEFI 2.10, 32.3.3).
const (
	leastKey = 2048
	mostKey  = 4096
)

// NewSigner takes a key (PEM, PKCS#1 or PKCS#8) and its certificate (PEM, in which more may follow, or
// DER). The names of both are for errors, each of which is about what a person gave.
func NewSigner(keyName string, key []byte, certName string, cert []byte) (*Signer, error) {
	private, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", keyName, err)
	}
	chain, err := ParseCertificates(cert)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", certName, err)
	}
	public, ok := chain[0].PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("certificate %s: it is for a key of type %v; firmware checks RSA", certName, chain[0].PublicKeyAlgorithm)
	}
	if !public.Equal(&private.PublicKey) {
		return nil, fmt.Errorf("key %s is not that of certificate %s (%s): its public key is %s, the certificate has %s",
			keyName, certName, chain[0].Subject, publicName(&private.PublicKey), publicName(public))
	}
	return &Signer{Chain: chain, key: private}, nil
}

// Name is the subject of the certificate.
func (s *Signer) Name() string { return s.Chain[0].Subject.String() }

// Fingerprint is the SHA-256 of a certificate, in hexadecimal.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Warning says what may be wrong with the certificate at a time; "" where nothing is. Firmware has
// no clock that it trusts and takes expired certificates; tools may not.
func (s *Signer) Warning(now time.Time) string {
	switch c := s.Chain[0]; {
	case now.After(c.NotAfter):
		return fmt.Sprintf("the certificate %s expired on %s; firmware does not look at that, other programs may", c.Subject, c.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(c.NotBefore):
		return fmt.Sprintf("the certificate %s is not valid before %s", c.Subject, c.NotBefore.UTC().Format(time.DateOnly))
	}
	return ""
}

func publicName(k *rsa.PublicKey) string {
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(k))
	return fmt.Sprintf("RSA-%d %x…", k.N.BitLen(), sum[:6])
}

func parseKey(text []byte) (*rsa.PrivateKey, error) {
	block := findPEM(text, "PRIVATE KEY")
	if block == nil {
		return nil, errors.New("there is no private key in it; want PEM, a text with BEGIN PRIVATE KEY")
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return nil, errEncrypted
		}
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errEncrypted
	default:
		return nil, fmt.Errorf("it is an %s; firmware checks RSA", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is of type %T; firmware checks RSA", key)
	}
	if bits := private.N.BitLen(); bits < leastKey || bits > mostKey {
		return nil, fmt.Errorf("it has %d bits; want %d to %d, and 2048 is what all firmware takes", bits, leastKey, mostKey)
	}
	return private, nil
}

var errEncrypted = errors.New("it is encrypted; write it without password where only the build can read it: openssl pkey -in FILE -out PLAIN")

// ParseCertificates reads certificates, PEM or DER; at least one.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	raw := data
	if bytes.Contains(data, []byte("-----BEGIN")) {
		raw = nil
		for rest := data; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type == "CERTIFICATE" {
				raw = append(raw, block.Bytes...)
			}
		}
	}
	chain, err := x509.ParseCertificates(raw)
	if err != nil || len(chain) == 0 {
		return nil, errors.Join(errors.New("there is no certificate in it; want PEM, a text with BEGIN CERTIFICATE, or DER"), err)
	}
	return chain, nil
}

// findPEM returns the first block whose type ends in suffix.
func findPEM(text []byte, suffix string) *pem.Block {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil || bytes.HasSuffix([]byte(block.Type), []byte(suffix)) {
			return block
		}
	}
}
