package ramfstest_test

import (
	"bytes"
	"testing"
	"time"

	"muster/initramfs"
	"muster/initramfs/ramfstest"
)

func testArchive(t *testing.T) *initramfs.Archive {
	t.Helper()
	tree := initramfs.NewTree(time.Unix(1, 0))
	for _, e := range []initramfs.Entry{
		{Path: "init", Type: initramfs.File, Mode: 0o755, UID: 1, GID: 2, Data: []byte("x")},
		{Path: "bin/sh", Type: initramfs.Symlink, Target: "bb"},
	} {
		if err := tree.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := initramfs.WriteCPIO(&b, tree, initramfs.CPIOOptions{}); err != nil {
		t.Fatal(err)
	}
	a, err := initramfs.ReadCPIO(&b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestCheckPasses(t *testing.T) {
	t.Parallel()
	ramfstest.Check(t, testArchive(t),
		ramfstest.HasFile("init", 0o755),
		ramfstest.HasContent("init", "x"),
		ramfstest.HasOwner("init", 1, 2),
		ramfstest.HasDir("bin", 0o755),
		ramfstest.HasLink("bin/sh", "bb"),
		ramfstest.Missing("etc"))
}

// Each validator complains about what it is for.
func TestValidatorsComplain(t *testing.T) {
	t.Parallel()
	a := testArchive(t)
	for want, v := range map[string]ramfstest.Validator{
		"init has mode 0100755, want 0100644":                                     ramfstest.HasFile("init", 0o644),
		"init has mode 0100755, want 040755":                                      ramfstest.HasDir("init", 0o755),
		"etc is not in the archive":                                               ramfstest.HasDir("etc", 0o755),
		"x is not in the archive":                                                 ramfstest.HasContent("x", ""),
		`init has 1 bytes "x", want 2 bytes "xy"`:                                 ramfstest.HasContent("init", "xy"),
		"bin has mode 040755: no file":                                            ramfstest.HasContent("bin", ""),
		"init belongs to 1:2, want 0:0":                                           ramfstest.HasOwner("init", 0, 0),
		"y is not in the archive":                                                 ramfstest.HasOwner("y", 0, 0),
		`bin/sh has mode 0120777 and target "bb", want a symbolic link to "dash"`: ramfstest.HasLink("bin/sh", "dash"),
		`init has mode 0100755 and target "", want a symbolic link to "bb"`:       ramfstest.HasLink("init", "bb"),
		"z is not in the archive":                                                 ramfstest.HasLink("z", "bb"),
		"init is in the archive (mode 0100755), and should not be":                ramfstest.Missing("init"),
	} {
		if err := v(a); err == nil || err.Error() != want {
			t.Errorf("validator says %v, want %s", err, want)
		}
	}
}
