package initramfs_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// These tests pin what the cpio library does wrong and WriteCPIO works around.
// Where one fails after an update, the workaround beside it may go.

// Once a header had a checksum, every later archive of the process claims to be
// of another format. It is tried in a process of its own. WriteCPIO sets no
// checksum.
func TestLibraryChecksumSpoilsLaterArchives(t *testing.T) {
	const name = "MUSTER_TEST_CHECKSUM"
	if os.Getenv(name) != "1" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLibraryChecksumSpoilsLaterArchives$", "-test.v")
		cmd.Env = append(os.Environ(), name+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "before 070701, after 070702") {
			t.Errorf("the library's magic: %v: %s", err, out)
		}
		return
	}
	magic := func(h cpio.Header) string {
		var b bytes.Buffer
		w := cpio.NewWriter(&b)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		return b.String()[:6]
	}
	before := magic(cpio.Header{Name: "a"})
	magic(cpio.Header{Name: "b", Checksum: 1})
	fmt.Printf("before %s, after %s\n", before, magic(cpio.Header{Name: "c"}))
}

// What is larger than 32 bits is cut without an error. WriteCPIO refuses it.
func TestLibraryCutsSizes(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := cpio.NewWriter(&b).WriteHeader(&cpio.Header{Name: "big", Size: 4<<30 + 5}); err != nil {
		t.Errorf("the library refuses 4 GiB now: %v", err)
	}
	if got := b.String()[54:62]; got != "10000000" {
		t.Errorf("size of 4 GiB + 5 is written as %s; it was 10000000", got)
	}
}

// Device numbers are lost. A tree holds no devices.
func TestLibraryLosesDevices(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := cpio.NewWriter(&b).WriteHeader(&cpio.Header{Name: "console", Mode: cpio.TypeChar | 0o600, DeviceID: 5<<8 | 1}); err != nil {
		t.Fatal(err)
	}
	if got := b.String()[62:94]; got != strings.Repeat("0", 32) {
		t.Errorf("device numbers are written as %s now", got)
	}
}

// The text of a symbolic link is not written from its field. WriteCPIO writes it
// as content.
func TestLibraryIgnoresLinkname(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	if err := w.WriteHeader(&cpio.Header{Name: "l", Mode: cpio.TypeSymlink | 0o777, Linkname: "target"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "target") {
		t.Error("the library writes the link text now")
	}
}

// A file with setuid gets no link count. WriteCPIO sets it.
func TestLibraryLinkCount(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := cpio.NewWriter(&b).WriteHeader(&cpio.Header{Name: "su", Mode: cpio.TypeReg | cpio.ModeSetuid | 0o755}); err != nil {
		t.Fatal(err)
	}
	if got := b.String()[38:46]; got != "00000000" {
		t.Errorf("link count of a setuid file is written as %s now", got)
	}
}

// The end of a cut archive looks like its regular end. ReadCPIO looks for the
// trailer itself.
func TestLibraryMissesTrailer(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	if err := w.WriteHeader(&cpio.Header{Name: "f"}); err != nil {
		t.Fatal(err)
	}
	r := cpio.NewReader(&b)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("archive without trailer ends with %v now; it was io.EOF", err)
	}
}

// A header that could not be written is no error; Close even forgets it.
// WriteCPIO remembers errors of its own.
func TestLibraryForgetsErrors(t *testing.T) {
	t.Parallel()
	w := cpio.NewWriter(&fullDisk{0})
	if err := w.WriteHeader(&cpio.Header{Name: "f"}); err != nil {
		t.Errorf("WriteHeader on a full disk: %v now; it was nil", err)
	}
	if err := cpio.NewWriter(&fullDisk{0}).Close(); err != nil {
		t.Errorf("Close on a full disk: %v now; it was nil", err)
	}
}
