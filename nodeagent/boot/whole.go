package boot

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// adviceMemory is what to do about an initramfs that did not fit.
const adviceMemory = "give the machine more memory, or add rootfstype=ramfs to the kernel command line"

// wholeProblems says what of the initramfs is missing. The kernel goes on with
// what it could unpack; without this check a machine would only
// behave strangely. root is the folder that the initramfs was unpacked to.
func wholeProblems(root string) []string {
	list, err := os.ReadFile(filepath.Join(root, filesList))
	if err != nil {
		return []string{fmt.Sprintf("the initramfs is not whole: %s is missing; %s", filesList, adviceMemory)}
	}
	missing := 0
	first := ""
	for line := range strings.Lines(string(list)) {
		size, path, err := parseFileLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return []string{fmt.Sprintf("the initramfs is damaged: %s: %v", filesList, err)}
		}
		// A file that the site segment replaced has another size and is
		// whole; the kernel's own words tell of that segment.
		st, err := os.Lstat(filepath.Join(root, path))
		if err != nil || st.Size() < size && path != "/etc/muster/site.json" {
			missing++
			if first == "" {
				first = path
			}
		}
	}
	if missing == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the initramfs is not whole: %s and %d other files are missing or short; %s", first, missing-1, adviceMemory)}
}

// parseFileLine reads a line of /etc/muster/files: "SIZE PATH", newline and
// backslash in the path escaped.
func parseFileLine(line string) (size int64, path string, err error) {
	num, esc, ok := strings.Cut(line, " ")
	if !ok || !strings.HasPrefix(esc, "/") {
		return 0, "", fmt.Errorf("line %q is not SIZE PATH", clean(line, 80))
	}
	size, err = strconv.ParseInt(num, 10, 64)
	if err != nil || size < 0 {
		return 0, "", fmt.Errorf("line %q has no size", clean(line, 80))
	}
	return size, strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(esc), nil
}

// kernelProblems looks through the kernel's log for complaints about the
// initramfs.
func kernelProblems(log []byte) []string {
	var problems []string
	for line := range bytes.Lines(log) {
		if i := bytes.Index(line, []byte("Initramfs unpacking failed")); i >= 0 {
			text := clean(strings.TrimSpace(string(line[i:])), 200)
			problems = append(problems, fmt.Sprintf("kernel: %s; %s", text, adviceMemory))
		}
	}
	return problems
}

// readKernelLog returns what is in the kernel's log buffer.
func readKernelLog() ([]byte, error) {
	const readAll, sizeBuffer = 3, 10 // SYSLOG_ACTION_READ_ALL and _SIZE_BUFFER of syslog(2)
	n, err := unix.Klogctl(sizeBuffer, nil)
	if err != nil {
		return nil, fmt.Errorf("asking for the size of the kernel log: %w", err)
	}
	buf := make([]byte, n)
	n, err = unix.Klogctl(readAll, buf)
	if err != nil {
		return nil, fmt.Errorf("reading the kernel log: %w", err)
	}
	return buf[:n], nil
}

// imageProblems compares the image that was started with the one that was
// asked for.
func imageProblems(root, want string) []string {
	id, err := os.ReadFile(filepath.Join(root, imageFile))
	switch got := strings.TrimSpace(string(id)); {
	case errors.Is(err, os.ErrNotExist):
		return []string{fmt.Sprintf("the initramfs names no image: %s is missing; build it with muster build", imageFile)}
	case err != nil:
		return []string{fmt.Sprintf("reading the image ID: %v", err)}
	case want != "" && got != want:
		return []string{fmt.Sprintf("image %.12s was started, but the kernel command line names %.12s; start the machine again", got, want)}
	}
	return nil
}
