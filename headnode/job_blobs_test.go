package headnode

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"muster/api"
)

// One user's files fill neither the disk nor what others may send, and they go when no job uses them.
func TestBlobsBounded(t *testing.T) {
	now := time.Now()
	b, err := newJobBlobs(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	const file = 3 << 20
	b.most = 2*file + blobPiece
	put := func(uid uint32, fill byte) (api.SentFile, error) {
		data := bytes.Repeat([]byte{fill}, file)
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		return api.SentFile{Path: "f", SHA256: sum, Size: file}, b.put(uid, sum, bytes.NewReader(data))
	}
	first, err := put(1, 'a')
	if err != nil {
		t.Fatal(err)
	}
	if err := b.hold(1, []api.SentFile{first}); err != nil {
		t.Fatal(err)
	}
	if _, err := put(1, 'b'); err != nil {
		t.Fatal(err)
	}
	_, err = put(1, 'c')
	if e := api.AsError(err); api.CodeOf(err) != api.CodeTooLarge || !strings.Contains(e.Msg, "at most 7 MiB are kept") || !strings.Contains(e.Hint, "share") {
		t.Errorf("a third file: %v, want too_large with the limit and a way out", err)
	}
	if _, err := put(2, 'c'); err != nil {
		t.Errorf("another user: %v", err)
	}
	if _, err := put(1, 'a'); err != nil {
		t.Errorf("a file that is there: %v", err)
	}
	// An upload that was cut off counts for nothing.
	before := b.has[1]
	if err := b.put(1, strings.Repeat("0", 64), strings.NewReader("other content")); api.CodeOf(err) != api.CodeInvalid || b.has[1] != before {
		t.Errorf("an upload with another hash: %v, and %d bytes are booked, want %d", err, b.has[1], before)
	}
	now = now.Add(2 * blobGrace)
	b.sweep()
	if b.has[1] != file {
		t.Errorf("after an hour %d bytes are booked, want the %d that a job uses", b.has[1], file)
	}
	if _, err := put(1, 'c'); err != nil {
		t.Errorf("the third file after an hour: %v", err)
	}
	b.room = func(int64) error { return syscall.ENOSPC }
	_, err = put(2, 'd')
	if e := api.AsError(err); api.CodeOf(err) != api.CodeDiskFull || e.Hint == "" {
		t.Errorf("a file on a full disk: %v, want disk_full with a way out", err)
	}
}
