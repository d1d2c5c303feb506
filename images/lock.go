package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// LockSchema is the version of the lock's format. A reader refuses a higher
// one.
const LockSchema = 1

// maxLock bounds what ParseLock reads. A userland of 5,000 packages is below
// 3 MB.
const maxLock = 16 << 20

// Role says what a locked package is used for.
type Role string

// The roles of packages.
const (
	RoleKernel   Role = "kernel"
	RoleLoader   Role = "loader"   // network boot programs
	RoleFirmware Role = "firmware" // files for devices
	RoleMedium   Role = "medium"   // boot loaders of CDs and sticks
	RoleUKI      Role = "uki"      // boot stub of UEFI programs
	RoleUserland Role = "userland" // programs that tasks see
)

// MediumPackages are the packages with the boot loaders of CDs and sticks. A
// lock has those that the archive has, whatever media a definition asks for: its media have
// no influence on the image ID.
func MediumPackages() []string {
	return []string{"grub-efi-amd64-signed", "isolinux", "shim-helpers-amd64-signed", "shim-signed", "syslinux-common"}
}

// UKIPackages are the packages with the boot stub of a UKI. A lock has them like
// [MediumPackages].
func UKIPackages() []string { return []string{"systemd-boot-efi"} }

// Lock pins every package that an image is built from. Two builds from one
// lock take the same packages, wherever and whenever they run. It is kept beside the
// artifacts, or in git beside the definition.
type Lock struct {
	Schema  int    `json:"schema"`
	Request string `json:"request_sha256"` // [Definition.RequestHash] of what it was made for
	// Asked is what it was made for in words, which say what is wrong when Request
	// differs. It may be nil.
	Asked *Request `json:"asked,omitempty"`
	Name  string   `json:"name"` // of that definition
	Arch  string   `json:"arch"`
	Suite string   `json:"suite"`
	// Date is that of the newest of the archive's indexes that the versions
	// come from: what a dated snapshot of the archive is asked for, and the
	// time of all files in the artifacts.
	Date     time.Time       `json:"date"`
	Packages []LockedPackage `json:"packages"` // sorted by name
	// Sources are those of the userland beside packages, in the order of [Definition.Stack].
	Sources []LockedSource `json:"sources,omitempty"`
}

// LockedPackage is one package file, exactly.
type LockedPackage struct {
	Name          string `json:"name"`
	Version       string `json:"version"`
	Arch          string `json:"arch"`
	Source        string `json:"source"`
	SourceVersion string `json:"source_version"`
	// BuiltUsing names further sources that the package was made from, as Debian's
	// field Built-Using: that of a signed kernel is "linux (= 6.12.57-1)".
	BuiltUsing string `json:"built_using,omitempty"`
	Role       Role   `json:"role"`
	Suite      string `json:"suite"` // that it was found in: trixie-security
	Path       string `json:"path"`  // below the base URL of a mirror of that suite
	Size       int64  `json:"size"`
	SHA256     string `json:"sha256"`
	// File is where a package of the site's own is, as the definition says it; then Suite is
	// [LocalSuite] and Path only tells it from others.
	File string `json:"file,omitempty"`
}

// Package returns p as a manifest lists it.
func (p LockedPackage) Package() Package {
	return Package{Name: p.Name, Version: p.Version, Source: p.Source, SourceVersion: p.SourceVersion, SHA256: p.SHA256}
}

// ByRole returns the packages with role r, in the order of the lock.
func (l *Lock) ByRole(r Role) []LockedPackage {
	var out []LockedPackage
	for _, p := range l.Packages {
		if p.Role == r {
			out = append(out, p)
		}
	}
	return out
}

// Encode returns the one text form of l.
func (l *Lock) Encode() []byte {
	c := *l
	c.Packages = slices.SortedFunc(slices.Values(l.Packages), func(a, b LockedPackage) int { return strings.Compare(a.Name, b.Name) })
	b, err := json.MarshalIndent(&c, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("encoding lock: %v", err)) // plain data only
	}
	return append(b, '\n')
}

// Hash returns the SHA-256 of the text form, in hexadecimal.
func (l *Lock) Hash() string {
	sum := sha256.Sum256(l.Encode())
	return hex.EncodeToString(sum[:])
}

// ParseLock reads a lock. name is used in errors.
func ParseLock(name string, data []byte) (*Lock, error) {
	l := &Lock{}
	if err := decodeStrict(data, maxLock, l); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return l, nil
}

var sha256RE = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (l *Lock) check() error {
	switch {
	case l.Schema > LockSchema:
		return fmt.Errorf("format %d is newer than this program, which knows %d; update muster", l.Schema, LockSchema)
	case l.Schema < 1:
		return errors.New("has no schema; it is not a lock of muster")
	case !sha256RE.MatchString(l.Request):
		return fmt.Errorf("request_sha256 %q is no SHA-256", l.Request)
	case l.Date.IsZero():
		return errors.New("has no date")
	case len(l.ByRole(RoleKernel)) == 0 && (l.Asked == nil || l.Asked.Kernel != ""): // else it is a file of the host
		return errors.New("has no package of a kernel")
	}
	seen := make(map[string]bool)
	for _, p := range l.Packages {
		if err := p.check(); err != nil {
			return err
		}
		if seen[p.Name] {
			return fmt.Errorf("package %s is there twice", p.Name)
		}
		seen[p.Name] = true
	}
	for _, s := range l.Sources {
		if err := s.check(); err != nil {
			return err
		}
	}
	return nil
}

func (p LockedPackage) check() error {
	switch {
	case !packageRE.MatchString(p.Name):
		return fmt.Errorf("%q cannot be the name of a Debian package", p.Name)
	case p.Version == "" || p.Arch == "" || p.Suite == "":
		return fmt.Errorf("package %s: version, arch and suite have to be there", p.Name)
	case !sha256RE.MatchString(p.SHA256):
		return fmt.Errorf("package %s: sha256 %q is no SHA-256", p.Name, p.SHA256)
	case p.Size <= 0:
		return fmt.Errorf("package %s: size is %d", p.Name, p.Size)
	case p.Path == "" || p.Path != path.Clean(p.Path) || path.IsAbs(p.Path) || strings.HasPrefix(p.Path, ".."):
		return fmt.Errorf("package %s: path %q does not stay below the mirror", p.Name, p.Path)
	}
	return nil
}

// decodeStrict decodes one JSON value of known fields and nothing behind it.
func decodeStrict(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("is larger than %d MiB", limit>>20)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return atLine(data, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("has something behind its end")
	}
	return nil
}

// atLine adds the line to a JSON error that knows where it is.
func atLine(data []byte, err error) error {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	var offset int64
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typ):
		offset = typ.Offset
	default:
		return err
	}
	offset = max(0, min(offset, int64(len(data))))
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:offset], []byte("\n")), err)
}
