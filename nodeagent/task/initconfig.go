package task

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"muster/api"
)

// initConfig writes the orders for the in-namespace init, as
// cmd/muster-init/config.go reads them.
func initConfig(t api.TaskStart, v View, work string, env, tmpfs []string) ([]byte, error) {
	settings := []string{
		"muster-init 5", "host=" + t.Host, "root=" + v.Root, "work=" + work, "dir=" + api.DecodeText(t.Dir),
		"uid=" + decimal(t.Owner.UID), "gid=" + decimal(t.Owner.GID),
		"stdout=" + api.DecodeText(t.Output), "stderr=" + api.DecodeText(t.Errors),
	}
	for _, g := range t.Owner.Groups {
		settings = append(settings, "group="+decimal(g))
	}
	if t.Umask != nil {
		settings = append(settings, "umask="+decimal(*t.Umask&0o777))
	}
	for _, l := range t.Limits {
		settings = append(settings, fmt.Sprintf("limit=%d:%d:%d", l.Resource, l.Soft, l.Hard))
	}
	for _, dir := range tmpfs {
		settings = append(settings, "tmpfs="+dir)
	}
	for _, s := range v.Shares {
		word := "share="
		if s.ReadOnly {
			word = "share-ro="
		}
		settings = append(settings, word+s.From, s.To)
	}
	for _, f := range v.Files {
		settings = append(settings, "file="+f.From, f.To)
	}
	if t.Terminal != nil {
		settings = append(settings, fmt.Sprintf("tty=%dx%d", t.Terminal.Rows, t.Terminal.Columns))
	}
	if t.Tasks > 1 {
		settings = append(settings, "tasks="+strconv.Itoa(t.Tasks))
	}
	if t.Containers {
		settings = append(settings, "containers")
	}
	settings = append(settings, "", strconv.Itoa(len(t.Argv)))
	for _, a := range t.Argv {
		settings = append(settings, api.DecodeText(a))
	}
	var b []byte
	for _, f := range append(settings, env...) {
		if strings.Contains(f, "\x00") {
			return nil, fmt.Errorf("starting task %s: %q has a zero byte", t.TaskRef, f)
		}
		b = append(append(b, f...), 0)
	}
	return b, nil
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

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
	What string // started, stopped, continued, exit, signal, error
	N    int    // pid in the namespace, signal, 0, exit code, signal, exit code
	Text string // of an error
}

func parseReport(line string) (initReport, error) {
	what, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	num, text, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(num)
	switch what {
	case "started", "stopped", "continued", "exit", "signal", "error":
	default:
		err = fmt.Errorf("unknown word")
	}
	if err != nil {
		return initReport{}, fmt.Errorf("reading report of init %q: %w", line, err)
	}
	return initReport{what, n, text}, nil
}
