package nodeagent

import (
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"

	"muster/api"
)

// sessionKey is the ed25519 key that a machine is known by until it boots
// again.
type sessionKey struct {
	pair        nkeys.KeyPair
	public      string // "U..."
	fingerprint string
}

// loadKey reads the session key of dir, or makes it. A key that is there but
// cannot be read is an error: a new one would make this machine a stranger.
func loadKey(dir string) (sessionKey, error) {
	file := filepath.Join(dir, "key")
	seed, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		seed, err = makeKey(file)
	}
	if err != nil {
		return sessionKey{}, fmt.Errorf("reading session key: %w", err)
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return sessionKey{}, fmt.Errorf("reading session key %s: %w; remove it to start as a new machine", file, err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return sessionKey{}, fmt.Errorf("reading session key %s: %w", file, err)
	}
	fp, err := keyFingerprint(public)
	if err != nil {
		return sessionKey{}, fmt.Errorf("reading session key %s: %w", file, err)
	}
	return sessionKey{pair: pair, public: public, fingerprint: fp}, nil
}

func makeKey(file string) ([]byte, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return seed, writeFile(file, seed, 0o600)
}

// keyFingerprint is the short form of a public nkey, over its 32 key bytes.
func keyFingerprint(public string) (string, error) {
	raw, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(public))
	if err != nil {
		return "", fmt.Errorf("decoding public key: %w", err)
	}
	return api.Fingerprint(raw), nil
}

// A pinError tells that a head is not the one that the image names.
type pinError struct{ want, got string }

func (e *pinError) Error() string {
	return fmt.Sprintf("the head's key %s is not the pinned %s", short(e.got), short(e.want))
}

func short(pin string) string {
	if len(pin) > 16 {
		return pin[:16] + "..."
	}
	return pin
}

// headKey is the public key of a head's certificate, in the form that its pin
// and its fingerprint are made of.
func headKey(cs tls.ConnectionState) ([]byte, error) {
	if len(cs.PeerCertificates) == 0 {
		return nil, errors.New("the head showed no certificate")
	}
	return cs.PeerCertificates[0].RawSubjectPublicKeyInfo, nil
}

// tlsConfig verifies the head by its key alone: TLS 1.3 proves that it holds
// the key, and nothing else in the certificate says anything. seen gets the
// key once it is accepted.
func tlsConfig(pin string, seen func(pub []byte)) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // the chain; VerifyConnection checks the key
		VerifyConnection: func(cs tls.ConnectionState) error {
			pub, err := headKey(cs)
			if err != nil {
				return err
			}
			if got := api.Pin(pub); pin != "" && got != pin {
				return &pinError{want: pin, got: got}
			}
			seen(pub)
			return nil
		},
	}
}

func validPin(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

// rememberedPin returns the pin of the head that this boot has met, or "".
func rememberedPin(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "head"))
	if pin := strings.TrimSpace(string(b)); err == nil && validPin(pin) {
		return pin
	}
	return ""
}

func rememberPin(dir, pin string) error {
	if err := writeFile(filepath.Join(dir, "head"), []byte(pin+"\n"), 0o600); err != nil {
		return fmt.Errorf("remembering the head: %w", err)
	}
	return nil
}

// writeFile writes a file as a whole or not at all. It does not sync: what it
// writes ends with the boot.
func writeFile(file string, b []byte, mode os.FileMode) error {
	tmp := file + ".new"
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
