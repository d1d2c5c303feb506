package initramfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/initramfs"
)

func TestWriteSegments(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("muster ", 100_000)
	segments := []initramfs.Segment{
		{Name: "microcode", Tree: treeOf(t, file("kernel/x86/microcode/GenuineIntel.bin", "code"))},
		{Name: "base", Tree: treeOf(t, file("init", big), file("etc/x", "base")), Compression: initramfs.Zstd},
		{Name: "modules", Tree: treeOf(t, file("mods", big)), Compression: initramfs.ZstdBest},
		{Name: "site", Tree: treeOf(t, file("etc/x", "site")), PadTo: 64 << 10},
	}
	var b bytes.Buffer
	infos, err := initramfs.WriteSegments(&b, segments...)
	if err != nil {
		t.Fatal(err)
	}
	var next int64
	for i, info := range infos {
		if info.Name != segments[i].Name || info.Offset != next || info.Size%4 != 0 || info.Size == 0 {
			t.Errorf("segment %d is %+v, want %s at %d, aligned", i, info, segments[i].Name, next)
		}
		next += info.Size
	}
	if site := infos[3]; site.Size != 64<<10 || int64(b.Len()) != next {
		t.Errorf("site segment has %d bytes, archive %d, want %d, %d", site.Size, b.Len(), 64<<10, next)
	}
	a := readCPIO(t, b.Bytes())
	if a.Segments != 4 {
		t.Errorf("%d segments, want 4", a.Segments)
	}
	if c, err := a.Content("init"); err != nil || string(c) != big {
		t.Errorf("Content(init) = %d bytes, %v, want %d", len(c), err, len(big))
	}
	if c, _ := a.Content("etc/x"); string(c) != "site" {
		t.Errorf("Content(etc/x) = %q; the last segment must win", c)
	}
	if got := a.Find("kernel/x86/microcode/GenuineIntel.bin"); got == nil || got.Segment != 0 {
		t.Errorf("microcode is in %+v, want segment 0", got)
	}

	// Each segment can be taken out by its place, and rewritten in place.
	site := b.Bytes()[infos[3].Offset:][:infos[3].Size]
	if got := readCPIO(t, site); got.Segments != 1 || len(got.Records) != 2 {
		t.Errorf("site segment alone: %d segments, %d records", got.Segments, len(got.Records))
	}
	var again bytes.Buffer
	if _, err := initramfs.WriteSegments(&again, segments...); err != nil || !bytes.Equal(again.Bytes(), b.Bytes()) {
		t.Errorf("written again it differs (%v)", err)
	}
}

func TestWriteSegmentsErrors(t *testing.T) {
	t.Parallel()
	tree := treeOf(t, file("a", "a"))
	for name, s := range map[string]initramfs.Segment{
		"writing segment site: padding to 6 bytes: not a multiple of 4": {Name: "site", Tree: tree, PadTo: 6},
		"writing segment base: writing cpio: hard link l from a.deb: its target x is not in the tree: file does not exist": {
			Name: "base", Tree: treeOf(t, hardLink("l", "x")), Compression: initramfs.Zstd,
		},
	} {
		infos, err := initramfs.WriteSegments(io.Discard, initramfs.Segment{Name: "first", Tree: tree}, s)
		if err == nil || err.Error() != name {
			t.Errorf("WriteSegments() error = %v, want %s", err, name)
		}
		if len(infos) != 1 {
			t.Errorf("%d segments before the error, want 1", len(infos))
		}
	}
	if _, err := initramfs.WriteSegments(&fullDisk{100}, initramfs.Segment{Name: "base", Tree: tree, Compression: initramfs.Zstd}); err != nil {
		t.Errorf("small archive on a disk of 100 bytes: %v", err)
	}
	if _, err := initramfs.WriteSegments(&fullDisk{10}, initramfs.Segment{Name: "base", Tree: tree, Compression: initramfs.Zstd}); !errors.Is(err, errTest) {
		t.Errorf("full disk: error = %v", err)
	}
}

func TestReadCPIOErrors(t *testing.T) {
	t.Parallel()
	whole := writeCPIO(t, treeOf(t, file("f", "content"), symlink("l", "f")), initramfs.CPIOOptions{})
	var packed bytes.Buffer
	if _, err := initramfs.WriteSegments(&packed, initramfs.Segment{Tree: treeOf(t, file("f", "content")), Compression: initramfs.Zstd}); err != nil {
		t.Fatal(err)
	}
	// Any cut of an archive is noticed, plain or packed.
	for n := 1; n < len(whole); n++ {
		if _, err := initramfs.ReadCPIO(bytes.NewReader(whole[:n])); err == nil && n < len(whole)-3 {
			t.Errorf("archive cut to %d of %d bytes was read", n, len(whole))
		}
	}
	for n := 1; n < packed.Len()-4; n++ {
		if _, err := initramfs.ReadCPIO(bytes.NewReader(packed.Bytes()[:n])); err == nil {
			t.Errorf("packed archive cut to %d of %d bytes was read", n, packed.Len())
		}
	}
	misaligned := append(append(bytes.Clone(whole), 0, 0), whole...)
	_, err := initramfs.ReadCPIO(bytes.NewReader(misaligned))
	want := fmt.Sprintf("reading initramfs: segment 1 starts at byte %d, which is not a multiple of 4", len(whole)+2)
	if err == nil || err.Error() != want {
		t.Errorf("misaligned: error = %v, want %s", err, want)
	}
	if _, err := initramfs.ReadCPIO(strings.NewReader("no archive at all, but long enough to have a header in it, which is a hundred and ten bytes long, and more")); err == nil {
		t.Error("text was read as an archive")
	}
	for _, empty := range []string{"", "\x00\x00\x00\x00"} {
		if a, err := initramfs.ReadCPIO(strings.NewReader(empty)); err != nil || a.Segments != 0 {
			t.Errorf("empty initramfs: %+v, %v", a, err)
		}
	}
}

// A small file that unpacks to a large one ends at the limit.
func TestReadCPIOLimit(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"file": strings.Repeat("x", 1<<20), "zeros": strings.Repeat("\x00", 1<<20)} {
		var b bytes.Buffer
		if _, err := initramfs.WriteSegments(&b, initramfs.Segment{Tree: treeOf(t, file("big", text)), Compression: initramfs.Zstd}); err != nil {
			t.Fatal(err)
		}
		if _, err := initramfs.ReadCPIOLimit(bytes.NewReader(b.Bytes()), 1<<20); err == nil || !strings.HasSuffix(err.Error(), "contents are larger than this check reads") {
			t.Errorf("%s: error = %v, want one about the size", name, err)
		}
		if _, err := initramfs.ReadCPIOLimit(bytes.NewReader(b.Bytes()), 2<<20); err != nil {
			t.Errorf("%s with a higher limit: %v", name, err)
		}
	}
}

// Everything WriteCPIO writes is read back as it was.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	tree := mixedTree(t)
	a := readCPIO(t, writeCPIO(t, tree, initramfs.CPIOOptions{}))
	if len(a.Records) != tree.Len() {
		t.Errorf("%d records of %d entries", len(a.Records), tree.Len())
	}
	for e := range tree.All() {
		rec := a.Find(e.Path)
		if rec == nil {
			t.Errorf("%q is not in the archive", e.Path)
			continue
		}
		f, _ := tree.Resolve(e)
		got := initramfs.Entry{Path: rec.Path, Mode: rec.Mode & 0o7777, UID: rec.UID, GID: rec.GID, MTime: rec.MTime}
		want := initramfs.Entry{Path: e.Path, Mode: f.Mode, UID: f.UID, GID: f.GID, MTime: f.MTime}
		if f.Type == initramfs.Symlink {
			got.Target, want.Target = rec.Target, f.Target
		}
		if f.Type == initramfs.File {
			data, err := a.Content(e.Path)
			if err != nil {
				t.Error(err)
			}
			got.Data, want.Data = append([]byte{}, data...), append([]byte{}, f.Data...)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-tree +archive):\n%s", e.Path, diff)
		}
	}
}

func FuzzReadCPIO(f *testing.F) {
	// Small seeds: the fuzzer spends its time making large ones smaller.
	tree := treeOf(f, file("f", "text"), symlink("l", "f"), hardLink("h", "f"), dir("d", 0o700))
	f.Add(writeCPIO(f, tree, initramfs.CPIOOptions{}))
	for _, c := range []initramfs.Compression{initramfs.Plain, initramfs.Zstd} {
		var b bytes.Buffer
		if _, err := initramfs.WriteSegments(&b, initramfs.Segment{Tree: tree, Compression: c}, initramfs.Segment{Tree: tree}); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		a, err := initramfs.ReadCPIOLimit(bytes.NewReader(archive), 1<<20)
		if err != nil {
			return
		}
		for _, r := range a.Records {
			if a.Find(r.Path) == nil {
				t.Errorf("Find(%q) finds nothing", r.Path)
			}
			a.Content(r.Path)
		}
	})
}
