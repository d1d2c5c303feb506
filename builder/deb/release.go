package deb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Errors about an InRelease file that a caller may ask for.
var (
	// ErrSignature: no key that is trusted made a good signature.
	ErrSignature = errors.New("signature is not good")
	// ErrExpired: the file was meant to be used until a time that is past.
	ErrExpired = errors.New("is out of date")
)

// futureTolerance is how far a host's clock may be behind the archive's.
const futureTolerance = 24 * time.Hour

// Release is what an archive says of one suite.
type Release struct {
	Origin     string
	Suite      string // stable, stable-security
	Codename   string // trixie, trixie-security
	Date       time.Time
	ValidUntil time.Time // zero: for ever
	ByHash     bool      // indexes can be fetched by their hash
	Components []string
	Arches     []string
	Files      map[string]FileHash // by path below dists/SUITE
}

// FileHash is size and hash of a file.
type FileHash struct {
	Size   int64
	SHA256 string
}

// VerifyInRelease checks the signature of an InRelease file with keyring
// (OpenPGP keys in binary form) and reads what it signs. An error about the
// signature wraps [ErrSignature].
func VerifyInRelease(data, keyring []byte, now time.Time) (*Release, error) {
	signed, err := verifyClearsigned(data, keyring, now)
	if err != nil {
		return nil, err
	}
	return parseRelease(signed)
}

// verifyClearsigned returns the signed text. An archive signs with several
// keys, old and new; one good signature is enough.
func verifyClearsigned(data, keyring []byte, now time.Time) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, fmt.Errorf("%w: it is no signed message", ErrSignature)
	}
	keys, err := openpgp.ReadKeyRing(bytes.NewReader(keyring))
	if err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	block, rest := clearsign.Decode(data)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: the signed message is damaged", ErrSignature)
	}
	armored, err := io.ReadAll(io.LimitReader(block.ArmoredSignature.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	sigs, ids, err := splitSignatures(armored)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	config := &packet.Config{Time: func() time.Time { return now }}
	var errs []error
	for _, sig := range sigs {
		_, err := openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), bytes.NewReader(sig), config)
		if err == nil {
			return block.Plaintext, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%w: signed by %s: %w", ErrSignature, strings.Join(ids, ", "), errors.Join(errs...))
}

// splitSignatures takes the signatures of one armor block apart, with the IDs of
// the keys that made them.
func splitSignatures(data []byte) (sigs [][]byte, ids []string, err error) {
	r := bytes.NewReader(data)
	packets := packet.NewReader(r)
	for {
		start := len(data) - r.Len()
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		sig, ok := p.(*packet.Signature)
		if !ok {
			return nil, nil, fmt.Errorf("there is a %T where signatures are", p)
		}
		sigs = append(sigs, data[start:len(data)-r.Len()])
		if sig.IssuerKeyId != nil {
			ids = append(ids, fmt.Sprintf("%016X", *sig.IssuerKeyId))
		}
	}
	if len(sigs) == 0 {
		return nil, nil, errors.New("there is no signature")
	}
	return sigs, ids, nil
}

// parseRelease reads the text of a Release file.
func parseRelease(text []byte) (*Release, error) {
	s, err := ParseStanza(text)
	if err != nil {
		return nil, fmt.Errorf("reading Release: %w", err)
	}
	r := &Release{
		Origin: s.Field("Origin"), Suite: s.Field("Suite"), Codename: s.Field("Codename"),
		ByHash:     s.Field("Acquire-By-Hash") == "yes",
		Components: strings.Fields(s.Field("Components")),
		Arches:     strings.Fields(s.Field("Architectures")),
	}
	if r.Date, err = parseDate(s.Field("Date")); err != nil {
		return nil, fmt.Errorf("reading Release: Date: %w", err)
	}
	if v := s.Field("Valid-Until"); v != "" {
		if r.ValidUntil, err = parseDate(v); err != nil {
			return nil, fmt.Errorf("reading Release: Valid-Until: %w", err)
		}
	}
	if r.Files, err = parseFiles(s.Field("SHA256")); err != nil {
		return nil, fmt.Errorf("reading Release: SHA256: %w", err)
	}
	return r, nil
}

func parseDate(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC1123, "Mon, _2 Jan 2006 15:04:05 MST", time.RFC1123Z} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no date", s)
}

var sha256RE = regexp.MustCompile(`^[0-9a-f]{64}$`)

// parseFiles reads the lines "HASH SIZE PATH" of a checksum field.
func parseFiles(text string) (map[string]FileHash, error) {
	files := make(map[string]FileHash)
	for line := range strings.SplitSeq(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 || !sha256RE.MatchString(f[0]) {
			return nil, fmt.Errorf("%.80q is not a hash, a size and a path", line)
		}
		size, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("size %q of %s", f[1], f[2])
		}
		if f[2] != path.Clean(f[2]) || path.IsAbs(f[2]) || strings.HasPrefix(f[2], "..") {
			return nil, fmt.Errorf("path %q does not stay in its suite", f[2])
		}
		files[f[2]] = FileHash{Size: size, SHA256: f[0]}
	}
	return files, nil
}

// check says why r is not to be used for suite and arch at time now.
func (r *Release) check(suite, arch string, now time.Time) error {
	switch {
	case r.Codename != suite && r.Suite != suite:
		return fmt.Errorf("it is of suite %s (%s), not of %s", r.Codename, r.Suite, suite)
	case !r.ValidUntil.IsZero() && now.After(r.ValidUntil):
		return fmt.Errorf("%w: it was valid until %s and this host's clock says %s; take a mirror that is kept up to date, or set the clock",
			ErrExpired, r.ValidUntil.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case r.Date.After(now.Add(futureTolerance)):
		return fmt.Errorf("it was made at %s, but this host's clock says %s; set the clock",
			r.Date.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case !slices.Contains(r.Arches, arch):
		return fmt.Errorf("it has no packages for %s, only for %s", arch, strings.Join(r.Arches, " "))
	}
	return nil
}
