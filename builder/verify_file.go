package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"muster/builder/hybrid"
	"muster/builder/uki"
	"muster/images"
	"muster/initramfs"
)

// againstSignature is for a kernel whose signature covers the bytes that it has.
const againstSignature = "its signature"

// errUnknownFile is for a file that does not say of itself what it is.
var errUnknownFile = errors.New("is no file of muster that can be checked by itself, as media, initramfs, userland, kernel and lock can; the other files of an image " +
	"are checked in the folder of their manifest.json")

// isReadable refuses what has no end or would wait for somebody to write: pipes, sockets, terminals.
func isReadable(fi os.FileInfo) bool {
	return fi.Mode().IsRegular() || fi.IsDir() || fi.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice
}

// verifyLoose checks a file that no manifest speaks of by what it says of itself.
func verifyLoose(name string, c *Checked) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 1024)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return err
	}
	head = head[:n]
	switch {
	case n == 0:
		return errors.New("is empty")
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878 3.1.1
		c.Kind, c.Against = string(images.KindInitramfs), againstList
		c.What, err = verifyLooseInitramfs(name)
	case bytes.HasPrefix(head, []byte("hsqs")):
		c.Kind, c.Against = string(images.KindUserland), ""
		var files int
		if files, err = readWholeUserland(name); err == nil {
			c.What = fmt.Sprintf("squashfs, %d files", files)
		}
	case len(head) > headerMagic && bytes.HasPrefix(head[headerMagic:], []byte("HdrS")):
		c.Kind = string(images.KindKernel)
		err = verifyLooseKernel(name, c)
	case head[0] == '{' && bytes.Contains(head, []byte(`"request_sha256"`)):
		c.Kind, c.Against = kindLock, ""
		c.What, _, err = verifyLock(name)
	default:
		if _, err = verifyAlone(name, c); errors.Is(err, hybrid.ErrFormat) || errors.Is(err, errNoUKI) {
			err = fmt.Errorf("%w; it %w", errUnknownFile, err)
		}
	}
	return err
}

func verifyLooseInitramfs(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	a, err := initramfs.ReadCPIO(f)
	if err != nil {
		return "", err
	}
	const listFile = "etc/muster/files"
	escape := strings.NewReplacer("\\", `\\`, "\n", `\n`)
	id, list := "", ""
	var lines []string
	for _, r := range a.Records {
		switch {
		case r.Path == listFile:
			list = string(r.Data)
			continue
		case r.Path == "etc/muster/image":
			id = strings.TrimSpace(string(r.Data))
		}
		if r.Mode&syscall.S_IFMT == syscall.S_IFREG {
			lines = append(lines, fmt.Sprintf("%d /%s", len(r.Data), escape.Replace(r.Path)))
		}
	}
	if id == "" || list == "" {
		return "", fmt.Errorf("is an archive, but no initramfs of muster: etc/muster/image or %s is missing", listFile)
	}
	want := strings.Split(strings.TrimSuffix(list, "\n"), "\n")
	slices.Sort(want)
	slices.Sort(lines)
	if !slices.Equal(want, lines) {
		return "", fmt.Errorf("its files are not those of its list, %s", listFile)
	}
	return fmt.Sprintf("initramfs of image %.12s, %d files", id, len(a.Records)), nil
}

// verifyLooseKernel reads what a kernel says, and its signature where it has one.
func verifyLooseKernel(name string, c *Checked) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKernelFile))
	if err != nil {
		return err
	}
	release, err := kernelRelease(data)
	if err != nil {
		return err
	}
	c.What, c.Against = "kernel "+release+", not signed", ""
	im, err := uki.Parse(data)
	if err != nil {
		return err
	}
	if !im.Signed() {
		return nil
	}
	by, err := im.Signatures()
	if err != nil {
		return err
	}
	c.What, c.Against = fmt.Sprintf("kernel %s, signed by %s", release, by[0].Subject), againstSignature
	return nil
}

// sameRelease compares what a kernel says of itself with the manifest: its modules are found by that. What
// is no kernel for x86 says nothing.
func sameRelease(name string, m *images.Manifest) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	data := make([]byte, 1<<17) // its boot sector and set-up code, which has the text, are at most 255 sectors
	n, err := io.ReadFull(f, data)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return err
	}
	if data = data[:n]; len(data) <= headerMagic+4 || !bytes.HasPrefix(data[headerMagic:], []byte("HdrS")) {
		return nil
	}
	release, err := kernelRelease(data)
	if err == nil && release != m.Kernel {
		err = fmt.Errorf("says that it is %s, the manifest is of %s", release, m.Kernel)
	}
	return err
}

// lockName is the lock that a build writes beside the artifacts, unless it was told of another.
const (
	lockName = "lock.json"
	kindLock = "lock"
)

// verifyLock reads a lock and returns its hash too.
func verifyLock(name string) (what, hash string, err error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", "", err
	}
	l, err := images.ParseLock(name, data)
	if err != nil {
		return "", "", errors.Unwrap(err) // name is said already
	}
	return fmt.Sprintf("lock of %d packages of %s", len(l.Packages), l.Date.UTC().Format(time.DateOnly)), l.Hash(), nil
}

// verifyFolderLock checks the lock beside an image. It has not to be there.
func verifyFolderLock(dir string, m *images.Manifest) (Checked, error) {
	c := Checked{Name: filepath.Join(dir, lockName), Kind: kindLock, Against: againstManifest}
	what, hash, err := verifyLock(c.Name)
	switch {
	case err != nil:
		return c, fmt.Errorf("verifying %s: %w", c.Name, err)
	case hash != m.LockHash:
		return c, fmt.Errorf("verifying %s: is not the lock that this image was built from, whose SHA-256 is %s; build again to have an image of this lock", c.Name, m.LockHash)
	}
	c.What = what
	return c, nil
}
