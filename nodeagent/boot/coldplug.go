package boot

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// plugWorkers load modules at once. A driver's probe waits for its
	// device, and several may wait together.
	plugWorkers = 4
	// maxAliases bounds what is remembered. Big servers have some hundreds
	// of different devices.
	maxAliases = 8192
	urgentHold = 2 * time.Second
)

// plugger loads the modules that devices ask for: each alias once, network
// devices first, since everything else waits for them. While a driver of a
// network device is being loaded no other is begun, because a kernel checks the
// signatures of modules at the expense of the others, but for urgentHold
// at most: it may be waiting for its device.
type plugger struct {
	load func(alias string) error
	log  *slog.Logger
	wake chan struct{} // one token while there may be work

	networkOnly bool // load nothing but drivers of network devices; set before the first add

	mu     sync.Mutex
	seen   map[string]struct{} // guarded by mu, as all below; at most maxAliases
	queue  []string            // ordered by urgency
	urgent int                 // loads of urgency 0 that hold back the others
}

func newPlugger(load func(alias string) error, log *slog.Logger) *plugger {
	return &plugger{
		load: load,
		log:  log,
		seen: make(map[string]struct{}),
		wake: make(chan struct{}, 1),
	}
}

// add queues an alias that was not seen before. It may be called from any
// goroutine.
func (p *plugger) add(alias string) {
	if alias == "" || p.networkOnly && urgency(alias) > 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.seen[alias]; ok || len(p.seen) >= maxAliases {
		return
	}
	p.seen[alias] = struct{}{}
	i, _ := slices.BinarySearchFunc(p.queue, urgency(alias)+1, func(a string, u int) int {
		return urgency(a) - u
	})
	p.queue = slices.Insert(p.queue, i, alias)
	p.signal()
}

// signal leaves a token for a waiting worker. The caller holds mu.
func (p *plugger) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// next takes the most urgent alias. done is to be called after it was loaded;
// nil: nothing is to be loaded now.
func (p *plugger) next() (alias string, done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 || p.urgent > 0 && urgency(p.queue[0]) > 0 {
		return "", nil
	}
	alias = p.queue[0]
	p.queue = p.queue[1:]
	if len(p.queue) > 0 {
		p.signal()
	}
	if urgency(alias) > 0 {
		return alias, func() {}
	}
	p.urgent++
	release := sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.urgent--
		p.signal()
	})
	timer := time.AfterFunc(urgentHold, release)
	return alias, func() { timer.Stop(); release() }
}

// run loads what is queued until ctx is done.
func (p *plugger) run(ctx context.Context) {
	var workers sync.WaitGroup
	for range plugWorkers {
		workers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-p.wake:
				}
				for alias, done := p.next(); done != nil && ctx.Err() == nil; alias, done = p.next() {
					err := p.load(alias)
					done()
					if err != nil {
						p.log.Warn("driver not loaded", "alias", alias, "err", err)
					}
				}
			}
		})
	}
	workers.Wait()
}

// urgency orders aliases: 0 for network devices and what they hang on.
func urgency(alias string) int {
	switch {
	case strings.HasPrefix(alias, "virtio:d00000001v"), // virtio network device
		strings.HasPrefix(alias, "pci:") && strings.Contains(alias, "bc02sc"), // PCI class 02: network
		strings.HasPrefix(alias, "vmbus:"), strings.HasPrefix(alias, "xen:vif"),
		strings.HasPrefix(alias, "mdio:"):
		return 0
	case strings.HasPrefix(alias, "usb:"), // a network adapter may be one
		strings.HasPrefix(alias, "pci:") && strings.Contains(alias, "bc0Csc03"): // PCI class 0C03: USB host
		return 1
	}
	return 2
}

// deviceAliases calls found with the modalias of every device that has one,
// below the sysfs at sys. The buses of network devices come first.
func deviceAliases(sys string, found func(alias string)) {
	buses, _ := os.ReadDir(filepath.Join(sys, "bus")) // no bus, no devices
	slices.SortStableFunc(buses, func(a, b os.DirEntry) int { return busOrder(a.Name()) - busOrder(b.Name()) })
	for _, bus := range buses {
		dir := filepath.Join(sys, "bus", bus.Name(), "devices")
		devices, _ := os.ReadDir(dir)
		for _, dev := range devices {
			b, err := os.ReadFile(filepath.Join(dir, dev.Name(), "modalias"))
			if err != nil {
				continue // it has none, or went away
			}
			found(strings.TrimSpace(string(b)))
		}
	}
}

func busOrder(bus string) int {
	switch bus {
	case "virtio", "vmbus", "xen":
		return 0
	case "pci":
		return 1
	case "usb":
		return 2
	}
	return 3
}
