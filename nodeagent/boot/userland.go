package boot

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// UserlandModules is the folder with the index of all modules of each kernel
// release, once the userland is mounted. The initramfs has those that joining needs.
const UserlandModules = runDir + "/userland/usr/lib/modules"

// UseFirmware lets drivers find the firmware of a userland that is mounted on root.
// The kernel looks there first, and then where it did before.
func UseFirmware(root string, log *slog.Logger) {
	dir := filepath.Join(root, "usr/lib/firmware")
	if _, err := os.Stat(dir); err != nil {
		return
	}
	if err := os.WriteFile("/sys/module/firmware_class/parameters/path", []byte(dir), 0); err != nil {
		log.Warn("the userland's firmware is not used", "err", err)
	}
}

// gatherFor is how long aliases of new devices are collected: a device that
// is plugged in is often several.
const gatherFor = 300 * time.Millisecond

// tryDriversAgain is how long it takes until drivers are tried again that could not be got.
const tryDriversAgain = 30 * time.Second

// MoreDrivers calls load with what the devices that are there ask for, and then with what
// those ask for that come later, each alias once, until ctx is done. What load returns is
// given to it again later. This is for modules that PID 1 does not have.
func MoreDrivers(ctx context.Context, load func(ctx context.Context, aliases []string) (again []string)) error {
	found := make(chan string, 64)
	rescan := make(chan struct{}, 1)
	scan := func() {
		select {
		case rescan <- struct{}{}:
		default:
		}
	}
	socket, err := openUevents() // before the scan, so that no device falls between
	if err != nil {
		return err
	}
	scan()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- socket.read(ctx, func(b []byte) {
			e, err := parseUevent(b)
			if err != nil || e.Action != "add" || e.Modalias == "" {
				return
			}
			select {
			case found <- e.Modalias:
			case <-ctx.Done():
			}
		}, scan)
	}()
	g := gatherer{seen: make(map[string]struct{}), fresh: make(map[string]struct{})}
	var later <-chan time.Time
	for {
		select {
		case err := <-ended:
			return err
		case <-rescan:
			deviceAliases("/sys", g.add)
		case alias := <-found:
			g.add(alias)
		case <-later:
			later = nil
			if again := load(ctx, g.take()); len(again) > 0 {
				g.giveBack(again)
				later = time.After(tryDriversAgain)
			}
		}
		if later == nil && len(g.fresh) > 0 {
			later = time.After(gatherFor)
		}
	}
}

// gatherer collects aliases, each once, at most maxAliases.
type gatherer struct{ seen, fresh map[string]struct{} }

func (g *gatherer) add(alias string) {
	if _, ok := g.seen[alias]; ok || alias == "" || leftAlone(alias) || len(g.seen) >= maxAliases {
		return
	}
	g.seen[alias] = struct{}{}
	g.fresh[alias] = struct{}{}
}

// leftAlone tells whether a device gets no driver by itself: a graphics driver without its
// firmware may blank the screen that shows how the machine is, and sound is of no use. Class codes
// are those of PCI: 03 is display, 04 multimedia.
func leftAlone(alias string) bool {
	return strings.HasPrefix(alias, "pci:") && (strings.Contains(alias, "bc03sc") || strings.Contains(alias, "bc04sc"))
}

// take returns what was collected, in order.
func (g *gatherer) take() []string {
	list := slices.Sorted(maps.Keys(g.fresh))
	clear(g.fresh)
	return list
}

// giveBack undoes take.
func (g *gatherer) giveBack(list []string) {
	for _, alias := range list {
		g.fresh[alias] = struct{}{}
	}
}
