package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Kernel is the part of a kernel that loads modules. [LinuxKernel] is the one
// that runs; tests have their own. Both methods are called from any goroutine.
type Kernel interface {
	// Loaded says whether a module of that name is loaded and usable.
	Loaded(name string) bool

	// Insert loads the module in file with parameters separated by spaces.
	// The error wraps [fs.ErrExist] when it was loaded already.
	Insert(file, params string) error
}

// LoaderConfig is what a [Loader] needs.
type LoaderConfig struct {
	Dir    string       // /lib/modules/RELEASE; required
	Index  *Index       // nil: read from Dir
	Conf   Conf         // parameters, blacklist
	Kernel Kernel       // nil: the running kernel
	Log    *slog.Logger // nil: no log
}

// Loader loads modules with all that they need. It may be used from any
// goroutine: a module is inserted once, and who asks for it meanwhile waits.
type Loader struct {
	dir    string
	index  *Index
	conf   Conf
	kernel Kernel
	log    *slog.Logger

	aliases  matcher // of conf
	softdeps map[string]Softdep

	mu   sync.Mutex
	busy map[string]*insertion // guarded by mu
}

// insertion is one module on its way into the kernel.
type insertion struct {
	done chan struct{}
	err  error
}

// NewLoader returns a loader for the modules in cfg.Dir.
func NewLoader(cfg LoaderConfig) (*Loader, error) {
	l := &Loader{
		dir: cfg.Dir, index: cfg.Index, conf: cfg.Conf, kernel: cfg.Kernel, log: cfg.Log,
		aliases:  newMatcher(cfg.Conf.Aliases),
		softdeps: make(map[string]Softdep),
		busy:     make(map[string]*insertion),
	}
	for _, s := range cfg.Conf.Softdeps {
		l.softdeps[s.Module] = s
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.kernel == nil {
		l.kernel = LinuxKernel{}
	}
	if l.index == nil {
		x, err := Read(os.DirFS(cfg.Dir))
		if err != nil {
			return nil, fmt.Errorf("preparing to load modules from %s: %w", cfg.Dir, err)
		}
		l.index = x
	}
	return l, nil
}

// Index returns the index that the loader works with.
func (l *Loader) Index() *Index { return l.index }

// Load loads the module of that name, or every module that the alias stands
// for, with all dependencies before and soft dependencies around; params go to
// the named modules behind those of the configuration. What is loaded or built
// in is fine. A name that the kernel does not know is a [*NotFoundError].
//
// When several modules match an alias, all are tried and the errors joined: a
// driver that finds no device it likes (ENODEV) is common.
func (l *Loader) Load(nameOrAlias string, params ...string) error {
	names, known := l.lookup(nameOrAlias)
	if !known {
		return &NotFoundError{Name: nameOrAlias}
	}
	var errs []error
	for _, name := range names {
		if err := l.load(name, strings.Join(params, " "), nil); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// lookup is [Index.Lookup] with the configuration's aliases and blacklist.
func (l *Loader) lookup(nameOrAlias string) (modules []string, known bool) {
	if m, ok := l.index.Module(nameOrAlias); ok && !strings.ContainsAny(nameOrAlias, ":/") {
		return []string{m.Name}, true
	}
	found, known := l.index.Lookup(nameOrAlias)
	found = append(l.aliases.find(nameOrAlias), found...)
	for _, f := range found {
		if l.conf.Blacklist[f] {
			l.log.Debug("module is blacklisted", "module", f, "alias", nameOrAlias)
			continue
		}
		modules = append(modules, f)
	}
	return modules, known || len(found) > 0
}

// load loads one module. path holds the modules that are being loaded for
// whose sake it is, so that soft dependencies in a circle end.
func (l *Loader) load(name, params string, path []string) error {
	m, ok := l.index.Module(name)
	if !ok {
		if l.index.Builtin(name) {
			return nil
		}
		return &NotFoundError{Name: name}
	}
	for _, p := range path {
		if p == m.Name {
			return nil
		}
	}
	path = append(path[:len(path):len(path)], m.Name)
	if l.kernel.Loaded(m.Name) {
		return nil
	}
	soft := l.softdep(m.Name)
	l.loadSoft(soft.Pre, path)
	for i := len(m.Deps) - 1; i >= 0; i-- {
		if err := l.load(m.Deps[i], "", path); err != nil {
			return fmt.Errorf("loading module %s: %w", m.Name, err)
		}
	}
	if err := l.insertOnce(m, params); err != nil {
		return fmt.Errorf("loading module %s: %w", m.Name, err)
	}
	l.loadSoft(soft.Post, path)
	return nil
}

func (l *Loader) softdep(name string) Softdep {
	if s, ok := l.softdeps[name]; ok {
		return s
	}
	return l.index.Softdep(name)
}

// loadSoft loads what would be nice to have.
func (l *Loader) loadSoft(names, path []string) {
	for _, name := range names {
		found, _ := l.lookup(name)
		for _, f := range found {
			if err := l.load(f, "", path); err != nil {
				l.log.Debug("soft dependency not loaded", "module", f, "for", path[len(path)-1], "err", err)
			}
		}
	}
}

// insertOnce inserts m unless another goroutine is just doing so.
func (l *Loader) insertOnce(m Module, params string) error {
	l.mu.Lock()
	if other := l.busy[m.Name]; other != nil {
		l.mu.Unlock()
		<-other.done
		return other.err
	}
	in := &insertion{done: make(chan struct{})}
	l.busy[m.Name] = in
	l.mu.Unlock()

	if !l.kernel.Loaded(m.Name) {
		in.err = l.insert(m, params)
	}

	l.mu.Lock()
	delete(l.busy, m.Name)
	l.mu.Unlock()
	close(in.done)
	return in.err
}

func (l *Loader) insert(m Module, params string) error {
	all := strings.TrimSpace(l.conf.Options[m.Name] + " " + params)
	err := l.kernel.Insert(filepath.Join(l.dir, filepath.FromSlash(m.Path)), all)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		l.log.Debug("module loaded", "module", m.Name)
	}
	return err
}
