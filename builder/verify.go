package builder

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"muster/builder/hybrid"
	"muster/builder/squashfs"
	"muster/builder/verity"
	"muster/images"
	"muster/initramfs"
)

// Checked is a file that was found to be what it should be.
type Checked struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // of artifact
	What string `json:"what"` // for people
	// Against says what it was compared with: the manifest, the list that is in it, or its
	// signature; "": with nothing, it could be read.
	Against string  `json:"against"`
	Medium  *Medium `json:"medium,omitempty"`
	// Signature is that of a UKI, or of the one on a disk; nil: it has none.
	Signature *Signature `json:"signature,omitempty"`

	signer *x509.Certificate
}

const (
	againstManifest = "manifest"
	againstList     = "its own list"
)

// Verify reads an artifact, a folder with an image, or a stick, and checks all
// of its structure and contents. Nothing is booted and nothing is changed. The error names
// everything that differs.
func Verify(name string) ([]Checked, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !isReadable(fi) {
		return nil, fmt.Errorf("verifying %s: is neither a file nor a folder nor a disk", name)
	}
	if fi.Mode().IsRegular() && filepath.Base(name) == manifestName {
		name = filepath.Dir(name)
		if fi, err = os.Stat(name); err != nil {
			return nil, err
		}
	}
	if fi.IsDir() {
		return verifyFolder(name)
	}
	m, err := manifestBeside(name)
	if err != nil {
		return nil, err
	}
	if m != nil {
		for _, a := range m.Artifacts {
			if a.Name == filepath.Base(name) {
				c, err := verifyArtifact(filepath.Dir(name), m, a)
				if err != nil {
					return nil, err
				}
				return []Checked{c}, nil
			}
		}
	}
	if m != nil && filepath.Base(name) == lockName {
		c, err := verifyFolderLock(filepath.Dir(name), m)
		if err != nil {
			return nil, err
		}
		return []Checked{c}, nil
	}
	c := Checked{Name: name, Against: againstList}
	if err := verifyLoose(name, &c); err != nil {
		return nil, fmt.Errorf("verifying %s: %w", name, err)
	}
	return []Checked{c}, nil
}

func readManifest(dir string) (*images.Manifest, error) {
	name := filepath.Join(dir, manifestName)
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return images.ParseManifest(name, text)
}

// manifestBeside returns the manifest in the folder of a regular file, or nil.
func manifestBeside(name string) (*images.Manifest, error) {
	m, err := readManifest(filepath.Dir(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return m, err
}

func verifyFolder(dir string) ([]Checked, error) {
	m, err := readManifest(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is no image: it has no %s, which a build writes last; build it (again) with: muster build", dir, manifestName)
	}
	if err != nil {
		return nil, err
	}
	var out []Checked
	var errs []error
	for _, a := range m.Artifacts {
		c, err := verifyArtifact(dir, m, a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, c)
	}
	c, err := verifyFolderLock(dir, m)
	switch {
	case errors.Is(err, os.ErrNotExist): // it is elsewhere
	case err != nil:
		errs = append(errs, err)
	default:
		out = append(out, c)
	}
	return out, errors.Join(errs...)
}

// verifyArtifact checks a file of an image against its manifest and itself.
func verifyArtifact(dir string, m *images.Manifest, a images.Artifact) (Checked, error) {
	name := filepath.Join(dir, filepath.FromSlash(a.Name))
	c := Checked{Name: name, Kind: string(a.Kind), Against: againstManifest}
	if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("verifying %s: is missing; the manifest lists it", name)
	}
	var err error
	switch a.Kind {
	case images.KindISO:
		err = verifyISO(name, m, a, &c)
	case images.KindUKI, images.KindIMG:
		err = verifyUKI(name, m, a, &c)
	case images.KindInitramfs:
		if err = sameHash(name, a); err == nil {
			c.What, err = verifyInitramfs(name, m)
		}
	case images.KindUserland:
		if err = sameHash(name, a); err == nil {
			c.What, err = verifyUserland(name, a)
		}
	case images.KindModules:
		if err = sameHash(name, a); err == nil {
			c.What, err = verifyModules(dir, name, m)
		}
	case images.KindKernel:
		c.What = "kernel " + m.Kernel
		if err = sameHash(name, a); err == nil {
			err = sameRelease(name, m)
		}
	case images.KindSBOM, images.KindSources:
		c.What = map[images.ArtifactKind]string{images.KindSBOM: "bill of materials, SPDX", images.KindSources: "where the sources are"}[a.Kind]
		err = sameHash(name, a)
	default:
		c.What = strings.TrimSpace(strings.Join([]string{"network boot program", "of", a.Package}, " "))
		err = sameHash(name, a)
	}
	if err != nil {
		return c, fmt.Errorf("verifying %s: %w", name, err)
	}
	return c, nil
}

func sameHash(name string, a images.Artifact) error {
	got, err := hashFile(name)
	switch {
	case err != nil:
		return err
	case got.Size != a.Size:
		return fmt.Errorf("it has %d bytes, the manifest says %d", got.Size, a.Size)
	case got.SHA256 != a.SHA256:
		return fmt.Errorf("its SHA-256 is %s, the manifest says %s", got.SHA256, a.SHA256)
	}
	return nil
}

// verifyInitramfs reads the archive and compares what it says of image and userland with the manifest.
func verifyInitramfs(name string, m *images.Manifest) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	a, err := initramfs.ReadCPIO(f)
	if err != nil {
		return "", err
	}
	id := ""
	var userland []byte
	for _, r := range a.Records {
		switch "/" + r.Path {
		case "/etc/muster/image":
			id = strings.TrimSpace(string(r.Data))
		case images.UserlandFile:
			userland = r.Data
		}
	}
	if id != m.ID {
		return "", fmt.Errorf("it is of image %q, the manifest is of %s", id, m.ID)
	}
	if err := sameUserland(userland, m); err != nil {
		return "", err
	}
	return fmt.Sprintf("initramfs, %d files", len(a.Records)), nil
}

// sameUserland compares what an initramfs says of the userland with the manifest. text is nil
// where it says nothing.
func sameUserland(text []byte, m *images.Manifest) error {
	want, has := m.Userland()
	switch {
	case text == nil && has:
		return fmt.Errorf("it does not say which userland belongs to it: %s is missing", images.UserlandFile)
	case text == nil:
		return nil
	case !has:
		return fmt.Errorf("its %s is of a userland, and the manifest has none", images.UserlandFile)
	}
	var got images.Userland
	if err := json.Unmarshal(text, &got); err != nil {
		return fmt.Errorf("its %s cannot be read: %w", images.UserlandFile, err)
	}
	if mods := got.Modules; mods != nil {
		pack, _ := m.File(images.KindModules)
		if mods.SHA256 != pack.SHA256 || mods.Size != pack.Size {
			return fmt.Errorf("its %s is of the modules %s with %d bytes, the manifest has %s with %d", images.UserlandFile, mods.SHA256, mods.Size, pack.SHA256, pack.Size)
		}
		got.Modules = nil // of which the manifest says no more
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("its %s is of the userland %s with %d bytes in %d pieces, the manifest has %s with %d in %d",
			images.UserlandFile, got.SHA256, got.Size, len(got.Chunks), want.SHA256, want.Size, len(want.Chunks))
	}
	return nil
}

// verifyUserland compares the pieces of a userland with their hashes and reads every file of it.
func verifyUserland(name string, a images.Artifact) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	chunks, err := chunkHashes(f)
	if err != nil {
		return "", err
	}
	for i, sum := range chunks {
		if sum != a.ChunksSHA256[i] {
			return "", fmt.Errorf("the SHA-256 of its piece %d is %s, the manifest says %s", i, sum, a.ChunksSHA256[i])
		}
	}
	files, err := readWholeUserland(name)
	if v := a.Verity; v != nil && err == nil {
		err = verity.Check(context.Background(), f, a.Size, verity.Tree{Root: v.Root, Blocks: v.Blocks, Size: a.Size})
	}
	return fmt.Sprintf("userland, squashfs, %d files, nodes from %d MiB", files, a.Userland().MemoryMiB), err
}

// readWholeUserland reads every file of a squashfs and returns how many there are.
func readWholeUserland(name string) (int, error) {
	files := 0
	err := readUserland(name, func(f squashfs.File) error {
		if f.Content == nil {
			return nil
		}
		files++
		n, err := io.Copy(io.Discard, f.Content)
		if err == nil && n != f.Size {
			err = fmt.Errorf("/%s has %d bytes and says %d", f.Path, n, f.Size)
		}
		return err
	})
	return files, err
}

// verifyModules compares the modules that nodes fetch with the index in the userland.
func verifyModules(dir, name string, m *images.Manifest) (string, error) {
	u, ok := m.File(images.KindUserland)
	if !ok {
		return "", errors.New("there is no userland, which has its index")
	}
	index, err := packIndex(filepath.Join(dir, filepath.FromSlash(u.Name)), m.Kernel)
	if err != nil {
		return "", fmt.Errorf("reading its index in the userland: %w", err)
	}
	return verifyPack(name, index)
}

// verifyISO checks a medium with the manifest beside it. Where its hash differs, the medium's
// own list finds out which file it is.
func verifyISO(name string, m *images.Manifest, a images.Artifact, c *Checked) error {
	if _, err := verifyAlone(name, c); err != nil {
		return err
	}
	c.Against = againstManifest
	if err := sameMedium(m, a, c); err != nil {
		return err
	}
	if a.Site == nil {
		return errors.New("the manifest does not say where its site segment is")
	}
	return sameWithoutSite(name, a)
}

// sameMedium checks that a medium is of this kind and of this image.
func sameMedium(m *images.Manifest, a images.Artifact, c *Checked) error {
	switch {
	case c.Kind != string(a.Kind):
		return fmt.Errorf("the manifest says that it is of kind %s, it is of kind %s", a.Kind, c.Kind)
	case c.Medium.ID != m.ID:
		return fmt.Errorf("it is of image %s, the manifest is of %s", c.Medium.ID, m.ID)
	}
	return nil
}

// sameWithoutSite compares the hash of a medium whose parts are all as they should be.
func sameWithoutSite(name string, a images.Artifact) error {
	sum, _, err := hashMedium(name, *a.Site)
	switch {
	case err != nil:
		return err
	case sum.Size != a.Size:
		return fmt.Errorf("it has %d bytes, the manifest says %d", sum.Size, a.Size)
	case sum.SHA256 != a.SHA256:
		return fmt.Errorf("its SHA-256 without the site segment is %s, the manifest says %s; all files on it are as they should be, so the difference is "+
			"in its boot code, tables or directories", sum.SHA256, a.SHA256)
	}
	return nil
}

// verifyAlone checks a medium against what it says of itself.
func verifyAlone(name string, c *Checked) (*opened, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	o, err := openMedium(f)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(o.compare(), o.siteErr); err != nil {
		return nil, err
	}
	c.Kind, c.Medium, c.What = string(o.kind), &o.Medium, o.what
	if o.uki == nil {
		return o, nil
	}
	return o, c.readSignature(o.uki)
}

func readMediumList(im *hybrid.Image) (*mediumFileList, error) {
	text, err := mediumData(im, mediumList, maxMediumList)
	if err != nil {
		return nil, err
	}
	var list mediumFileList
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&list); err != nil {
		return nil, fmt.Errorf("its list of files, %s, cannot be read: %w", mediumList, err)
	}
	if list.Schema != mediumListSchema {
		return nil, fmt.Errorf("its list of files, %s, has format %d, this program knows %d; update muster", mediumList, list.Schema, mediumListSchema)
	}
	return &list, nil
}

func mediumData(im *hybrid.Image, name string, limit int64) ([]byte, error) {
	r, err := im.Reader(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", name, r.Size(), limit)
	}
	return io.ReadAll(r)
}

// compareMedium names every file that is not as the list says.
func compareMedium(im *hybrid.Image, list *mediumFileList) error {
	known := map[string]bool{mediumSite: true, mediumList: true, "efi/esp.img": true, "boot/isolinux/boot.cat": true}
	var errs []error
	for _, want := range list.Files {
		known[want.Path] = true
		errs = append(errs, compareMediumFile(im, want))
	}
	for name := range im.Files {
		if !known[name] {
			errs = append(errs, fmt.Errorf("%s is on it and should not be", name))
		}
	}
	esp := make(map[string]bool)
	for _, want := range list.ESP {
		esp[want.Path] = true
		got, ok := im.ESP[want.Path]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("%s is missing in its UEFI partition", want.Path))
		case hashBytes(got) != want.SHA256:
			errs = append(errs, fmt.Errorf("%s in its UEFI partition differs: its SHA-256 is %s, should be %s", want.Path, hashBytes(got), want.SHA256))
		}
	}
	for name := range im.ESP {
		if !esp[name] {
			errs = append(errs, fmt.Errorf("%s is in its UEFI partition and should not be", name))
		}
	}
	return errors.Join(errs...)
}

func compareMediumFile(im *hybrid.Image, want mediumFile) error {
	r, err := im.Reader(want.Path)
	if err != nil {
		return fmt.Errorf("%s is missing", want.Path)
	}
	got := ""
	if want.Path == mediumBoot {
		data, err := mediumData(im, want.Path, 16<<20)
		if err != nil {
			return err
		}
		got = hashOnMedium(want.Path, data)
	} else {
		sum, err := hashReader(r)
		if err != nil {
			return err
		}
		got = sum.SHA256
	}
	if got != want.SHA256 {
		return fmt.Errorf("%s differs: its SHA-256 is %s, should be %s", want.Path, got, want.SHA256)
	}
	return nil
}
