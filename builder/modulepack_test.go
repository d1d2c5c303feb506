package builder

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"muster/builder/squashfs"
	"muster/images"
	"muster/internal/kmod"

	"github.com/google/go-cmp/cmp"
)

// inIndex returns the files of a userland that are the index of the kernel's modules.
func inIndex(t testing.TB, dir string) fstest.MapFS {
	t.Helper()
	out := fstest.MapFS{}
	err := readUserland(filepath.Join(dir, userlandName), func(f squashfs.File) error {
		name, ok := strings.CutPrefix(f.Path, "usr/lib/modules/"+newKernel+"/")
		if !ok || f.Content == nil {
			return nil
		}
		data, err := io.ReadAll(f.Content)
		out[name] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A userland has the index of all modules of the kernel, and the pack what the index says.
func TestModulePack(t *testing.T) {
	a := userlandArchive(t)
	cfg := testConfig(t, a, testDefinition+packageList)
	m := mustBuild(t, cfg)
	files := inIndex(t, cfg.Out)
	index, err := kmod.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	pack, err := kmod.ParsePack(files[kmod.PackFile].Data)
	if err != nil {
		t.Fatal(err)
	}
	art, ok := m.File(images.KindModules)
	if !ok || art.SHA256 != pack.SHA256 || art.Size != pack.Size {
		t.Errorf("the manifest has %+v, the index is of %s with %d bytes", art, pack.SHA256, pack.Size)
	}
	data, err := os.ReadFile(filepath.Join(cfg.Out, packName))
	if err != nil {
		t.Fatal(err)
	}
	var inTar, inPack []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(h.Name, "lib/modules/"+newKernel+"/")
		inTar = append(inTar, name)
		q := pack.Pieces[name]
		if !bytes.Equal(content, data[q.Offset:q.Offset+q.Size]) || hashBytes(content) != q.SHA256 || !h.ModTime.Equal(m.Time) {
			t.Errorf("%s: the index says %+v", name, q)
		}
	}
	for mod := range index.All() {
		inPack = append(inPack, mod.Path)
		for _, dep := range mod.Deps {
			if _, ok := index.Module(dep); !ok {
				t.Errorf("%s needs %s, which is not in the index", mod.Name, dep)
			}
		}
	}
	if diff := cmp.Diff(inTar, inPack); diff != "" || len(inTar) <= len(m.Modules) {
		t.Errorf("index and tar differ, or have no more than the %d of the initramfs:\n%s", len(m.Modules), diff)
	}
	for _, name := range m.Modules {
		if _, ok := index.Module(name); !ok {
			t.Errorf("%s of the initramfs is not in the index", name)
		}
	}

	for name, definition := range map[string]string{
		"no userland": testDefinition,
		"rest: none":  strings.Replace(testDefinition, "ethernet]}", "ethernet], rest: none}", 1) + packageList,
	} {
		other := testConfig(t, a, definition)
		m := mustBuild(t, other)
		if _, ok := m.File(images.KindModules); ok {
			t.Errorf("%s: there is a pack", name)
		}
		if _, ok := m.File(images.KindUserland); ok && len(inIndex(t, other.Out)) > 0 {
			t.Errorf("%s: there is an index", name)
		}
	}
}

func TestVerifyModules(t *testing.T) {
	cfg := testConfig(t, userlandArchive(t), testDefinition+packageList)
	m := mustBuild(t, cfg)
	checked, err := Verify(cfg.Out)
	if err != nil || !slices.ContainsFunc(checked, func(c Checked) bool { return strings.HasPrefix(c.What, "kernel modules, ") }) {
		t.Errorf("%+v, %v", checked, err)
	}
	name := filepath.Join(cfg.Out, packName)
	index := inIndex(t, cfg.Out)[kmod.PackFile].Data
	flipBit(t, name)
	for want, do := range map[string]func() error{
		"modules.tar: its SHA-256 is":                      func() error { _, err := Verify(cfg.Out); return err },
		"its index in the userland is of":                  func() error { _, err := verifyPack(name, index); return err },
		"its index in the userland: modules.pack is empty": func() error { _, err := verifyPack(name, nil); return err },
		"there is no userland": func() error {
			_, err := verifyModules(cfg.Out, name, &images.Manifest{Kernel: m.Kernel})
			return err
		},
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	sum, err := hashFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, pieces, _ := strings.Cut(string(index), "\n")
	other := fmt.Appendf(nil, "%d %s\n%s", sum.Size, sum.SHA256, pieces)
	if _, err := verifyPack(name, other); err == nil || !strings.Contains(err.Error(), "in it is not what its index in the userland says") {
		t.Errorf("a module that differs: %v", err)
	}
}
