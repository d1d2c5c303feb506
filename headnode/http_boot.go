package headnode

import (
	"encoding/json"
	"fmt"
	"net/http"

	"muster/api"
)

// bootRoutes is what the boot service asks and tells, on a socket that
// nobody else can reach.
func (s *httpServer) bootRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /internal/boot/decide", func(w http.ResponseWriter, r *http.Request) {
		var q api.BootQuery
		if readJSON(w, r, &q) {
			writeJSON(w, s.cfg.Boot.BootDecision(q))
		}
	})
	mux.HandleFunc("POST /internal/boot/event", func(w http.ResponseWriter, r *http.Request) {
		var ev api.BootEvent
		if readJSON(w, r, &ev) {
			s.cfg.Boot.ObserveBoot(ev)
			writeJSON(w, empty{})
		}
	})
	mux.HandleFunc("POST /internal/boot/interfaces", func(w http.ResponseWriter, r *http.Request) {
		var list []api.BootInterface
		if readJSON(w, r, &list) {
			s.cfg.Boot.SetBootInterfaces(list)
			writeJSON(w, empty{})
		}
	})
	mux.HandleFunc("POST /internal/boot/head", func(w http.ResponseWriter, _ *http.Request) {
		st := s.cfg.Status()
		writeJSON(w, api.HeadIdentity{Fingerprint: st.Fingerprint, Pin: st.Pin})
	})
	return mux
}

// readJSON decodes a request's body into v, or answers with an error.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(v); err != nil {
		writeError(w, &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("reading %s: %v", r.URL.Path, err)})
		return false
	}
	return true
}
