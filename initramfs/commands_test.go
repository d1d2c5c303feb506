package initramfs_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	"muster/initramfs"
	"muster/initramfs/ramfstest"
)

func testBusybox() *initramfs.Busybox {
	return &initramfs.Busybox{Commands: []string{"cat", "ls", "sh"}}
}

func TestBusyboxAddTo(t *testing.T) {
	t.Parallel()
	tree := initramfs.NewTree(testTime)
	if err := testBusybox().AddTo(tree, []byte("ELF"), nil); err != nil {
		t.Fatal(err)
	}
	ramfstest.Check(t, readCPIO(t, writeCPIO(t, tree, initramfs.CPIOOptions{})),
		ramfstest.HasFile("bin/bb", 0o755), ramfstest.HasContent("bin/bb", "ELF"),
		ramfstest.HasLink("bin/cat", "bb"), ramfstest.HasLink("bin/ls", "bb"), ramfstest.HasLink("bin/sh", "bb"))

	some := initramfs.NewTree(testTime)
	if err := testBusybox().AddTo(some, nil, []string{"sh"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(paths(some), " "); got != "bin bin/bb bin/sh" {
		t.Errorf("subset has %s", got)
	}
}

func TestBusyboxAddToErrors(t *testing.T) {
	t.Parallel()
	tree := initramfs.NewTree(testTime)
	err := testBusybox().AddTo(tree, nil, []string{"sh", "vi"})
	if want := "u-root command vi is not in the busybox; it has: cat ls sh"; err == nil || err.Error() != want {
		t.Errorf("AddTo() error = %v, want %s", err, want)
	}
	taken := treeOf(t, file("bin/cat", ""))
	if err := testBusybox().AddTo(taken, nil, nil); err == nil || !strings.Contains(err.Error(), "a.deb") {
		t.Errorf("AddTo() error = %v, want one that names the other source", err)
	}
}

// What a person or a script expects of any machine.
func TestBusyboxCommands(t *testing.T) {
	t.Parallel()
	var names []string
	for _, p := range initramfs.BusyboxCommands() {
		names = append(names, path.Base(p))
	}
	if len(names) != len(slices.Compact(slices.Sorted(slices.Values(names)))) {
		t.Errorf("a command is there twice: %v", names)
	}
	for _, want := range strings.Fields("cat cp date echo env false grep head hostname kill ls mkdir mount nproc ps rm seq sh sha256sum sleep sort tail true uname wc yes") {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not in the busybox", want)
		}
	}
}
