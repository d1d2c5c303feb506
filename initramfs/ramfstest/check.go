package ramfstest

import (
	"fmt"
	"testing"

	"muster/initramfs"
)

// Types of files as in stat(2).
const (
	typeMask = 0o170000
	regular  = 0o100000
	folder   = 0o040000
	symlink  = 0o120000
)

// A Validator says what is wrong with an archive, or returns nil.
type Validator func(*initramfs.Archive) error

// Check marks the test as failed with every complaint of the validators.
func Check(t testing.TB, a *initramfs.Archive, validators ...Validator) {
	t.Helper()
	for _, v := range validators {
		if err := v(a); err != nil {
			t.Error(err)
		}
	}
}

// HasFile wants a regular file with exactly these permissions.
func HasFile(path string, mode uint32) Validator { return has(path, regular|mode) }

// HasDir wants a directory with exactly these permissions.
func HasDir(path string, mode uint32) Validator { return has(path, folder|mode) }

func has(path string, mode uint32) Validator {
	return func(a *initramfs.Archive) error {
		r := a.Find(path)
		if r == nil {
			return fmt.Errorf("%s is not in the archive", path)
		}
		if r.Mode != mode {
			return fmt.Errorf("%s has mode %#o, want %#o", path, r.Mode, mode)
		}
		return nil
	}
}

// HasOwner wants a path to belong to a user and a group.
func HasOwner(path string, uid, gid uint32) Validator {
	return func(a *initramfs.Archive) error {
		r := a.Find(path)
		if r == nil {
			return fmt.Errorf("%s is not in the archive", path)
		}
		if r.UID != uid || r.GID != gid {
			return fmt.Errorf("%s belongs to %d:%d, want %d:%d", path, r.UID, r.GID, uid, gid)
		}
		return nil
	}
}

// HasContent wants a file with this content.
func HasContent(path, content string) Validator {
	return func(a *initramfs.Archive) error {
		got, err := a.Content(path)
		if err != nil {
			return err
		}
		if string(got) != content {
			return fmt.Errorf("%s has %d bytes %.80q, want %d bytes %.80q", path, len(got), got, len(content), content)
		}
		return nil
	}
}

// HasLink wants a symbolic link with this text.
func HasLink(path, target string) Validator {
	return func(a *initramfs.Archive) error {
		r := a.Find(path)
		if r == nil {
			return fmt.Errorf("%s is not in the archive", path)
		}
		if r.Mode&typeMask != symlink || r.Target != target {
			return fmt.Errorf("%s has mode %#o and target %q, want a symbolic link to %q", path, r.Mode, r.Target, target)
		}
		return nil
	}
}

// Missing wants nothing at path.
func Missing(path string) Validator {
	return func(a *initramfs.Archive) error {
		if r := a.Find(path); r != nil {
			return fmt.Errorf("%s is in the archive (mode %#o), and should not be", path, r.Mode)
		}
		return nil
	}
}
