package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"muster/api"
	"muster/internal/need"
	"muster/internal/vm"
)

// benchImages are the images to boot: the folders of MUSTER_IMAGES, with colons
// between them, else the one of MUSTER_IMAGE.
func benchImages(b *testing.B) []string {
	b.Helper()
	list := os.Getenv("MUSTER_IMAGES")
	if list == "" {
		list = os.Getenv("MUSTER_IMAGE")
	}
	if list == "" {
		need.Missing(b, "MUSTER_IMAGES names no image; run: make bench-long")
	}
	return filepath.SplitList(list)
}

// BenchmarkVMNetworkBoot boots each image over the network and tells how many
// bytes that takes until the machine is a node: as the head's boot log has
// them, and all frames on the cable in both directions. With iPXE in the ROM it
// also tells how long iPXE is busy configuring the network.
func BenchmarkVMNetworkBoot(b *testing.B) {
	for _, image := range benchImages(b) {
		b.Run(filepath.Base(image), func(b *testing.B) {
			b.Setenv("MUSTER_IMAGE", image)
			for _, p := range []bootPath{{name: "bios-ipxe", firmware: vm.BIOS}, {name: "uefi-pxe", firmware: vm.UEFI, boot: vm.BootPXE}} {
				b.Run(p.name, func(b *testing.B) { benchBoot(b, p) })
			}
		})
	}
}

func benchBoot(b *testing.B, p bootPath) {
	c := startCluster(b, "--dhcp=full")
	var sent, wire int64
	var configuring, joined time.Duration
	for b.Loop() {
		start := time.Now()
		g := c.boot(vm.Config{Name: p.name, Firmware: p.firmware, Boot: p.boot}, nil)
		if p.firmware == vm.BIOS {
			configuring += timeConfiguring(b, g)
		}
		c.ready(g)
		joined += time.Since(start)
		wire += portBytes(b, "mt-"+strconv.Itoa(int(c.next)))
		for _, e := range c.stages(g) {
			if e.Stage != api.StageReady {
				sent += e.Bytes
			}
		}
		g.Kill()
	}
	n := float64(b.N)
	b.ReportMetric(float64(sent)/1e6/n, "MB-sent")
	b.ReportMetric(float64(wire)/1e6/n, "MB-wire")
	b.ReportMetric(joined.Seconds()/n, "s/ready")
	if configuring > 0 {
		b.ReportMetric(configuring.Seconds()/n, "s/configuring")
	}
}

// timeConfiguring is how long iPXE takes from "Configuring" to "ok", as they
// appear on the console.
func timeConfiguring(b *testing.B, g *guest) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), bootTime)
	defer cancel()
	if _, err := g.WaitFor(ctx, regexp.MustCompile(`Configuring`)); err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	if _, err := g.WaitFor(ctx, regexp.MustCompile(`Configuring.* ok`)); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}

// portBytes is what went through a port in both directions.
func portBytes(b *testing.B, port string) int64 {
	b.Helper()
	var sum int64
	// The namespace of the tests has no /sys of its own.
	raw, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		name, counts, _ := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(counts)
		if name != port || len(f) < 9 {
			continue
		}
		for _, s := range []string{f[0], f[8]} {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			sum += n
		}
		return sum
	}
	b.Fatalf("there is no port %s in /proc/net/dev", port)
	return 0
}
