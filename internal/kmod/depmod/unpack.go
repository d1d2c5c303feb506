package depmod

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"muster/internal/kmod"
)

// MaxModule is the size of the largest module that is unpacked. The largest of
// Debian's has 15 MB.
const MaxModule = 256 << 20

// Unpack reads the module in r to its end and returns its ELF file. The suffix
// of name tells how it is packed: .ko, .ko.xz, .ko.zst or .ko.gz.
func Unpack(name string, r io.Reader) ([]byte, error) {
	ko, err := unpack(name, r)
	if err != nil {
		return nil, fmt.Errorf("unpacking module %s: %w", name, err)
	}
	return ko, nil
}

func unpack(name string, r io.Reader) ([]byte, error) {
	switch path.Ext(name) {
	case ".ko":
		return readBounded(r)
	case ".xz":
		x, err := xz.NewReader(r, xz.DefaultDictMax)
		if err != nil {
			return nil, err
		}
		return readBounded(x)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return readBounded(z)
	case ".gz":
		g, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		return readBounded(g)
	}
	return nil, fmt.Errorf("%w: its name ends neither in .ko nor in .ko.xz, .ko.zst, .ko.gz", ErrNotModule)
}

func readBounded(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, MaxModule+1))
	if err != nil {
		return nil, err
	}
	if n > MaxModule {
		return nil, fmt.Errorf("it is larger than %d bytes", MaxModule)
	}
	return b.Bytes(), nil
}

// RawPath is the path of a module once it is unpacked: without .xz, .zst, .gz.
func RawPath(p string) string {
	if i := strings.LastIndex(p, ".ko."); i >= 0 && kmod.IsModuleFile(p) {
		return p[:i+len(".ko")]
	}
	return p
}
