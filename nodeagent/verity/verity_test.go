package verity

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fakeMapper records what it is asked for and fails at one request.
type fakeMapper struct {
	asked []string
	fail  uint
}

var names = map[uint]string{
	unix.DM_DEV_CREATE: "create", unix.DM_TABLE_LOAD: "load", unix.DM_DEV_SUSPEND: "resume", unix.DM_DEV_REMOVE: "remove",
}

func (m *fakeMapper) call(request uint, b []byte) ([]byte, error) {
	m.asked = append(m.asked, names[request])
	if request == m.fail {
		return nil, os.NewSyscallError("ioctl", unix.EINVAL)
	}
	header(b).Dev = unix.Mkdev(254, 300)
	return b, nil
}

func TestCreate(t *testing.T) {
	table := Table{Root: strings.Repeat("ab", 32), Blocks: 10, Device: unix.Mkdev(7, 3)}
	m := &fakeMapper{}
	path, err := create(m.call, "u", "id", table)
	if err != nil || path != "/dev/dm-300" {
		t.Errorf("it is %q, %v", path, err)
	}
	if diff := cmp.Diff([]string{"create", "load", "resume"}, m.asked); diff != "" {
		t.Error(diff)
	}
	// What was begun does not stay.
	for fail, want := range map[uint][]string{
		unix.DM_DEV_CREATE:  {"create"},
		unix.DM_TABLE_LOAD:  {"create", "load", "remove"},
		unix.DM_DEV_SUSPEND: {"create", "load", "resume", "remove"},
	} {
		m := &fakeMapper{fail: fail}
		if _, err := create(m.call, "u", "id", table); !errors.Is(err, unix.EINVAL) || err.Error() != "making the device u: ioctl: invalid argument" {
			t.Errorf("after %s: %v", names[fail], err)
		}
		if diff := cmp.Diff(want, m.asked); diff != "" {
			t.Errorf("after %s:\n%s", names[fail], diff)
		}
	}
}

func TestEncode(t *testing.T) {
	root := strings.Repeat("ab", 32)
	b := encode("name", "id", unix.DM_READONLY_FLAG, &Table{Root: root, Blocks: 10, Device: unix.Mkdev(7, 3)})
	h := header(b)
	if h.Version != [3]uint32{4, 0, 0} || int(h.Data_size) != len(b) || h.Data_start != 312 || h.Target_count != 1 || h.Flags != 1 {
		t.Errorf("the header is %+v", h)
	}
	if got := unix.ByteSliceToString(h.Name[:]) + " " + unix.ByteSliceToString(h.Uuid[:]); got != "name id" {
		t.Errorf("it names %q", got)
	}
	// struct dm_target_spec: start and length in sectors, 8 bytes that the kernel fills in, kind.
	want := "\x00\x00\x00\x00\x00\x00\x00\x00\x50\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat("\x00", 8) + "verity" + strings.Repeat("\x00", 10) +
		"1 7:3 7:3 4096 4096 10 11 sha256 " + root + " -\x00"
	if got := string(b[312 : 312+len(want)]); got != want {
		t.Errorf("the target is %q, want %q", got, want)
	}
}

func TestDecodeStatus(t *testing.T) {
	answer := func(status string) []byte {
		b := encode("name", "", 0, &Table{})
		copy(b[312+40:], status+"\x00")
		return b
	}
	for _, want := range []string{"V", "C"} {
		if got, err := decodeStatus(answer(want)); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	none := answer("V")
	header(none).Target_count = 0
	linear := answer("V")
	copy(linear[312+24:], "linear")
	beyond := answer("V")
	header(beyond).Data_start = 1 << 30
	for name, b := range map[string][]byte{"none": none, "linear": linear, "beyond": beyond} {
		if got, err := decodeStatus(b); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// This system may have no device mapper: it is said so.
func TestNoMapper(t *testing.T) {
	if _, err := os.Stat(control); err == nil {
		_, err = Intact("muster-test-nothing")
		if !errors.Is(err, unix.ENXIO) {
			t.Errorf("a device that is not there: %v", err)
		}
		return
	}
	if _, err := Intact("nothing"); !errors.Is(err, ErrNoMapper) {
		t.Errorf("without a device mapper: %v", err)
	}
}
