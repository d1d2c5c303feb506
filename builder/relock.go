package builder

import (
	"context"
	"fmt"
	"time"

	"muster/images"
)

// Relocked is what a new look at the archive came to.
type Relocked struct {
	Old     *images.Lock // nil: there was none
	Lock    *images.Lock // Old itself where nothing is newer
	Changes []images.LockChange
	Age     time.Duration // of Old, by its date; 0 where there was none
	// Request says in words what the definition asks for now and Old was not made for;
	// "" where they agree.
	Request string
}

// Changed says whether there is a lock to be written.
func (r *Relocked) Changed() bool { return r.Lock != r.Old }

// Relock asks the archive for the newest packages and compares them with the lock in
// cfg.LockFile, which is required and need not exist. With write it puts a lock
// that differs in its place. Neither Out nor the programs of cfg are needed.
func Relock(ctx context.Context, cfg Config, write bool) (*Relocked, error) {
	r, err := relock(ctx, cfg, write)
	if err != nil && cfg.Definition != nil {
		err = fmt.Errorf("locking %s: %w", cfg.Definition.Name, err)
	}
	return r, err
}

func relock(ctx context.Context, cfg Config, write bool) (*Relocked, error) {
	cfg.Update = true
	cfg, err := completeCommon(cfg)
	if err != nil {
		return nil, err
	}
	store, err := openCache(cfg.Cache, cfg.Log)
	if err != nil {
		return nil, err
	}
	client, err := newClient(cfg, store, time.Time{})
	if err != nil {
		return nil, err
	}
	old, err := readAnyLock(cfg)
	if err != nil {
		return nil, err
	}
	cfg.store = store
	fresh, err := resolve(ctx, cfg, during(StepLock, cfg, client), cfg.Log, func(detail string) {
		cfg.Progress(Event{Step: StepLock, Detail: detail})
	})
	if err != nil {
		return nil, fmt.Errorf("resolving packages: %w", err)
	}
	r := &Relocked{Old: old, Lock: newer(old, fresh, cfg.Log)}
	r.Changes = images.DiffLocks(old, r.Lock)
	if old != nil {
		r.Age = cfg.Now().Sub(old.Date)
		if old.Request != cfg.Definition.RequestHash() && old.Asked != nil {
			r.Request = cfg.Definition.Request().Against(*old.Asked)
		}
	}
	if write && r.Changed() {
		return r, writeLock(cfg.LockFile, r.Lock)
	}
	return r, nil
}
