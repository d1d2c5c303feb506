package pxe

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// FilesConfig is what [FilesHandler] needs.
type FilesConfig struct {
	// Blobs holds a file per content, named by its SHA-256 in hexadecimal.
	// Required.
	Blobs    *os.Root
	Observer Observer     // told of kernels and initramfs that were sent; may be nil
	Log      *slog.Logger // nil: no log
}

// blobPrefix is the first part of the path of a blob.
const blobPrefix = "blobs"

// BlobPath is where [FilesHandler] serves the content with that hash. The
// name is for people and for firmware that looks at it.
func BlobPath(sha256, name string) string {
	return "/" + blobPrefix + "/" + sha256 + "/" + fileName(name)
}

// FilesHandler serves kernels, initramfs and other bulk files at
// /blobs/SHA256/NAME, by sendfile. It is meant for a process of its own, with
// [ServeHTTP]: a thousand transfers in the process of DHCP make DHCP wait for
// seconds.
// What was sent whole is told to the observer as [StageKernel],
// [StageInitramfs] or [StageLoader], by the parameters mac and stage that the boot script puts
// into the URL; an event without MAC is of a machine that gave none.
func FilesHandler(cfg FilesConfig) http.Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &filesHandler{cfg}
}

type filesHandler struct{ cfg FilesConfig }

func (h *filesHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	name, ok := readable(w, r)
	if !ok {
		return
	}
	sum, base, ok := splitBlob(name)
	if !ok {
		plain(w, http.StatusNotFound, "no such file; files are at /blobs/SHA256/NAME")
		return
	}
	f, info, err := h.open(sum)
	if err != nil {
		status, text := http.StatusNotFound, "no such file"
		if !errors.Is(err, fs.ErrNotExist) {
			h.cfg.Log.Error("opening a file", "file", sum, "err", err)
			status, text = http.StatusInternalServerError, "this file cannot be read"
		}
		plain(w, status, text)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", contentType(base))
	w.Header().Set("ETag", `"`+sum+`"`)
	sent := &countingWriter{ResponseWriter: w}
	setDeadline(w, info.Size())
	http.ServeContent(sent, r, "", time.Time{}, f)
	if r.Method == http.MethodGet && h.cfg.Observer != nil {
		h.report(r, base, sent, info.Size(), time.Since(start))
	}
}

func (h *filesHandler) open(sum string) (*os.File, fs.FileInfo, error) {
	f, err := h.cfg.Blobs.Open(sum)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// report tells of a kernel or initramfs whose last byte went out.
func (h *filesHandler) report(r *http.Request, name string, sent *countingWriter, size int64, d time.Duration) {
	if !sent.whole(size) && !sent.endOf(size) {
		return
	}
	q := r.URL.Query()
	stage := Stage(q.Get("stage"))
	client := ClientIPXE
	switch stage {
	case StageKernel, StageInitramfs:
	case StageLoader: // a UKI: UEFI HTTP boot
		client = ClientHTTP
	default:
		return
	}
	e := Event{Time: time.Now(), IP: remoteAddr(r), Client: client, Stage: stage, Detail: name, Bytes: sent.sent, Dur: d}
	if hw, err := net.ParseMAC(q.Get("mac")); err == nil && len(hw) == len(MAC{}) {
		e.MAC = hw
	}
	h.cfg.Observer.Observe(e)
}

// endOf tells whether the answer to a range request reached the end.
func (c *countingWriter) endOf(size int64) bool {
	if c.status != http.StatusPartialContent || c.sent == 0 {
		return false
	}
	// RFC 9110 14.4: "bytes FIRST-LAST/LENGTH".
	return strings.HasSuffix(c.Header().Get("Content-Range"), fmt.Sprintf("-%d/%d", size-1, size))
}

// splitBlob takes "blobs/SHA256/NAME" apart.
func splitBlob(name string) (sum, base string, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[0] != blobPrefix || len(parts[1]) != 64 ||
		strings.Trim(parts[1], "0123456789abcdef") != "" {
		return "", "", false
	}
	return parts[1], parts[2], true
}
