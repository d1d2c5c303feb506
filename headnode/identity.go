package headnode

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"muster/api"
	"muster/headnode/store"
)

// Identity is the head's key and the certificate that it signed itself.
// Agents and users know it by its pin alone.
type Identity struct {
	Cert        tls.Certificate
	Pin         string // api.Pin of the DER SubjectPublicKeyInfo
	Fingerprint string // the short form, which people compare
}

// headKeyFile holds the key, as PKCS #8 in PEM; the certificate is made anew
// from it at each start.
const headKeyFile = "head.key"

// OpenIdentity reads the head's key from dir, and makes dir (0700) and the key
// (0600) when the key is not there. A key that cannot be read is an error and
// is never replaced, because every image and node knows its pin.
func OpenIdentity(dir string) (*Identity, error) {
	path := filepath.Join(dir, headKeyFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if b, err = makeHeadKey(path); err != nil {
			return nil, fmt.Errorf("making the head's key: %w", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the head's key: %w", err)
	}
	key, err := parseHeadKey(b)
	if err != nil {
		return nil, fmt.Errorf("reading the head's key %s: %w; put it back from a backup, or remove it and boot every node again", path, err)
	}
	return newIdentity(key)
}

// TLS is the configuration of a listener that shows this identity.
func (i *Identity) TLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{i.Cert}, MinVersion: tls.VersionTLS13}
}

func makeHeadKey(path string) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return b, store.WriteFileDurable(path, b, 0o600)
}

func parseHeadKey(b []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("it is no PEM file")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, want an ed25519 key", key)
	}
	return ed, nil
}

// newIdentity signs the certificate. Its dates are as wide as X.509 allows
// (RFC 5280 4.1.2.5): a node without a battery starts in 1970.
func newIdentity(key crypto.Signer) (*Identity, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "muster head"},
		DNSNames:     []string{"muster-head"},
		NotBefore:    time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the head's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("signing the head's certificate: %w", err)
	}
	return &Identity{
		Cert:        tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		Pin:         api.Pin(leaf.RawSubjectPublicKeyInfo),
		Fingerprint: api.Fingerprint(leaf.RawSubjectPublicKeyInfo),
	}, nil
}
