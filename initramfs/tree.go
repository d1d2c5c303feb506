package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// Type is the kind of a tree entry. Device nodes, pipes and sockets do not
// exist in a tree: devtmpfs brings the devices of a machine, and no image needs
// the others.
type Type uint8

// The types of entries.
const (
	File Type = iota + 1
	Dir
	Symlink
	HardLink
)

// String returns the word for the type that error messages use.
func (t Type) String() string {
	switch t {
	case File:
		return "file"
	case Dir:
		return "directory"
	case Symlink:
		return "symbolic link"
	case HardLink:
		return "hard link"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Permission bits beyond 0777 that [Entry.Mode] may have.
const (
	ModeSetuid = 0o4000
	ModeSetgid = 0o2000
	ModeSticky = 0o1000
	modeMask   = 0o7777
)

// MaxName is the longest name of one path element, in bytes. Squashfs allows
// 256; WriteCPIO refuses more than 255, since tmpfs does.
const MaxName = 256

// Entry is one path of a [Tree].
type Entry struct {
	// Path is relative to the root, slash-separated and clean. [Tree.Add]
	// takes away a leading "./" or "/" and a trailing "/"; "." is the root
	// itself.
	Path string

	Type Type
	Mode uint32 // permission bits with setuid, setgid, sticky; symbolic links: always 0777
	UID  uint32
	GID  uint32

	// MTime is kept to the second. Zero: the time of the tree.
	MTime time.Time

	// A file has its content in Data, or gives it by Open. Open may be
	// called more than once and from several goroutines; each call returns
	// exactly Size bytes. With Data, Size is set by Add.
	Size int64
	Data []byte
	Open func() (io.ReadCloser, error)

	// Target is the text of a symbolic link, or the path of the file of
	// this tree that a hard link is another name of. That file may be added
	// later than the link.
	Target string

	// Xattrs are extended attributes with their full names
	// (security.capability). Cpio archives cannot hold them.
	Xattrs map[string][]byte

	// Source says where the entry comes from, for error messages: a package
	// and its version, a file of the definition.
	Source string
}

// Content opens the content of a file.
func (e *Entry) Content() (io.ReadCloser, error) {
	if e.Type != File {
		return nil, fmt.Errorf("opening %s: it is a %v, not a file", e.Path, e.Type)
	}
	if e.Open != nil {
		return e.Open()
	}
	return io.NopCloser(bytes.NewReader(e.Data)), nil
}

// Tree is a file tree in memory with fixed metadata. Make one with [NewTree].
type Tree struct {
	time    time.Time
	entries map[string]*Entry
	implied map[string]bool // directories that exist only as parents of an entry
}

// NewTree returns a tree that holds only its root directory (0755, root).
// Entries without a time of their own, and directories that nobody added, get
// mtime.
func NewTree(mtime time.Time) *Tree {
	t := &Tree{
		time:    mtime.Truncate(time.Second).UTC(),
		entries: make(map[string]*Entry),
		implied: make(map[string]bool),
	}
	t.imply(".", "the tree")
	return t
}

// Time returns the time that entries without one get.
func (t *Tree) Time() time.Time { return t.time }

// Add puts a copy of e into the tree and fills in missing parents (0755,
// root).
//
// A path that is taken is an error that wraps [fs.ErrExist] and names both
// sources. Two directories with the same mode, owner and attributes are one
// directory, with the later of their times.
func (t *Tree) Add(e Entry) error {
	p, err := cleanPath(e.Path)
	if err != nil {
		return fmt.Errorf("adding %q from %s: %w", e.Path, sourceOf(&e), err)
	}
	e.Path = p
	if err := t.complete(&e); err != nil {
		return fmt.Errorf("adding %s from %s: %w", p, sourceOf(&e), err)
	}
	if err := t.addParents(&e); err != nil {
		return err
	}
	old, taken := t.entries[p]
	switch {
	case !taken, t.implied[p] && e.Type == Dir:
		delete(t.implied, p)
	case sameDir(old, &e):
		if old.MTime.After(e.MTime) {
			return nil
		}
	default:
		return conflict(old, &e)
	}
	t.entries[p] = &e
	return nil
}

// AddBytes adds a file owned by root with the given content, which is not
// copied.
func (t *Tree) AddBytes(path string, mode uint32, data []byte, source string) error {
	return t.Add(Entry{Path: path, Type: File, Mode: mode, Data: data, Source: source})
}

// AddFile adds a file owned by root whose content is that of the host's file
// name. Its size is taken now, its content when the tree is written.
func (t *Tree) AddFile(path string, mode uint32, name, source string) error {
	fi, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("adding %s from %s: %w", path, source, err)
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("adding %s from %s: %s is no regular file", path, source, name)
	}
	open := func() (io.ReadCloser, error) { return os.Open(name) }
	return t.Add(Entry{Path: path, Type: File, Mode: mode, Size: fi.Size(), Open: open, Source: source})
}

// AddDir adds a directory owned by root.
func (t *Tree) AddDir(path string, mode uint32, source string) error {
	return t.Add(Entry{Path: path, Type: Dir, Mode: mode, Source: source})
}

// AddSymlink adds a symbolic link with the text target.
func (t *Tree) AddSymlink(path, target, source string) error {
	return t.Add(Entry{Path: path, Type: Symlink, Target: target, Source: source})
}

// AddHardLink adds a second name for the file at target, which is a path of
// the tree.
func (t *Tree) AddHardLink(path, target, source string) error {
	return t.Add(Entry{Path: path, Type: HardLink, Target: target, Source: source})
}

// Root returns the root directory, whose path is ".". It must not be changed.
func (t *Tree) Root() *Entry { return t.entries["."] }

// Lookup returns the entry at path, or nil. It must not be changed.
func (t *Tree) Lookup(path string) *Entry {
	p, err := cleanPath(path)
	if err != nil {
		return nil
	}
	return t.entries[p]
}

// Len returns the number of entries without the root.
func (t *Tree) Len() int { return len(t.entries) - 1 }

// All yields every entry except the root in byte order of paths, so that a
// directory comes before what it holds. Entries must not be changed.
func (t *Tree) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for _, p := range slices.Sorted(maps.Keys(t.entries)) {
			if p != "." && !yield(t.entries[p]) {
				return
			}
		}
	}
}

// Merge adds every entry of other. Directories that other only implied do
// not conflict with anything that is a directory.
func (t *Tree) Merge(other *Tree) error {
	for e := range other.All() {
		if other.implied[e.Path] {
			continue
		}
		if err := t.Add(*e); err != nil {
			return err
		}
	}
	return nil
}

// Remove takes the entry at path out of the tree, with everything below a
// directory. Nothing at path is no error.
func (t *Tree) Remove(path string) {
	p, err := cleanPath(path)
	if err != nil || p == "." {
		return
	}
	if e := t.entries[p]; e != nil && e.Type == Dir {
		for q := range t.entries {
			if strings.HasPrefix(q, p+"/") {
				delete(t.entries, q)
				delete(t.implied, q)
			}
		}
	}
	delete(t.entries, p)
	delete(t.implied, p)
}

// Check reports what can only be known once all is added: a hard link whose
// target is missing or is no file.
func (t *Tree) Check() error {
	var errs []error
	for e := range t.All() {
		if e.Type != HardLink {
			continue
		}
		if _, err := t.Resolve(e); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Resolve returns e itself, or the file that the hard link e is a name of.
func (t *Tree) Resolve(e *Entry) (*Entry, error) {
	if e.Type != HardLink {
		return e, nil
	}
	target := t.entries[e.Target]
	switch {
	case target == nil:
		return nil, fmt.Errorf("hard link %s from %s: its target %s is not in the tree: %w", e.Path, sourceOf(e), e.Target, fs.ErrNotExist)
	case target.Type != File:
		return nil, fmt.Errorf("hard link %s from %s: its target %s is a %v; link to the file itself", e.Path, sourceOf(e), e.Target, target.Type)
	}
	return target, nil
}

// complete checks e and sets what follows from other fields or from the tree.
func (t *Tree) complete(e *Entry) error {
	if e.MTime.IsZero() {
		e.MTime = t.time
	}
	e.MTime = e.MTime.Truncate(time.Second).UTC()
	if e.Mode&^modeMask != 0 {
		return fmt.Errorf("mode %#o has bits that are not permissions; device nodes and other special files cannot be added", e.Mode)
	}
	if e.Path == "." && e.Type != Dir {
		return fmt.Errorf("the root cannot be a %v", e.Type)
	}
	switch e.Type {
	case File:
		return completeFile(e)
	case Dir:
		return nil
	case Symlink:
		e.Mode = 0o777
		if e.Target == "" || strings.IndexByte(e.Target, 0) >= 0 {
			return fmt.Errorf("%q cannot be the target of a symbolic link", e.Target)
		}
		return nil
	case HardLink:
		target, err := cleanPath(e.Target)
		if err != nil {
			return fmt.Errorf("target %q of the hard link: %w", e.Target, err)
		}
		e.Target = target
		return nil
	}
	return fmt.Errorf("unknown entry type %d", e.Type)
}

func completeFile(e *Entry) error {
	switch {
	case e.Open == nil:
		e.Size = int64(len(e.Data))
	case e.Data != nil:
		return errors.New("file has both Data and Open")
	case e.Size < 0:
		return fmt.Errorf("size is %d", e.Size)
	}
	return nil
}

// addParents fills in the directories above e.
func (t *Tree) addParents(e *Entry) error {
	if e.Path == "." {
		return nil
	}
	for i := 0; i < len(e.Path); i++ {
		if e.Path[i] != '/' {
			continue
		}
		dir := e.Path[:i]
		switch parent := t.entries[dir]; {
		case parent == nil:
			t.imply(dir, sourceOf(e))
		case parent.Type != Dir:
			return &fs.PathError{Op: "add", Path: e.Path, Err: fmt.Errorf(
				"from %s, but %s is a %v from %s: %w", sourceOf(e), dir, parent.Type, sourceOf(parent), fs.ErrExist)}
		}
	}
	return nil
}

// imply makes a directory that nobody added.
func (t *Tree) imply(path, source string) {
	t.entries[path] = &Entry{Path: path, Type: Dir, Mode: 0o755, MTime: t.time, Source: source}
	t.implied[path] = true
}

func sameDir(a, b *Entry) bool {
	return a.Type == Dir && b.Type == Dir && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID &&
		maps.EqualFunc(a.Xattrs, b.Xattrs, bytes.Equal)
}

func conflict(old, e *Entry) error {
	return &fs.PathError{Op: "add", Path: e.Path, Err: fmt.Errorf(
		"%v (mode %04o, owner %d:%d) from %s, but a %v (mode %04o, owner %d:%d) from %s is there: %w",
		e.Type, e.Mode, e.UID, e.GID, sourceOf(e),
		old.Type, old.Mode, old.UID, old.GID, sourceOf(old), fs.ErrExist)}
}

func sourceOf(e *Entry) string {
	if e.Source == "" {
		return "an unnamed source"
	}
	return e.Source
}

// cleanPath returns p as the tree keeps it, or says why it cannot.
func cleanPath(p string) (string, error) {
	if p == "." || p == "/" || p == "./" {
		return ".", nil
	}
	c := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(p, "./"), "/"), "/")
	if c == "" || c != path.Clean(c) || c == ".." || strings.HasPrefix(c, "../") || strings.HasPrefix(c, "/") {
		return "", errors.New("path is empty or not clean")
	}
	if strings.IndexByte(c, 0) >= 0 {
		return "", errors.New("path has a zero byte")
	}
	for name := range strings.SplitSeq(c, "/") {
		if len(name) > MaxName {
			return "", fmt.Errorf("name of %d bytes is longer than %d", len(name), MaxName)
		}
	}
	return c, nil
}
