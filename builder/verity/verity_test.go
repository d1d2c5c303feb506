package verity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"muster/builder/verity"
	"muster/internal/need"
)

// noise is a file of so many random bytes, always the same.
func noise(t *testing.T, size int) *os.File {
	t.Helper()
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size)}).Read(b)
	f, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err == nil {
		_, err = f.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Sizes that give trees of no level to three: a block of hashes is of 128 blocks.
var sizes = []int{1, 4095, 4096, 4097, 128 * 4096, 128*4096 + 1, 129 * 4096, 128*128*4096 + 4096, 1000000}

func TestAppend(t *testing.T) {
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			f := noise(t, size)
			before, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			tree, err := verity.Append(t.Context(), f, int64(size))
			if err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(after)) != tree.Size || !bytes.Equal(after[:size], before) || strings.Trim(string(after[size:tree.Blocks*4096]), "\x00") != "" {
				t.Errorf("%d bytes became %d, and %d are said", size, len(after), tree.Size)
			}
			if err := verity.Check(t.Context(), f, tree.Size, tree); err != nil {
				t.Errorf("what was written is refused: %v", err)
			}
			for _, at := range []int64{0, tree.Blocks*4096 - 1, tree.Blocks * 4096, tree.Size - 4096} {
				flip(t, f, at)
				if err := verity.Check(t.Context(), f, tree.Size, tree); err == nil {
					t.Errorf("with byte %d of %d changed nothing is said", at, tree.Size)
				}
				flip(t, f, at)
			}
		})
	}
}

func flip(t *testing.T, f *os.File, at int64) {
	t.Helper()
	b := make([]byte, 1)
	_, err := f.ReadAt(b, at)
	if err == nil {
		b[0] ^= 1
		_, err = f.WriteAt(b, at)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The root of one block is its own hash, and that of two the hash of a block with both.
func TestRoot(t *testing.T) {
	f := noise(t, 2*4096)
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	first, second := sha256.Sum256(data[:4096]), sha256.Sum256(data[4096:])
	block := make([]byte, 4096)
	copy(block, append(first[:], second[:]...))
	both := sha256.Sum256(block)
	for blocks, want := range map[int64][32]byte{1: first, 2: both} {
		tree, err := verity.Append(t.Context(), noiseOf(t, data[:blocks*4096]), blocks*4096)
		if err != nil || tree.Root != hex.EncodeToString(want[:]) {
			t.Errorf("root of %d blocks is %s, %v; want %x", blocks, tree.Root, err, want)
		}
	}
}

func noiseOf(t *testing.T, data []byte) *os.File {
	t.Helper()
	f := noise(t, 1)
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAppendErrors(t *testing.T) {
	if _, err := verity.Append(t.Context(), noise(t, 1), 0); err == nil {
		t.Error("a tree of nothing was written")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := verity.Append(ctx, noise(t, 10000), 10000); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
	if err := verity.Check(t.Context(), noise(t, 8192), 8192, verity.Tree{Blocks: 2, Size: 8192}); err == nil {
		t.Error("a tree that is not there was accepted")
	}
}

// veritysetup writes the same tree and accepts ours.
func TestVeritysetup(t *testing.T) {
	program, err := exec.LookPath("veritysetup")
	if err != nil {
		if program = "/usr/sbin/veritysetup"; !exists(program) {
			t.Skip("only in make test-vm after: apt install cryptsetup-bin")
		}
	}
	need.Root(t) // Debian has it for root alone
	for _, size := range sizes {
		f := noise(t, size)
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		tree, err := verity.Append(t.Context(), f, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		offset := fmt.Sprint(tree.Blocks * 4096)
		if out, err := exec.Command(program, "verify", f.Name(), f.Name(), tree.Root, "--hash-offset", offset).CombinedOutput(); err != nil {
			t.Errorf("%d bytes: veritysetup verify: %v: %s", size, err, out)
		}
		theirs := noiseOf(t, append(data, make([]byte, tree.Blocks*4096-int64(size))...))
		out, err := exec.Command(program, "format", theirs.Name(), theirs.Name(), "--hash-offset", offset,
			"--data-blocks", fmt.Sprint(tree.Blocks), "--salt", "-", "--uuid", "00000000-0000-0000-0000-000000000000").CombinedOutput()
		if err != nil || !strings.Contains(string(out), tree.Root) {
			t.Errorf("%d bytes: veritysetup format: %v, want root %s: %s", size, err, tree.Root, out)
			continue
		}
		a, b := readFrom(t, f, tree), readFrom(t, theirs, tree)
		clear(a[16:32]) // the UUID
		if !bytes.Equal(a, b) {
			t.Errorf("%d bytes: the trees differ", size)
		}
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// readFrom returns superblock and tree.
func readFrom(t *testing.T, f *os.File, tree verity.Tree) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b[tree.Blocks*4096:]
}
