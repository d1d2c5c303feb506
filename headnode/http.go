package headnode

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/sync/errgroup"

	"muster/api"
)

// Limits of the users' API.
const (
	maxBody        = 16 << 20 // of a request that is not an upload
	maxConnections = 2048     // of one listener
	maxOfPeer      = 1024     // of one user or address among them
	shutdownWait   = 2 * time.Second
)

// httpConfig is what [newHTTP] needs. All services are required.
type httpConfig struct {
	Jobs     *jobs
	Nodes    nodeAdmin
	Images   imageStore
	Shares   shareAdmin
	Settings settings
	Enroll   enrollment
	Boot     bootDesk
	Events   eventSource
	// Status fills in what the node side knows; jobs are counted here.
	Status func() api.Status

	Unix     net.Listener // users on this machine, by peer credentials; nil: none
	TCP      net.Listener // users elsewhere, by token over TLS; nil: none
	TLS      *tls.Config  // required with TCP
	Internal net.Listener // the boot service: whoever can reach it is trusted; nil: none

	HeadUID uint32 // administrator beside root and the group
	Tokens  string // file of tokens; "": none is known
	Version string
	Log     *slog.Logger // nil: no log
}

// httpServer speaks the users' API and that of the boot service.
type httpServer struct {
	cfg      httpConfig
	accounts *accounts
	api      huma.API
	users    http.Handler
	boot     http.Handler
	streamed []string // patterns of what is no plain request and answer

	mu      sync.Mutex
	streams map[net.Conn]struct{} // hijacked connections
	closing bool
}

// newHTTP returns a server that does not listen yet.
func newHTTP(cfg httpConfig) (*httpServer, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.TCP != nil && cfg.TLS == nil {
		return nil, errors.New("the API on TCP needs a TLS configuration")
	}
	s := &httpServer{cfg: cfg, accounts: &accounts{now: time.Now}, streams: map[net.Conn]struct{}{}}
	mux := http.NewServeMux()
	s.api = newAPI(mux, cfg.Version)
	s.routeJobs()
	s.routeFiles()
	s.routeNodes()
	s.routeShares()
	s.routeCluster()
	s.routeStreams(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("there is no %s %s", r.Method, r.URL.Path), Hint: "see /v1/openapi.json"})
	})
	s.users = s.recovered(s.authenticated(ownStatus(mux)))
	s.boot = s.recovered(s.bootRoutes())
	return s, nil
}

// newAPI makes an OpenAPI-described API whose errors are api.ErrorReply.
func newAPI(mux *http.ServeMux, version string) huma.API {
	c := huma.DefaultConfig("muster", version)
	c.Info.Description = "The API of a head. Errors are always an ErrorReply; lists are {items, next, revision}."
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "/v1/openapi", "", ""
	c.CreateHooks = nil
	c.FieldsOptionalByDefault = true
	c.Transformers = []huma.Transformer{func(_ huma.Context, _ string, v any) (any, error) {
		if m, ok := v.(*huma.ErrorModel); ok {
			return api.ErrorReply{Err: humaError(m)}, nil
		}
		return v, nil
	}}
	return humago.New(mux, c)
}

// humaError says what the library found wrong with a request in our words.
func humaError(m *huma.ErrorModel) *api.Error {
	e := &api.Error{Code: api.CodeInvalid, Msg: m.Detail, Hint: "see /v1/openapi.json"}
	for i, d := range m.Errors {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		if d.Location != "" {
			e.Msg += sep + d.Location + ": " + d.Message
		} else {
			e.Msg += sep + d.Message
		}
	}
	switch {
	case m.Status == http.StatusRequestEntityTooLarge:
		e.Code = api.CodeTooLarge
	case m.Status >= 500:
		e.Code, e.Hint = api.CodeInternal, ""
	}
	return e
}

// statusError carries an api.Error through the library.
type statusError struct{ api.ErrorReply }

func (e *statusError) Error() string  { return e.Err.Error() }
func (e *statusError) GetStatus() int { return e.Err.Code.HTTPStatus() }

// reply is a response with a body.
type reply[T any] struct{ Body T }

// route registers an operation. Its errors become api.ErrorReply.
func route[I, O any](s *httpServer, method, path, id, summary string, f func(context.Context, *I) (O, error)) {
	op := huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, MaxBodyBytes: maxBody,
		Tags: []string{strings.Split(strings.TrimPrefix(path, "/v1/"), "/")[0]},
		Responses: map[string]*huma.Response{"default": {
			Description: "what went wrong",
			Content: map[string]*huma.MediaType{"application/json": {
				Schema: s.api.OpenAPI().Components.Schemas.Schema(typeOf[api.ErrorReply](), true, "ErrorReply"),
			}},
		}},
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*reply[O], error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, &statusError{api.ErrorReply{Err: wireError(err)}}
		}
		return &reply[O]{Body: out}, nil
	})
}

// wireError is err as the user sees it.
func wireError(err error) *api.Error {
	if errors.Is(err, context.Canceled) {
		return &api.Error{Code: api.CodeCanceled, Msg: "the request was given up"}
	}
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return &api.Error{Code: api.CodeTooLarge, Msg: fmt.Sprintf("the request has more than %d bytes", tooBig.Limit)}
	}
	return api.AsError(err)
}

func writeError(w http.ResponseWriter, err error) {
	e := wireError(err)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if e.Code == api.CodeUnauthenticated {
		w.Header().Set("WWW-Authenticate", `Bearer realm="muster"`)
		w.Header().Set("Connection", "close") // a stranger does not keep it
	}
	w.WriteHeader(e.Code.HTTPStatus())
	json.NewEncoder(w).Encode(api.ErrorReply{Err: e})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// authenticated lets nobody pass whom the head does not know.
func (s *httpServer) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := s.identify(r)
		if err != nil {
			writeError(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// recovered answers a fault of ours with an error instead of a cut connection.
func (s *httpServer) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			s.cfg.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", v, "stack", string(debug.Stack()))
			writeError(w, &api.Error{Code: api.CodeInternal, Msg: "a fault of muster: see the head's log"})
		}()
		next.ServeHTTP(w, r)
	})
}

// Run serves until ctx is done or a listener fails.
func (s *httpServer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	serve := func(ln net.Listener, h http.Handler) {
		if ln == nil {
			return
		}
		srv := &http.Server{
			Handler: h, ConnContext: peerContext, BaseContext: func(net.Listener) context.Context { return ctx },
			ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
			ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		}
		g.Go(func() error {
			err := srv.Serve(ln)
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return fmt.Errorf("serving the API on %s: %w", ln.Addr(), err)
		})
		g.Go(func() error {
			<-ctx.Done()
			s.closeStreams()
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
			defer cancel()
			if srv.Shutdown(stop) != nil {
				srv.Close()
			}
			return nil
		})
	}
	serve(limit(s.cfg.Unix, maxConnections, maxOfPeer), s.users)
	if s.cfg.TCP != nil {
		serve(tls.NewListener(limit(s.cfg.TCP, maxConnections, maxOfPeer), s.cfg.TLS), s.users)
	}
	serve(limit(s.cfg.Internal, maxConnections, maxConnections), s.boot)
	return g.Wait()
}

// ownStatus answers a request that the library found wrong as every other
// invalid one: the library has status 422 and a content type of its own for it.
func ownStatus(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&statusWriter{w}, r)
	})
}

type statusWriter struct{ http.ResponseWriter }

// WriteHeader replaces what is the library's alone.
func (w *statusWriter) WriteHeader(code int) {
	if w.Header().Get("Content-Type") == "application/problem+json" {
		w.Header().Set("Content-Type", "application/json")
		if code == http.StatusUnprocessableEntity {
			code = api.CodeInvalid.HTTPStatus()
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// addStream notes a connection that left the HTTP server's care.
func (s *httpServer) addStream(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.streams[c] = struct{}{}
	return true
}

func (s *httpServer) dropStream(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, c)
}

func (s *httpServer) closeStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for c := range s.streams {
		c.Close()
	}
}
