package shares

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"time"

	"muster/api"
)

// Config is what a [Server] needs. State is required.
type Config struct {
	State    string       // folder of the head; its folder nfs is this package's
	Listener net.Listener // where [Remote] asks; whoever reaches it is trusted. Nil: only the methods are there
	Port     int          // of nfs-ganesha; 0: 2049. The kernel's server has 2049
	// Command makes the command that runs nfs-ganesha, as root with the rights that it needs and
	// no others. Nil: with all.
	Command func(name string, args ...string) *exec.Cmd
	Log     *slog.Logger // nil: no log

	Exportfs, Ganesha string // programs; "": as they are called. Tests and the demo have others
	GaneshaPlugins    string // folder of ganesha's parts for file systems; "": where Debian has it
	NoKernel          bool   // leave the kernel's server alone: it is not this head's
	Exports, Etab     string // files of nfs-kernel-server; "": where Debian has them
	Threads           string // tells whether the kernel's server runs; "": /proc/fs/nfsd/threads
}

const (
	nfsPort  = 2049
	ownName  = "nfs"
	maxAsked = 8 << 20
)

// Server serves folders of this machine. It implements [Desk]. Make one with [NewServer].
type Server struct {
	cfg     Config
	dir     string
	kernel  *kernel
	ganesha *ganesha

	apply sync.Mutex // through a change of what is served; before mu
	mu    sync.Mutex
	now   Status
}

// NewServer returns a server that knows what was served before; [Server.Run] serves it.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	def := func(to *string, value string) {
		if *to == "" {
			*to = value
		}
	}
	def(&cfg.Exportfs, "/usr/sbin/exportfs")
	def(&cfg.Ganesha, "ganesha.nfsd")
	def(&cfg.Exports, "/etc/exports.d/muster.exports")
	def(&cfg.Etab, "/var/lib/nfs/etab")
	def(&cfg.Threads, "/proc/fs/nfsd/threads")
	if cfg.Port == 0 {
		cfg.Port = nfsPort
	}
	if cfg.Command == nil {
		cfg.Command = func(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }
	}
	s := &Server{cfg: cfg, dir: filepath.Join(cfg.State, ownName)}
	if err := ownFolder(s.dir); err != nil {
		return nil, err
	}
	s.kernel = &kernel{file: cfg.Exports, etab: cfg.Etab, exportfs: cfg.Exportfs, run: runProgram, log: cfg.Log}
	s.ganesha = &ganesha{program: cfg.Ganesha, plugins: cfg.GaneshaPlugins, dir: s.dir, port: cfg.Port, command: cfg.Command, log: cfg.Log}
	raw, err := os.ReadFile(s.saved())
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &s.now.Wanted)
	}
	if err == nil {
		err = s.now.Wanted.check()
	}
	if err != nil {
		// The head's records have it all; until core has been asked, nothing is served.
		cfg.Log.Error("what was served before cannot be read", "file", s.saved(), "err", err)
		s.now.Wanted = Wanted{}
	}
	return s, nil
}

// saved is the file of what was served last: a head that starts serves it before its records are read.
func (s *Server) saved() string { return filepath.Join(s.dir, "exports.json") }

// ownFolder makes the folder of the engines, in one that others may write to.
func ownFolder(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the folder of NFS engines: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("looking at the folder of NFS engines: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of this process's user; remove it", dir)
	}
	return os.Chmod(dir, 0o700)
}

// Run serves until ctx is done. What the kernel's server exports stays then; ganesha ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.ganesha.end()
	s.mu.Lock()
	before := s.now.Wanted
	s.mu.Unlock()
	if len(before.Exports) > 0 {
		if st, err := s.Serve(ctx, before); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("folders are not served", "err", err)
		} else if len(st.Failed) > 0 {
			s.cfg.Log.Error("some folders are not served", "why", st.Failed)
		}
	}
	if s.cfg.Listener == nil {
		<-ctx.Done()
		return nil
	}
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := context.AfterFunc(ctx, func() { srv.Close() })
	defer stopped()
	if err := srv.Serve(s.cfg.Listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("taking what core asks of the NFS engine: %w", err)
	}
	return nil
}

// Look implements [Desk].
func (s *Server) Look(_ context.Context, dir string, inUse api.ShareDriver) (Folder, error) {
	driver, err := choose(s.look(s.ganesha.pid()), inUse)
	if err != nil {
		return Folder{}, err
	}
	if dir == Userlands {
		if err := s.makeUserlands(); err != nil {
			return Folder{}, &api.Error{Code: api.CodeUnavailable, Msg: err.Error()}
		}
		dir = s.userlands()
	}
	f, err := s.folder(dir)
	if err != nil {
		return f, err
	}
	if driver == api.ShareKernel && s.kernel.foreign(f.Dir) {
		return f, unfitError("use that: muster share add HOST:"+f.Dir+"; or remove it there", "the head exports %s itself already (exportfs -v)", f.Dir)
	}
	f.Driver, f.Durable = driver, f.Durable || driver == api.ShareKernel
	return f, nil
}

// Serve implements [Desk].
func (s *Server) Serve(ctx context.Context, w Wanted) (Status, error) {
	if err := w.check(); err != nil {
		return Status{}, unfitError("", "what is to be served is wrong: %v", err)
	}
	s.apply.Lock()
	defer s.apply.Unlock()
	s.mu.Lock()
	was := s.now.Wanted
	s.mu.Unlock()
	if !reflect.DeepEqual(was, w) {
		raw, err := json.Marshal(w)
		if err == nil {
			err = writeFile(s.saved(), string(raw))
		}
		if err != nil {
			return Status{}, err
		}
	}
	st := Status{Wanted: w, Failed: map[uint16]string{}}
	var list []Export
	for _, e := range w.Exports {
		if why := s.ready(e); why != "" {
			st.Failed[e.ID] = why
			continue
		}
		list = append(list, e)
	}
	failed, err := s.engine(ctx, was.Driver, w.Driver, list)
	if !slices.ContainsFunc(w.Exports, func(e Export) bool { return e.ID == UserlandsID }) {
		if err := s.dropUserlands(); err != nil {
			s.cfg.Log.Warn("removing the folder of userlands", "err", err)
		}
	}
	for id, why := range failed {
		st.Failed[id] = why
	}
	for _, e := range list {
		if err != nil && st.Failed[e.ID] == "" {
			st.Failed[e.ID] = err.Error()
		}
	}
	s.mu.Lock()
	s.now = st
	s.mu.Unlock()
	if err != nil && len(list) == 0 {
		return st, &api.Error{Code: api.CodeUnavailable, Msg: err.Error()}
	}
	return st, nil
}

// engine has an engine serve.
func (s *Server) engine(ctx context.Context, was, driver api.ShareDriver, list []Export) (map[uint16]string, error) {
	if was == api.ShareGanesha && driver != was {
		if _, err := s.ganesha.serve(ctx, nil); err != nil {
			return nil, err
		}
	}
	if was == api.ShareKernel && driver != was {
		if _, err := s.kernel.serve(ctx, nil); err != nil {
			return nil, err
		}
	}
	if len(list) > 0 {
		if _, err := choose(s.look(s.ganesha.pid()), driver); err != nil {
			return nil, err
		}
	}
	switch driver {
	case api.ShareKernel:
		return s.kernel.serve(ctx, list)
	case api.ShareGanesha:
		return s.ganesha.serve(ctx, list)
	}
	return nil, nil
}

// Status implements [Desk].
func (s *Server) Status(context.Context) (Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.now
	st.Wanted.Exports = slices.Clone(st.Wanted.Exports)
	return st, nil
}

// handler answers a [Remote].
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /look", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(ctx context.Context, q lookRequest) (Folder, error) { return s.Look(ctx, q.Dir, q.Driver) })
	})
	mux.HandleFunc("POST /serve", func(w http.ResponseWriter, r *http.Request) {
		// What was begun is brought to its end, though who asked is gone.
		answer(w, r, func(ctx context.Context, want Wanted) (Status, error) {
			return s.Serve(context.WithoutCancel(ctx), want)
		})
	})
	mux.HandleFunc("POST /status", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, func(ctx context.Context, _ struct{}) (Status, error) { return s.Status(ctx) })
	})
	return mux
}

type lookRequest struct {
	Dir    string          `json:"dir"`
	Driver api.ShareDriver `json:"driver"`
}

func answer[Q, A any](w http.ResponseWriter, r *http.Request, f func(context.Context, Q) (A, error)) {
	var q Q
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAsked)).Decode(&q)
	if err != nil {
		err = unfitError("", "reading %s: %v", r.URL.Path, err)
	}
	var a A
	if err == nil {
		a, err = f(r.Context(), q)
	}
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		e := api.AsError(err)
		w.WriteHeader(e.Code.HTTPStatus())
		_ = json.NewEncoder(w).Encode(api.ErrorReply{Err: e})
		return
	}
	_ = json.NewEncoder(w).Encode(a)
}
