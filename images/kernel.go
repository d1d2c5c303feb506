package images

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
)

// Kernel says which kernel an image has and how it is started: exactly one of Package, Deb
// and File is given.
type Kernel struct {
	Package string `yaml:"package" json:"package"` // a meta package, or one kernel exactly
	// Deb are files of the host with a kernel and its modules, relative to the definition.
	Deb Paths `yaml:"deb" json:"-"`
	// File is a bzImage of the host, and Modules the folder or archive with lib/modules/RELEASE
	// that belongs to it. Both are relative to the definition.
	File    string `yaml:"file" json:"-"`
	Modules string `yaml:"modules" json:"-"`
	Cmdline string `yaml:"cmdline" json:"cmdline"`

	// Hashes are those of Deb, or of File and then of Modules, after [Load].
	Hashes []string `yaml:"-" json:"own_sha256,omitempty"`
}

// Own says whether the kernel is a file of the host.
func (k Kernel) Own() bool { return len(k.Deb) > 0 || k.File != "" }

// ModulesTree returns Modules as a tree.
func (k Kernel) ModulesTree() (*File, error) {
	fi, err := os.Stat(k.Modules)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return &File{From: k.Modules}, nil
	}
	return &File{Tar: k.Modules}, nil
}

// Paths are one or several files. In YAML it is a name or a list.
type Paths []string

// UnmarshalYAML reads one name, or a list of them.
func (p *Paths) UnmarshalYAML(text []byte) error {
	var list []string
	if err := yaml.Unmarshal(text, &list); err == nil && len(list) > 0 {
		*p = list
		return nil
	}
	var one string
	if err := yaml.Unmarshal(text, &one); err != nil || one == "" {
		return errors.New("give the name of a file, or a list of names")
	}
	*p = Paths{one}
	return nil
}

// mergeKernel lets the child's choice of a kernel take the place of the inherited one.
func mergeKernel(base, child Kernel) Kernel {
	out := child
	if child.Package == "" && !child.Own() && child.Modules == "" {
		out = base
	}
	out.Cmdline = mergeWords(base.Cmdline, child.Cmdline)
	return out
}

// resolve makes the host's files relative to the folder of the definition.
func (k *Kernel) resolve(dir string) {
	for i := range k.Deb {
		k.Deb[i] = beside(dir, k.Deb[i])
	}
	k.File, k.Modules = beside(dir, k.File), beside(dir, k.Modules)
}

// beside is a file that is named in a definition of the folder dir.
func beside(dir, name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// read sets Hashes.
func (k *Kernel) read() error {
	k.Hashes = nil
	for _, name := range append(append([]string{}, k.Deb...), k.File) {
		if name == "" {
			continue
		}
		sum, err := hashFile(name)
		if err != nil {
			return fmt.Errorf("kernel: %w", err)
		}
		k.Hashes = append(k.Hashes, sum)
	}
	if k.Modules == "" {
		return nil
	}
	tree, err := k.ModulesTree()
	if err == nil {
		err = tree.readTree()
	}
	if err != nil {
		return fmt.Errorf("kernel: modules: %w", err)
	}
	k.Hashes = append(k.Hashes, ModulesHash(tree.Entries))
	return nil
}

// ModulesHash is the hash of the files of a tree with modules: make modules_install adds
// links to where the kernel was compiled, which have no influence.
func ModulesHash(entries []TreeEntry) string {
	var files []TreeEntry
	for _, e := range entries {
		if e.Kind == TreeFile {
			files = append(files, TreeEntry{Path: e.Path, Kind: e.Kind, Size: e.Size, SHA256: e.SHA256})
		}
	}
	return TreeHash(files)
}

func hashFile(name string) (string, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s does not exist (it is looked for beside the definition)", name)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func checkKernel(k Kernel) error {
	var ways []string
	for _, w := range []struct {
		key   string
		given bool
	}{{"package", k.Package != ""}, {"deb", len(k.Deb) > 0}, {"file", k.File != ""}} {
		if w.given {
			ways = append(ways, w.key)
		}
	}
	switch {
	case len(ways) == 0:
		return errors.New("kernel: package is missing, such as linux-image-amd64 (or deb, or file and modules), or inherit it with from: compute")
	case len(ways) > 1:
		return fmt.Errorf("kernel: it has %s; give one of them", strings.Join(ways, " and "))
	case k.File != "" && k.Modules == "":
		return fmt.Errorf("kernel: file %s needs modules: the folder or archive that make modules_install INSTALL_MOD_PATH=FOLDER wrote, also where all is built in", k.File)
	case k.File == "" && k.Modules != "":
		return fmt.Errorf("kernel: modules are those of file; %s brings its own", ways[0])
	case k.Package != "" && !packageRE.MatchString(k.Package):
		return fmt.Errorf("kernel: package %q cannot be the name of a Debian package; a file is given by deb", k.Package)
	case len(k.Cmdline) > maxCmdline:
		return fmt.Errorf("kernel: cmdline has %d bytes; at most %d leave room for what is added when a machine boots", len(k.Cmdline), maxCmdline)
	case strings.ContainsFunc(k.Cmdline, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("kernel: cmdline has characters other than printable ASCII")
	}
	return nil
}
