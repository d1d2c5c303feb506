package headnode

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"muster/api"
)

// serveEvents sends what changes as server-sent events, of jobs those that the caller may see. Query: since=REVISION
// of a listing, or header Last-Event-ID; without, from now on.
func (s *httpServer) serveEvents(w http.ResponseWriter, r *http.Request) error {
	after := s.cfg.Events.Revision()
	since := r.URL.Query().Get("since")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		since = id
	}
	if since != "" {
		n, err := strconv.ParseUint(since, 10, 64)
		if err != nil {
			return invalid("pass the revision of a listing", "since %.40q is not a revision", since)
		}
		after = n
	}
	ctl, who := http.NewResponseController(w), callerOf(r.Context())
	begun := false
	for {
		ctx, cancel := context.WithTimeout(r.Context(), 15*time.Second)
		events, err := s.cfg.Events.Next(ctx, after, 256)
		cancel()
		switch {
		case r.Context().Err() != nil:
			return nil
		case after == 0 && api.CodeOf(err) == api.CodeConflict:
			after = s.cfg.Events.Revision() // all that is left begins later
			continue
		case errors.Is(err, context.DeadlineExceeded):
			events = nil
		case err != nil && !begun:
			return err
		case err != nil:
			fmt.Fprintf(w, "event: error\ndata: %s\n\n", mustJSON(api.ErrorReply{Err: wireError(err)}))
			return nil
		}
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-store")
		}
		ctl.SetWriteDeadline(time.Now().Add(streamWrite))
		for _, e := range events {
			after = e.Revision
			if e.Job != nil {
				if !who.sees(e.Job.Owner) {
					continue
				}
				own := *e.Job // others are told of it too
				own.Spec.Env = nil
				e.Job = &own
			}
			fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", e.Revision, e.Kind, mustJSON(e))
		}
		if len(events) == 0 {
			fmt.Fprint(w, ": nothing new\n\n")
		}
		if err := ctl.Flush(); err != nil {
			return nil
		}
	}
}

// putBlob takes a file by its hash: one that a job sends along, or with
// for=image one of an image that is about to be published.
func (s *httpServer) putBlob(w http.ResponseWriter, r *http.Request) error {
	sum, image, err := blobOf(r)
	if err != nil {
		return err
	}
	if image {
		if err := mustAdmin(r.Context(), "publish images"); err != nil {
			return err
		}
		err = s.cfg.Images.PutBlob(r.Context(), sum, r.Body)
	} else {
		err = s.cfg.Jobs.blobs.put(callerOf(r.Context()).owner.UID, sum, r.Body)
	}
	if err != nil {
		return err
	}
	writeJSON(w, empty{})
	return nil
}

func (s *httpServer) headBlob(w http.ResponseWriter, r *http.Request) error {
	sum, image, err := blobOf(r)
	if err != nil {
		return err
	}
	var size int64
	if image {
		n, ok := s.cfg.Images.HasBlob(sum)
		if !ok {
			return noBlob(sum)
		}
		size = n
	} else if size, err = s.cfg.Jobs.blobs.stat(sum); err != nil {
		return err
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	return nil
}

func blobOf(r *http.Request) (sum string, image bool, err error) {
	sum = r.PathValue("sha256")
	if !isSHA256(sum) {
		return "", false, invalid("", "%.80q is not a SHA-256 in hexadecimal", sum)
	}
	switch use := r.URL.Query().Get("for"); use {
	case "", "job":
		return sum, false, nil
	case "image":
		return sum, true, nil
	default:
		return "", false, invalid("pass for=job or for=image", "files are not kept for %.20q", use)
	}
}
