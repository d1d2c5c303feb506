package builder

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// packedBlocks keeps the packed blocks of squashfs images in the cache: an image that differs
// little from an earlier one is packed in a tenth of the time. A block that
// is damaged, or cannot be kept, is packed again.
type packedBlocks struct{ c *cache }

func (p packedBlocks) file(key string) string {
	return filepath.Join(p.c.dir, "packed", hashBytes(fmt.Append(nil, cacheFormat, key)))
}

// Load implements [squashfs.Packed].
func (p packedBlocks) Load(dst []byte, key string) ([]byte, bool) {
	data, err := os.ReadFile(p.file(key))
	if err != nil || len(data) < sha256.Size {
		return dst, false
	}
	sum, data := data[:sha256.Size], data[sha256.Size:]
	if got := sha256.Sum256(data); !bytes.Equal(got[:], sum) {
		p.c.log.Warn("damaged block in the cache is packed again", "artifact", p.file(key), "want", hex.EncodeToString(sum))
		return dst, false
	}
	return append(dst, data...), true
}

// Store implements [squashfs.Packed].
func (p packedBlocks) Store(key string, packed []byte) {
	sum := sha256.Sum256(packed)
	if err := writeFile(p.file(key), append(sum[:], packed...)); err != nil {
		p.c.log.Debug("packed block not kept", "err", err)
	}
}
