package task

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"muster/api"
)

// signalStop stands for SIGSTOP on the way to the in-namespace init, which
// cannot catch that one.
const signalStop = unix.Signal(63)

// initConfig writes the orders for the in-namespace init, as
// cmd/muster-init/config.go reads them.
func initConfig(t api.TaskStart, root, work string, env, tmpfs []string) ([]byte, error) {
	groups := make([]string, len(t.Owner.Groups))
	for i, g := range t.Owner.Groups {
		groups[i] = strconv.FormatUint(uint64(g), 10)
	}
	fields := []string{
		"muster-init 2", t.Host, root, work,
		strconv.FormatUint(uint64(t.Owner.UID), 10), strconv.FormatUint(uint64(t.Owner.GID), 10),
		strings.Join(groups, " "), strings.Join(tmpfs, ":"), strconv.Itoa(len(t.Argv)),
	}
	fields = append(append(fields, t.Argv...), env...)
	var b []byte
	for _, f := range fields {
		if strings.Contains(f, "\x00") {
			return nil, fmt.Errorf("starting task %s: %q has a zero byte", t.TaskRef, f)
		}
		b = append(append(b, f...), 0)
	}
	return b, nil
}

// memFile returns an open file that holds b and belongs to no file system.
func memFile(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making memory for %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(b); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("writing %s: %w", name, err)
	}
	return f, nil
}

// initReport is a line that the in-namespace init wrote.
type initReport struct {
	What string // started, exit, signal, error
	N    int    // pid in the namespace, exit code, signal, exit code
	Text string // of an error
}

func parseReport(line string) (initReport, error) {
	what, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	num, text, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(num)
	switch what {
	case "started", "exit", "signal", "error":
	default:
		err = fmt.Errorf("unknown word")
	}
	if err != nil {
		return initReport{}, fmt.Errorf("reading report of init %q: %w", line, err)
	}
	return initReport{what, n, text}, nil
}
