package boot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// writeFile replaces a file in one step.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// copyLines calls line for each line of r until it ends. A line that is too
// long is handed on in parts.
func copyLines(r io.Reader, line func(string)) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		b, err := br.ReadSlice('\n')
		if n := len(b); n > 0 {
			if b[n-1] == '\n' {
				b = b[:n-1]
			}
			line(string(b))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
