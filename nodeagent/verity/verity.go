package verity

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	control    = "/dev/mapper/control"
	sectorSize = 512
	// room is for what comes back of a table: a line of text.
	room = 4096
)

// BlockSize is the size of blocks of data and of hashes.
const BlockSize = 4096

// Table is what a device is made of. The tree is one of SHA-256 over blocks of 4096 bytes, without salt.
type Table struct {
	Root   string // hash in hexadecimal
	Blocks int64  // of data; the tree begins one block behind them
	Device uint64 // number of the block device that has data and tree
}

// ErrNoMapper says that the kernel has no device mapper, or no dm-verity.
var ErrNoMapper = errors.New("the kernel of this node has no dm_verity")

// Create makes the device of that name and returns its path. What is in uuid can be read in sysfs for
// as long as it is there, dm/uuid.
func Create(name, uuid string, t Table) (path string, err error) {
	return create(mapper, name, uuid, t)
}

// Remove ends a device that nobody uses.
func Remove(name string) error {
	_, err := mapper(unix.DM_DEV_REMOVE, encode(name, "", 0, nil))
	return describe(err, "removing the device %s", name)
}

// Intact says whether no block of a device that was read was a wrong one.
func Intact(name string) (bool, error) {
	reply, err := mapper(unix.DM_TABLE_STATUS, encode(name, "", 0, nil))
	if err != nil {
		return false, describe(err, "looking at the device %s", name)
	}
	status, err := decodeStatus(reply)
	if err != nil {
		return false, describe(err, "looking at the device %s", name)
	}
	return status == "V", nil // else C: corrupted
}

// create makes a device by call, which is the device mapper.
func create(call func(request uint, b []byte) ([]byte, error), name, uuid string, t Table) (path string, err error) {
	const doing = "making the device %s"
	reply, err := call(unix.DM_DEV_CREATE, encode(name, uuid, unix.DM_READONLY_FLAG, nil))
	if err != nil {
		return "", describe(err, doing, name)
	}
	minor := unix.Minor(header(reply).Dev)
	if _, err = call(unix.DM_TABLE_LOAD, encode(name, "", unix.DM_READONLY_FLAG, &t)); err == nil {
		_, err = call(unix.DM_DEV_SUSPEND, encode(name, "", unix.DM_READONLY_FLAG, nil)) // without DM_SUSPEND_FLAG: go
	}
	if err != nil {
		_, _ = call(unix.DM_DEV_REMOVE, encode(name, "", 0, nil)) // the first error says why
		return "", describe(err, doing, name)
	}
	return fmt.Sprintf("/dev/dm-%d", minor), nil
}

func describe(err error, format, name string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		err = ErrNoMapper
	}
	return fmt.Errorf(format+": %w", name, err)
}

// params is the line that the target takes: version, devices of data and tree, sizes of their blocks, number of
// blocks, block that the tree begins at, algorithm, root hash, salt.
func (t Table) params() string {
	dev := fmt.Sprintf("%d:%d", unix.Major(t.Device), unix.Minor(t.Device))
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s -", dev, dev, BlockSize, BlockSize, t.Blocks, t.Blocks+1, t.Root)
}

// encode returns a request: header, and the table with its one target.
func encode(name, uuid string, flags uint32, t *Table) []byte {
	b := make([]byte, unix.SizeofDmIoctl+room)
	h := header(b)
	h.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
	h.Data_size, h.Data_start, h.Flags = uint32(len(b)), unix.SizeofDmIoctl, flags
	copy(h.Name[:len(h.Name)-1], name)
	copy(h.Uuid[:len(h.Uuid)-1], uuid)
	if t == nil {
		return b
	}
	h.Target_count = 1
	target := (*unix.DmTargetSpec)(unsafe.Pointer(&b[unix.SizeofDmIoctl]))
	target.Length = uint64(t.Blocks) * (BlockSize / sectorSize)
	copy(target.Target_type[:], "verity")
	copy(b[unix.SizeofDmIoctl+unix.SizeofDmTargetSpec:], t.params())
	return b
}

func header(b []byte) *unix.DmIoctl { return (*unix.DmIoctl)(unsafe.Pointer(&b[0])) }

// decodeStatus returns what the one target of a device says of itself.
func decodeStatus(b []byte) (string, error) {
	h := header(b)
	start := int(h.Data_start)
	if h.Target_count != 1 || start < unix.SizeofDmIoctl || start > len(b)-unix.SizeofDmTargetSpec {
		return "", fmt.Errorf("it has %d targets", h.Target_count)
	}
	text, _, ok := bytes.Cut(b[start+unix.SizeofDmTargetSpec:], []byte{0})
	kind := strings.TrimRight(string(b[start+24:start+40]), "\x00") // target_type
	if !ok || kind != "verity" {
		return "", fmt.Errorf("it is of kind %q", kind)
	}
	return strings.TrimSpace(string(text)), nil
}

// mapper is the kernel's.
func mapper(request uint, b []byte) ([]byte, error) {
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return nil, os.NewSyscallError("ioctl", errno)
	}
	return b, nil
}
