package boot

import (
	"log/slog"
	"sync"
	"time"

	"muster/internal/kmod"
)

// indexKept is how long the index of all modules stays in memory after it was
// used: it has some thousand modules, and after a while few devices appear.
const indexKept = 10 * time.Second

// drivers loads what devices ask for: from the modules of the initramfs, and once
// the userland is mounted from all modules of the kernel.
type drivers struct {
	base *kmod.Loader
	all  string // folder of all modules, once it is there
	conf kmod.Conf
	log  *slog.Logger

	mu     sync.Mutex
	loader *kmod.Loader // of all; nil: not in memory
	drop   *time.Timer  // ends that
}

// load loads what an alias stands for. Most devices have a driver that is
// built in or not in the image; that is no error.
func (d *drivers) load(alias string) error {
	l := d.base
	if all := d.whole(); all != nil {
		l = all
	}
	if len(l.Index().Match(alias)) == 0 {
		return nil
	}
	return l.Load(alias)
}

// whole returns the loader of all modules, nil while they are not there.
func (d *drivers) whole() *kmod.Loader {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.loader == nil {
		if !hasIndex(d.all) {
			return nil
		}
		l, err := kmod.NewLoader(kmod.LoaderConfig{Dir: d.all, Conf: d.conf, Log: d.log})
		if err != nil {
			d.log.Warn("the userland's drivers are not used", "err", err)
			return nil
		}
		d.loader = l
		d.drop = time.AfterFunc(indexKept, d.forget)
	}
	d.drop.Reset(indexKept)
	return d.loader
}

func (d *drivers) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.loader = nil
}
