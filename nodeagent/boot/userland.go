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

// tryDriversAgain is how long it takes until drivers are tried again that could not be got, twice as
// long each time up to driversPause: the head may not have them at all.
const (
	tryDriversAgain = 30 * time.Second
	driversPause    = 32 * time.Minute
)

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
	ended := make(chan error, 1)
	go func() {
		defer cancel()
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
	feedAliases(ctx, found, rescan, func(add func(string)) { deviceAliases("/sys", add) }, load)
	return <-ended
}

// feedAliases gives load what comes from found, and what devices has when rescan gets a token,
// until ctx is done.
func feedAliases(ctx context.Context, found <-chan string, rescan <-chan struct{}, devices func(add func(string)),
	load func(ctx context.Context, aliases []string) (again []string),
) {
	g := gatherer{seen: make(map[string]struct{}), fresh: make(map[string]struct{})}
	var lost []string // what could not be got
	var later, retry <-chan time.Time
	pause := tryDriversAgain
	for {
		select {
		case <-ctx.Done():
			return
		case <-rescan:
			devices(g.add)
		case alias := <-found:
			g.add(alias)
		case <-later:
			later = nil
			lost = append(lost, load(ctx, g.take())...)
		case <-retry:
			retry = nil
			again := load(ctx, lost)
			if len(again) < len(lost) {
				pause = tryDriversAgain
			}
			lost = again
		}
		if later == nil && len(g.fresh) > 0 {
			later = time.After(gatherFor)
		}
		if retry == nil && len(lost) > 0 {
			retry = time.After(pause)
			pause = min(2*pause, driversPause)
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
// of PCI: 03 is display, 04 multimedia; of USB interfaces: 01 audio. The graphics and sound of virtual
// machines are children of devices without such a class, since virtio_pci takes whatever speaks virtio.
func leftAlone(alias string) bool {
	bus, rest, _ := strings.Cut(alias, ":")
	switch bus {
	case "pci":
		return strings.Contains(rest, "bc03sc") || strings.Contains(rest, "bc04sc")
	case "usb":
		return strings.Contains(rest, "ic01isc")
	case "virtio": // virtio 1.2, section 5: device 16 is a GPU, 25 sound
		return strings.HasPrefix(rest, "d00000010v") || strings.HasPrefix(rest, "d00000019v")
	case "vmbus": // Hyper-V's video
		return rest == "02780ada77e3ac4a8e770558eb1073f8"
	}
	return false
}

// take returns what was collected, in order.
func (g *gatherer) take() []string {
	list := slices.Sorted(maps.Keys(g.fresh))
	clear(g.fresh)
	return list
}
