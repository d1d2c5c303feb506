package squashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/builder/squashfs"
	"muster/initramfs"
)

// treeOf makes a tree from entries and fails the test on a conflict.
func treeOf(t testing.TB, entries ...initramfs.Entry) *initramfs.Tree {
	t.Helper()
	tree := initramfs.NewTree(testTime)
	for _, e := range entries {
		if e.Source == "" {
			e.Source = "the test"
		}
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func file(path string, mode uint32, data []byte) initramfs.Entry {
	return initramfs.Entry{Path: path, Type: initramfs.File, Mode: mode, Data: data}
}

// noise is data that does not get smaller.
func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{7})
	b := make([]byte, n)
	r.Read(b)
	return b
}

// text is data that does.
func text(n int) []byte {
	return bytes.Repeat([]byte("all work and no play makes jack a dull boy\n"), n/43+1)[:n]
}

// special returns a tree with all that is unusual. bs is the block size that it
// will be written with.
func special(t testing.TB, bs int) *initramfs.Tree {
	t.Helper()
	hole := append(append(text(bs), make([]byte, 3*bs)...), text(bs/2)...)
	tree := treeOf(t,
		initramfs.Entry{Path: ".", Type: initramfs.Dir, Mode: 0o711, UID: 3, GID: 4},
		file("empty", 0o600, nil),
		file("one", 0o644, []byte("1")),
		file("zeros.small", 0o644, make([]byte, bs/2)),
		file("zeros.block", 0o644, make([]byte, bs)),
		file("zeros.many", 0o644, make([]byte, 5*bs+17)),
		file("hole", 0o644, hole),
		file("block", 0o644, text(bs)),
		file("block.and.one", 0o644, text(bs+1)),
		file("block.less.one", 0o644, text(bs-1)),
		file("noise", 0o644, noise(3*bs+5)),
		file("noise.small", 0o644, noise(bs/3)),
		file("bin/su", 0o4755, text(100)),
		file("bin/wall", 0o2755, text(200)),
		initramfs.Entry{
			Path: "bin/ping", Type: initramfs.File, Mode: 0o755, Data: text(300),
			Xattrs: map[string][]byte{"security.capability": {1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		},
		initramfs.Entry{
			Path: "bin/ping6", Type: initramfs.File, Mode: 0o755, Data: text(310),
			Xattrs: map[string][]byte{"security.capability": {1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		},
		initramfs.Entry{
			Path: "trusted", Type: initramfs.File, Mode: 0o644, Data: text(10),
			Xattrs: map[string][]byte{"trusted.overlay.opaque": []byte("y"), "user.long": noise(3000), "user.empty": {}},
		},
		initramfs.Entry{Path: "dir.with.xattr", Type: initramfs.Dir, Mode: 0o755, Xattrs: map[string][]byte{"user.a": []byte("b")}},
		initramfs.Entry{Path: "link.with.xattr", Type: initramfs.Symlink, Target: "one", Xattrs: map[string][]byte{"trusted.a": []byte("b")}},
		initramfs.Entry{Path: "tmp", Type: initramfs.Dir, Mode: 0o1777, UID: 1000, GID: 100},
		initramfs.Entry{Path: "owned", Type: initramfs.File, Mode: 0o640, UID: 4294967294, GID: 65534, Data: text(5)},
		initramfs.Entry{Path: "old", Type: initramfs.File, Mode: 0o640, MTime: time.Unix(0, 0), Data: text(5)},
		initramfs.Entry{Path: "new", Type: initramfs.File, Mode: 0o640, MTime: time.Unix(4294967295, 0), Data: text(5)},
		initramfs.Entry{Path: "symlink", Type: initramfs.Symlink, Target: "../nowhere/" + strings.Repeat("x", 3000)},
		initramfs.Entry{Path: "a.first.name", Type: initramfs.HardLink, Target: "block.and.one"},
		initramfs.Entry{Path: "zzz/other.name", Type: initramfs.HardLink, Target: "one"},
		initramfs.Entry{Path: "bin/xattr.name", Type: initramfs.HardLink, Target: "bin/ping"},
		initramfs.Entry{Path: "empty.name", Type: initramfs.HardLink, Target: "empty"},
		file("names/"+strings.Repeat("n", 255), 0o644, text(3)),
		file("names/not\xff\xfeutf8\x01", 0o644, text(3)),
		file("names/with space\nand newline", 0o644, text(3)),
		file("names/ümlaut", 0o644, text(3)),
		file(strings.Repeat("deep/", 200)+"file", 0o644, text(3)),
		initramfs.Entry{Path: "emptydir", Type: initramfs.Dir, Mode: 0o700},
	)
	return tree
}

func TestMountSpecial(t *testing.T) {
	for _, bs := range []int{4 << 10, 128 << 10, 1 << 20} {
		for _, level := range []squashfs.Level{squashfs.Fast, squashfs.Best} {
			t.Run(fmt.Sprintf("blocks of %d level %d", bs, level), func(t *testing.T) {
				tree := special(t, bs)
				compareMounted(t, tree, squashfs.Options{BlockSize: bs, Level: level})
			})
		}
	}
}

func compareMounted(t *testing.T, tree *initramfs.Tree, o squashfs.Options) {
	t.Helper()
	dir := mount(t, writeImage(t, tree, o))
	if diff := cmp.Diff(wantFacts(t, tree), dirFacts(t, dir)); diff != "" {
		t.Errorf("(-tree +mounted):\n%.3000s", diff)
	}
}

func TestMountEmpty(t *testing.T) {
	compareMounted(t, treeOf(t), squashfs.Options{})
}

// A directory whose listing crosses many metadata blocks, and hard links to files
// whose numbers are far away.
func TestMountLargeDirectory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	tree := initramfs.NewTree(testTime)
	add := func(e initramfs.Entry) {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 70_000 {
		e := file(fmt.Sprintf("many/entry-%06d", i), 0o644, nil)
		if i%1000 == 0 {
			e.Data = text(i % 977)
		}
		add(e)
	}
	for i := range 100 {
		add(initramfs.Entry{Path: fmt.Sprintf("links/%02d", i), Type: initramfs.HardLink, Target: fmt.Sprintf("many/entry-%06d", i*699)})
	}
	for i := range 300 {
		add(file(fmt.Sprintf("wide/%03d%s", i, strings.Repeat("w", 250)), 0o644, nil))
	}
	compareMounted(t, tree, squashfs.Options{})
}

// More than 256 owners: the table of owners has several blocks.
func TestMountManyOwners(t *testing.T) {
	tree := initramfs.NewTree(testTime)
	for i := range 5000 {
		e := file(fmt.Sprintf("%d", i), 0o644, nil)
		e.UID, e.GID = uint32(i), uint32(1_000_000+i)
		if i%3 == 0 {
			e.Xattrs = map[string][]byte{"user.n": []byte(fmt.Sprint(i))}
		}
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	compareMounted(t, tree, squashfs.Options{})
}

// A file of more than 4 GiB, nearly all of it zeros.
func TestMountHugeFile(t *testing.T) {
	if os.Getenv("MUSTER_LONG") != "1" {
		t.Skip("only in make test-net: reads 8 GiB of zeros, which takes 15 s")
	}
	const size = 4<<30 + 12345
	tree := treeOf(t, initramfs.Entry{
		Path: "huge", Type: initramfs.File, Mode: 0o644, Size: size,
		Open: func() (io.ReadCloser, error) {
			zeros := io.LimitReader(zeroReader{}, size-5)
			return io.NopCloser(io.MultiReader(zeros, strings.NewReader("the e"))), nil
		},
	})
	compareMounted(t, tree, squashfs.Options{BlockSize: 1 << 20})
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

var errTest = errors.New("test error")

// The longest name that the format has is one byte longer than what other file
// systems allow.
func TestMountLongestName(t *testing.T) {
	compareMounted(t, treeOf(t, file(strings.Repeat("n", 256), 0o644, text(3)), file(strings.Repeat("d", 256)+"/f", 0o644, nil)), squashfs.Options{})
}

// Trees at random: what special does not think of.
func TestMountRandom(t *testing.T) {
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		bs := minBlock << rnd.IntN(4)
		tree := initramfs.NewTree(testTime)
		var files []string
		dirs := []string{""}
		for i := range 200 {
			p := dirs[rnd.IntN(len(dirs))] + fmt.Sprintf("%d%s", i, strings.Repeat("n", rnd.IntN(60)))
			e := initramfs.Entry{Path: p, Type: initramfs.File, Mode: uint32(rnd.IntN(0o10000)), UID: rnd.Uint32N(5), GID: rnd.Uint32N(1000)}
			switch rnd.IntN(6) {
			case 0:
				e.Type = initramfs.Dir
				dirs = append(dirs, p+"/")
			case 1:
				e.Type, e.Target = initramfs.Symlink, strings.Repeat("t", 1+rnd.IntN(300))
			case 2:
				if len(files) > 0 {
					e = initramfs.Entry{Path: p, Type: initramfs.HardLink, Target: files[rnd.IntN(len(files))]}
				}
			default:
				for range rnd.IntN(5) {
					part := [][]byte{noise(rnd.IntN(2 * bs)), text(rnd.IntN(2 * bs)), make([]byte, rnd.IntN(3*bs))}[rnd.IntN(3)]
					e.Data = append(e.Data, part...)
				}
				files = append(files, p)
			}
			if rnd.IntN(10) == 0 && e.Type != initramfs.HardLink {
				e.Xattrs = map[string][]byte{"trusted.n": noise(rnd.IntN(500))}
			}
			if err := tree.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			compareMounted(t, tree, squashfs.Options{BlockSize: bs})
		})
	}
}

const minBlock = 4 << 10
