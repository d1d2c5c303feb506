package builder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// imageOf writes a layout of an image for amd64 with these layers and returns its folder.
func imageOf(t testing.TB, layers ...v1.Layer) string {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.Architecture, c.OS = "amd64", "linux"
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	return dir
}

// debianImage is an image as Debian's are: dpkg's records, certificates with their bundle, users, and an
// older version of a package that is asked for.
func debianImage(t testing.TB) string {
	t.Helper()
	status := func(name, version string) string {
		return fmt.Sprintf("Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\n\n", name, version)
	}
	return imageOf(t, layerOf(t,
		[2]string{"bin", "->usr/bin"}, [2]string{"lib64", "->usr/lib64"},
		[2]string{"etc/passwd", "root:x:0:0::/root:/bin/bash\nbase:x:100:100::/:/bin/sh\n"}, [2]string{"etc/group", "root:x:0:\nbase:x:100:\n"},
		[2]string{"usr/share/ca-certificates/mozilla/B.crt", "of the image"}, [2]string{"etc/ssl/certs/ca-certificates.crt", "bundle of the image\n"},
		[2]string{"usr/bin/bash", "bash"}, [2]string{"usr/bin/tool", "tool 1"}, [2]string{"usr/bin/tool-of-old", "tool 1"}, [2]string{"usr/bin/both", "x"},
		[2]string{"var/lib/dpkg/status", status("bash", "5") + status("tool", "1")},
		[2]string{"var/lib/dpkg/info/tool.list", "/.\n/usr\n/usr/bin\n/usr/bin/tool\n/usr/bin/tool-of-old\n/usr/bin/both\n"},
		[2]string{"var/lib/dpkg/info/bash:amd64.list", "/.\n/bin/bash\n/usr/bin/both\n"},
		[2]string{"usr/share/doc/bash/copyright", "License: GPL-3+\n"},
		[2]string{"tmp/left", "x"}, [2]string{"run/lock/left", "x"}))
}

// Packages over an image: what the image has of its own stays, what packages bring anew counts, and
// the definition's users are added to those of both.
func TestPackagesOverImage(t *testing.T) {
	const users = "users:\n  - {name: alice, uid: 5000}\n"
	for name, c := range map[string]struct{ userland, script, want string }{
		"nothing over it": {
			"", "cat etc/ssl/certs/ca-certificates.crt; cut -d: -f1,3 etc/passwd; cat usr/bin/tool; echo; find tmp run",
			"bundle of the image\nroot:0\nbase:100\nalice:5000\ntool 1\ntmp\nrun\n",
		},
		"packages": {
			"  - packages: [tool]\n", "cat etc/ssl/certs/ca-certificates.crt; cut -d: -f1,3 etc/passwd; cat usr/bin/tool; echo; ls usr/bin; grep -E '^(Package|Version)' var/lib/dpkg/status",
			"first\nsecond\nroot:0\nbase:100\nalice:5000\ntool:101\ntool\nawk\nbash\nboth\ngawk\nigawk\nnawk\nsh\ntool\n" +
				"Package: bash\nVersion: 5\nPackage: ca-certificates\nVersion: 1\nPackage: gawk\nVersion: 1\nPackage: tool\nVersion: 2\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			base := debianImage(t)
			cfg := testConfig(t, userlandArchive(t), testDefinition+users+"userland:\n  - oci: "+base+"\n"+c.userland)
			if diff := cmp.Diff(c.want, userlandFilesOf(t, cfg, c.script)); diff != "" {
				t.Error(diff)
			}
			license := ""
			for _, p := range readSBOM(t, cfg.Out).Packages {
				if p.PackageName == "bash" && p.PackageVersion == "5" {
					license = p.PackageLicenseDeclared
				}
			}
			if !strings.HasPrefix(license, "LicenseRef-copyright-") {
				t.Errorf("the bill says of bash, which is in the image, that its license is %q", license)
			}
			if text := readFile(t, filepath.Join(cfg.Out, sourcesName)); !strings.Contains(text, base) {
				t.Errorf("SOURCES does not name the image: %s", text)
			}
		})
	}
}

// Sources over each other: further names of a file that is replaced keep it, a folder goes through the
// link that is there, and of an image the later layer counts.
func TestSourcesOverEachOther(t *testing.T) {
	tree := func(files ...[2]string) string {
		file := filepath.Join(t.TempDir(), "site.tar")
		if err := os.WriteFile(file, tarOf(t, files...), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	base := imageOf(t,
		layerOf(t, [2]string{"usr/bin/one", "first"}, [2]string{"usr/bin/two", "=>usr/bin/one"}, [2]string{"bin/three", "=>usr/bin/one"},
			[2]string{"etc/alias", "->real"}, [2]string{"etc/real/a", "a"}, [2]string{"usr/bin/self", "->/bin/self"}, [2]string{"bin/self", "self"},
			[2]string{"etc/twice", "first"}, [2]string{"etc/twice", "last"}),
		layerOf(t, [2]string{"usr/bin/two", "second layer"}))
	archive := tree([2]string{"usr/bin/one", "archive"}, [2]string{"etc/alias/", ""}, [2]string{"etc/alias/b", "b"}, [2]string{"run/x", "x"})
	const script = `for f in usr/bin/one usr/bin/two usr/bin/three usr/bin/self etc/twice etc/real/a etc/real/b; do echo $(cat $f); done; readlink etc/alias bin; find run`
	want := "archive\nsecond layer\nfirst\nself\nlast\na\nb\nreal\nusr/bin\nrun\n"
	cfg := sourceConfig(t, "oci: "+base+"\n  - tar: "+archive)
	if diff := cmp.Diff(want, userlandFilesOf(t, cfg, script)); diff != "" {
		t.Error(diff)
	}

	for name, c := range map[string]struct{ archive, want string }{
		"file over folder":   {tree([2]string{"etc/real", "x"}), "etc/real: file"},
		"link over folder":   {tree([2]string{"etc/real", "->/usr"}), "etc/real: symbolic link"},
		"folder over file":   {tree([2]string{"usr/bin/one/", ""}), "/usr/bin/one is a file in oci"},
		"below a file":       {tree([2]string{"usr/bin/one/x", "x"}), "usr/bin/one is a file from oci"},
		"what muster brings": {tree([2]string{"usr/lib/muster/init", "x"}), "/usr/lib/muster/init of"},
	} {
		_, err := Build(t.Context(), sourceConfig(t, "oci: "+base+"\n  - tar: "+c.archive))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "tar "+c.archive) || !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v (wrong input %v), want %q and both sources", name, err, errors.Is(err, ErrInput), c.want)
		}
	}
}
