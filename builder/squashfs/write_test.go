package squashfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"muster/builder/squashfs"
	"muster/initramfs"
	"muster/internal/need"
)

// memory is an image in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

// Same tree, same bytes: with any number of goroutines, and whatever order the
// entries were added in.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	for _, level := range []squashfs.Level{squashfs.Fast, squashfs.Better, squashfs.Best} {
		var first []byte
		for _, workers := range []int{1, 2, 3, 8, 1} {
			tree := special(t, 16<<10)
			if workers == 3 {
				tree = backwards(t, tree)
			}
			var m memory
			stats, err := squashfs.Write(t.Context(), &m, tree, squashfs.Options{BlockSize: 16 << 10, Level: level, Workers: workers})
			if err != nil {
				t.Fatal(err)
			}
			if stats.Size != int64(len(m.b)) || stats.Size%4096 != 0 {
				t.Errorf("Stats.Size = %d, image has %d bytes", stats.Size, len(m.b))
			}
			if first == nil {
				first = m.b
			}
			if !bytes.Equal(first, m.b) {
				t.Errorf("level %d: image of %d workers differs", level, workers)
			}
		}
	}
}

// backwards is tree, added from the last entry to the first.
func backwards(t *testing.T, tree *initramfs.Tree) *initramfs.Tree {
	t.Helper()
	var entries []initramfs.Entry
	for e := range tree.All() {
		entries = append([]initramfs.Entry{*e}, entries...)
	}
	return treeOf(t, append(entries, *tree.Root())...)
}

func TestStats(t *testing.T) {
	t.Parallel()
	const bs = 4096
	tree := treeOf(t, file("a", 0o644, text(3*bs+1)), file("b", 0o644, text(10)), file("c/d", 0o644, text(20)),
		initramfs.Entry{Path: "e", Type: initramfs.HardLink, Target: "a"})
	var m memory
	got, err := squashfs.Write(t.Context(), &m, tree, squashfs.Options{BlockSize: bs})
	if err != nil {
		t.Fatal(err)
	}
	want := squashfs.Stats{Size: int64(len(m.b)), Inodes: 5, DataBytes: 3*bs + 1 + 30, Blocks: 4, Fragments: 1}
	if got != want {
		t.Errorf("Write() = %+v, want %+v", got, want)
	}
}

// opens returns content that behaves as a test wants.
func opens(r io.Reader, err error) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(r), err }
}

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	entry := func(size int64, open func() (io.ReadCloser, error)) initramfs.Entry {
		return initramfs.Entry{Path: "bad", Type: initramfs.File, Size: size, Open: open, Source: "bad.deb"}
	}
	tests := map[string]struct {
		entry initramfs.Entry
		o     squashfs.Options
		want  string
	}{
		"cannot be opened":     {entry(1, opens(nil, errTest)), squashfs.Options{}, "writing squashfs: bad from bad.deb: test error"},
		"cannot be read":       {entry(9000, opens(io.MultiReader(bytes.NewReader(text(5000)), errReader{}), nil)), squashfs.Options{BlockSize: 4096}, "writing squashfs: bad from bad.deb: test error"},
		"small file is short":  {entry(10, opens(strings.NewReader("123"), nil)), squashfs.Options{}, "writing squashfs: bad from bad.deb: content is shorter than its 10 bytes: unexpected EOF"},
		"small file is long":   {entry(2, opens(strings.NewReader("123"), nil)), squashfs.Options{}, "writing squashfs: bad from bad.deb: content is longer than its 2 bytes"},
		"large file is short":  {entry(8192, opens(bytes.NewReader(text(8000)), nil)), squashfs.Options{BlockSize: 4096}, "writing squashfs: bad from bad.deb: content is shorter than its 8192 bytes: unexpected EOF"},
		"large file is long":   {entry(8192, opens(bytes.NewReader(text(8193)), nil)), squashfs.Options{BlockSize: 4096}, "writing squashfs: bad from bad.deb: content is longer than its 8192 bytes"},
		"block size":           {file("a", 0o644, nil), squashfs.Options{BlockSize: 5000}, "writing squashfs: block size 5000 is not a power of two from 4096 to 1048576"},
		"block size too large": {file("a", 0o644, nil), squashfs.Options{BlockSize: 2 << 20}, "writing squashfs: block size 2097152 is not a power of two from 4096 to 1048576"},
		"time of the image":    {file("a", 0o644, nil), squashfs.Options{Time: time.Unix(-1, 0).UTC()}, "writing squashfs: time of the image, 1969-12-31 23:59:59 +0000 UTC, is outside 1970 to 2106"},
		"time of a file":       {initramfs.Entry{Path: "a", Type: initramfs.File, MTime: time.Unix(1<<32, 0), Source: "x"}, squashfs.Options{}, "writing squashfs: a from x: time 2106-02-07 06:28:16 +0000 UTC is outside 1970 to 2106"},
		"attribute's space":    {initramfs.Entry{Path: "a", Type: initramfs.File, Source: "x", Xattrs: map[string][]byte{"system.posix_acl_access": nil}}, squashfs.Options{}, "writing squashfs: a from x: squashfs has no place for attribute system.posix_acl_access; only user, trusted and security"},
		"attribute's name":     {initramfs.Entry{Path: "a", Type: initramfs.File, Source: "x", Xattrs: map[string][]byte{"user": nil}}, squashfs.Options{}, `writing squashfs: a from x: "user" is no name of an extended attribute`},
		"attribute's value":    {initramfs.Entry{Path: "a", Type: initramfs.File, Source: "x", Xattrs: map[string][]byte{"user.a": make([]byte, 65537)}}, squashfs.Options{}, "writing squashfs: a from x: attribute user.a has 65537 bytes; Linux allows 65536"},
		"link text":            {initramfs.Entry{Path: "a", Type: initramfs.Symlink, Source: "x", Target: strings.Repeat("t", 65536)}, squashfs.Options{}, "writing squashfs: a from x: link text of 65536 bytes is longer than 65535"},
		"hard link to nothing": {initramfs.Entry{Path: "a", Type: initramfs.HardLink, Source: "x", Target: "b"}, squashfs.Options{}, "writing squashfs: hard link a from x: its target b is not in the tree: file does not exist"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			// More files around it, so that goroutines have work.
			tree := treeOf(t, file("aaa", 0o644, text(100_000)), file("zzz", 0o644, text(100_000)), tt.entry)
			_, err := squashfs.Write(t.Context(), &memory{}, tree, tt.o)
			if err == nil || err.Error() != tt.want {
				t.Errorf("Write() error = %v, want %s", err, tt.want)
			}
		})
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errTest }

// fullDisk fails at every write behind its size.
type fullDisk struct{ size int64 }

func (f fullDisk) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.size {
		return 0, errTest
	}
	return len(p), nil
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	tree := treeOf(t, file("a", 0o644, noise(1<<20)), file("b", 0o644, noise(100)))
	var m memory
	if _, err := squashfs.Write(t.Context(), &m, tree, squashfs.Options{BlockSize: 4096}); err != nil {
		t.Fatal(err)
	}
	for size := int64(0); size < int64(len(m.b)); size += 1 + int64(len(m.b))/40 {
		if _, err := squashfs.Write(t.Context(), fullDisk{size}, tree, squashfs.Options{BlockSize: 4096}); !errors.Is(err, errTest) {
			t.Errorf("disk of %d bytes: error = %v, want the disk's", size, err)
		}
	}
}

// The superblock comes last: what was cut short has none.
func TestSuperblockLast(t *testing.T) {
	t.Parallel()
	tree := treeOf(t, file("a", 0o644, noise(10_000)))
	last := int64(-1)
	if _, err := squashfs.Write(t.Context(), writerFunc(func(p []byte, off int64) { last = off }), tree, squashfs.Options{}); err != nil {
		t.Fatal(err)
	}
	if last != 0 {
		t.Errorf("last write was at %d, want 0", last)
	}
}

type writerFunc func(p []byte, off int64)

func (f writerFunc) WriteAt(p []byte, off int64) (int, error) {
	f(p, off)
	return len(p), nil
}

func TestCancel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	endless := initramfs.Entry{
		Path: "endless", Type: initramfs.File, Size: 1 << 40, Source: "x",
		Open: opens(io.TeeReader(zeroReader{}, cancelAfter{50 << 20, new(int), cancel}), nil),
	}
	_, err := squashfs.Write(ctx, &memory{}, treeOf(t, endless), squashfs.Options{BlockSize: 1 << 20})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Write() error = %v, want context.Canceled", err)
	}
}

// cancelAfter cancels once so many bytes went by.
type cancelAfter struct {
	limit  int
	n      *int
	cancel func()
}

func (c cancelAfter) Write(p []byte) (int, error) {
	if *c.n += len(p); *c.n > c.limit {
		c.cancel()
	}
	return len(p), nil
}

// userland unpacks the userland of the image in MUSTER_IMAGE.
func userland(b *testing.B) string {
	b.Helper()
	unsquashfs := need.Program(b, "unsquashfs", "squashfs-tools")
	image := need.File(b, filepath.Join(os.Getenv("MUSTER_IMAGE"), "userland.sqfs"), "run: make bench")
	dir := filepath.Join(b.TempDir(), "root")
	if out, err := exec.Command(unsquashfs, "-n", "-q", "-no-xattrs", "-d", dir, image).CombinedOutput(); err != nil {
		b.Fatalf("unsquashfs: %v: %s", err, out)
	}
	return dir
}

// BenchmarkUserland writes the userland of an image and compares with mksquashfs as it is called
// without further options, but for the level: size, and CPU time of all processors.
func BenchmarkUserland(b *testing.B) {
	mksquashfs := need.Program(b, "mksquashfs", "squashfs-tools")
	dir := os.Getenv("MUSTER_BENCH_TREE")
	if dir == "" {
		dir = userland(b)
	}
	tree := hostTree(b, dir)
	for _, c := range []struct {
		theirs  string
		options squashfs.Options
		// The most that is allowed, as parts of what mksquashfs needs.
		size, cpu float64
	}{
		{"3", squashfs.Options{Level: squashfs.Better}, 1, 2.5},
		{"19", squashfs.Options{Level: squashfs.Best, BlockSize: 1 << 20}, 1.02, 0.4},
	} {
		b.Run("level="+c.theirs, func(b *testing.B) {
			var cpu, cpuTheirs time.Duration
			var size, sizeTheirs int64
			for b.Loop() {
				start := cpuTime()
				size = sizeOf(b, writeImage(b, tree, c.options))
				cpu += cpuTime() - start
				image := filepath.Join(b.TempDir(), "image")
				cmd := exec.Command(mksquashfs, dir, image, "-comp", "zstd", "-Xcompression-level", c.theirs, "-quiet", "-no-progress", "-noappend")
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("mksquashfs: %v: %s", err, out)
				}
				cpuTheirs += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				sizeTheirs = sizeOf(b, image)
			}
			n := float64(b.N)
			sizes, times := float64(size)/float64(sizeTheirs), cpu.Seconds()/cpuTheirs.Seconds()
			b.ReportMetric(float64(size)/1e6, "MB")
			b.ReportMetric(float64(sizeTheirs)/1e6, "MB-mksquashfs")
			b.ReportMetric(cpu.Seconds()/n, "cpu-s")
			b.ReportMetric(cpuTheirs.Seconds()/n, "cpu-s-mksquashfs")
			b.ReportMetric(sizes, "size-ratio")
			b.ReportMetric(times, "cpu-ratio")
			if sizes > c.size || times > c.cpu {
				b.Errorf("%.3f times the size of mksquashfs level %s for %.2f times its CPU time; want at most %v and %v", sizes, c.theirs, times, c.size, c.cpu)
			}
		})
	}
}

func sizeOf(b *testing.B, name string) int64 {
	b.Helper()
	fi, err := os.Stat(name)
	if err != nil {
		b.Fatal(err)
	}
	return fi.Size()
}

// TestSameContent stores a content once, whatever files have it.
func TestSameContent(t *testing.T) {
	const bs = 4 << 10
	tree := initramfs.NewTree(testTime)
	large, other, small := random(1, 10*bs+77), random(2, 10*bs+77), random(3, 100)
	add := func(name string, data []byte) {
		t.Helper()
		if err := tree.AddBytes(name, 0o644, data, "test"); err != nil {
			t.Fatal(err)
		}
	}
	add("a/large", large)
	add("a/small", small)
	single := sizeOfImage(t, tree, squashfs.Options{BlockSize: bs})
	for _, dir := range []string{"b", "c"} {
		add(dir+"/large", large)
		add(dir+"/small", small)
	}
	copies := sizeOfImage(t, tree, squashfs.Options{BlockSize: bs})
	if grown := copies - single; grown >= bs {
		t.Errorf("two more copies of the files take %d bytes", grown)
	}
	add("d/large", other)
	if grown := sizeOfImage(t, tree, squashfs.Options{BlockSize: bs}) - copies; grown < int64(len(other))-4096 { // images are padded
		t.Errorf("another file of the same size takes %d bytes, want %d at least", grown, len(other))
	}
	compareMounted(t, tree, squashfs.Options{BlockSize: bs})
}

// random returns n bytes that cannot be packed.
func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func sizeOfImage(t *testing.T, tree *initramfs.Tree, o squashfs.Options) int64 {
	t.Helper()
	m := &memory{}
	stats, err := squashfs.Write(t.Context(), m, tree, o)
	if err != nil {
		t.Fatal(err)
	}
	return stats.Size
}
