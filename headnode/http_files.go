package headnode

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"muster/api"
)

func (s *httpServer) routeFiles() {
	route(s, "GET", "/v1/jobs/{id}/files", "list-job-files", "List what became of the files that a job brings back, of tasks that have ended",
		func(ctx context.Context, in *jobPath) (api.List[api.FetchedFile], error) {
			l := api.List[api.FetchedFile]{Revision: s.cfg.Events.Revision()}
			v, err := s.cfg.Jobs.Get(ctx, in.ID)
			if err != nil {
				return l, err
			}
			if err := mustOwn(ctx, v.Owner, v.ID, "see the files of"); err != nil {
				return l, err
			}
			l.Items, err = s.cfg.Jobs.Files(ctx, in.ID)
			return l, err
		})
}

// serveFile sends a file that a task has brought back, or a range of it.
func (s *httpServer) serveFile(w http.ResponseWriter, r *http.Request) error {
	job, err := s.ownJob(r, "read the files of")
	if err != nil {
		return err
	}
	task, err1 := strconv.Atoi(r.PathValue("task"))
	file, err2 := strconv.Atoi(r.PathValue("file"))
	if err1 != nil || err2 != nil {
		return invalid("", "%.20q and %.20q are no numbers of a task and a file", r.PathValue("task"), r.PathValue("file"))
	}
	f, is, err := s.cfg.Jobs.openFile(job.id, task, file)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("ETag", `"`+is.SHA256+`"`)
	http.ServeContent(&patientWriter{w, http.NewResponseController(w)}, r, "", time.Time{}, f)
	return nil
}

// patientWriter gives up on a reader that takes nothing for a while.
type patientWriter struct {
	http.ResponseWriter
	ctl *http.ResponseController
}

// Write implements http.ResponseWriter.
func (w *patientWriter) Write(b []byte) (int, error) {
	w.ctl.SetWriteDeadline(time.Now().Add(streamWrite))
	return w.ResponseWriter.Write(b)
}
