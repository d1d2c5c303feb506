package images

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

//go:embed compute.yaml compute-vm.yaml mini.yaml
var shipped embed.FS

// Limits of what is read: a definition is text, and its files are held in
// memory.
const (
	maxDefinition = 1 << 20
	maxFile       = 64 << 20
	maxFrom       = 16 // definitions in one chain of from
)

// Shipped returns the names of the definitions that are built in.
func Shipped() []string { return []string{"compute", "compute-vm", "mini"} }

// Load reads a definition with everything it inherits from, and checks it.
//
// ref is the name of a shipped definition, or a path: anything with a slash in it,
// or that ends in .yaml or .yml. Every error names the file, and the line
// where it has one.
func Load(ref string) (*Definition, error) {
	d, origin, err := loadChain(ref, "", nil)
	if err != nil {
		return nil, err
	}
	for i := range d.Files {
		if err := d.Files[i].read(); err != nil {
			return nil, fmt.Errorf("%s: %w", origin, err)
		}
	}
	if err := d.Kernel.read(); err != nil {
		return nil, fmt.Errorf("%s: %w", origin, err)
	}
	if err := d.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", origin, err)
	}
	return d, nil
}

// loadChain loads ref, as it is named in a file of the folder dir, and merges
// it over what it inherits from. chain holds the definitions that led here.
func loadChain(ref, dir string, chain []string) (d *Definition, origin string, err error) {
	origin, data, err := readDefinition(ref, dir)
	if err != nil {
		return nil, origin, err
	}
	for _, c := range chain {
		if c == origin {
			return nil, origin, fmt.Errorf("%s: from: definitions inherit in a circle: %s",
				chain[0], strings.Join(append(chain, origin), " → "))
		}
	}
	if chain = append(chain, origin); len(chain) > maxFrom {
		return nil, origin, fmt.Errorf("%s: from: more than %d definitions inherit from each other", chain[0], maxFrom)
	}
	d, err = Parse(origin, data)
	if err != nil {
		return nil, origin, err
	}
	defDir := filepath.Dir(origin)
	if d.Keyring != "" && !filepath.IsAbs(d.Keyring) {
		d.Keyring = filepath.Join(defDir, d.Keyring)
	}
	for i := range d.Userland {
		d.Userland[i].base = defDir
	}
	d.Kernel.resolve(defDir)
	for i := range d.Files {
		f := &d.Files[i]
		f.Source, f.From, f.Tar = beside(defDir, f.Source), beside(defDir, f.From), beside(defDir, f.Tar)
	}
	for i, c := range d.GoCommands {
		if isRelative(c) {
			d.GoCommands[i] = filepath.Join(defDir, c)
			if !filepath.IsAbs(d.GoCommands[i]) {
				d.GoCommands[i] = "./" + d.GoCommands[i]
			}
		}
	}
	if d.From == "" {
		return merge(&Definition{}, d), origin, nil
	}
	base, _, err := loadChain(d.From, defDir, chain)
	if err != nil {
		return nil, origin, err
	}
	return merge(base, d), origin, nil
}

// readDefinition finds ref and returns how messages shall name it and its text.
func readDefinition(ref, dir string) (origin string, data []byte, err error) {
	if !isPath(ref) {
		data, err := shipped.ReadFile(ref + ".yaml")
		if err != nil {
			return ref, nil, fmt.Errorf("definition %q is not one of those that muster has (%s)%s; a file is named with a slash or by its ending, ./%s.yaml",
				ref, strings.Join(Shipped(), ", "), didYouMean(ref, Shipped()), ref)
		}
		return ref, data, nil
	}
	if !filepath.IsAbs(ref) {
		ref = filepath.Join(dir, ref)
	}
	data, err = readLimited(ref, maxDefinition)
	if err != nil {
		return ref, nil, fmt.Errorf("reading image definition: %w", err)
	}
	return ref, data, nil
}

func isPath(ref string) bool {
	return strings.ContainsRune(ref, '/') || strings.HasSuffix(ref, ".yaml") || strings.HasSuffix(ref, ".yml")
}

func isRelative(p string) bool {
	return strings.HasPrefix(p, "./") || strings.HasPrefix(p, "../")
}

func readLimited(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d MiB", name, limit>>20)
	}
	return data, nil
}

// read sets Data and SHA256 from Content or Source, or Entries and SHA256 from a tree.
func (f *File) read() error {
	if f.IsTree() {
		return f.readAsTree()
	}
	switch {
	case f.Source != "" && f.Content != "":
		return fmt.Errorf("file %s has content and source; give one of them", f.Path)
	case f.Source != "":
		data, err := readLimited(f.Source, maxFile)
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("file %s: source %s does not exist (it is looked for beside the definition)", f.Path, f.Source)
		}
		if err != nil {
			return fmt.Errorf("file %s: reading source: %w", f.Path, err)
		}
		f.Data = data
	default:
		f.Data = []byte(f.Content)
	}
	sum := sha256.Sum256(f.Data)
	f.SHA256 = hex.EncodeToString(sum[:])
	return nil
}

func (f *File) readAsTree() error {
	switch {
	case f.From != "" && f.Tar != "":
		return fmt.Errorf("files: %s has from and tar; give one of them", f.origin())
	case f.From == "" && f.Tar == "":
		return fmt.Errorf("files%s: to %s is of a folder (from) or an archive (tar); a single file has a path", where(f.At), f.To)
	case f.Path != "" || f.Content != "" || f.Source != "":
		return fmt.Errorf("files: %s cannot have path, content or source as well; the folder of the image is given by to", f.origin())
	case f.Mode != 0:
		return fmt.Errorf("files: %s cannot have a mode: a folder's files are 0755 where their owner can execute them and else 0644, an archive's as it says", f.origin())
	case f.To == "":
		return fmt.Errorf("files: %s: to is missing: the folder of the image that it goes to, such as /opt/x, or /", f.origin())
	}
	if err := f.readTree(); err != nil {
		return fmt.Errorf("files: %w", err)
	}
	return nil
}
