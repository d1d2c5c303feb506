package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// port is where commands are taken.
const port = ":9"

// serve starts the system and takes commands. The words of the kernel's command line say how: "engine=kernel" starts
// the kernel's NFS server, "dirsync" has the disk of shares mounted so, "addr=10.77.0.9/24" is the address of the network card.
func serve(ctx context.Context) error {
	err := start(ctx)
	var l net.Listener
	if err == nil {
		l, err = net.Listen("tcp", port)
	}
	if err != nil {
		fmt.Println("guest: error:", err)
		return err
	}
	fmt.Println("guest: started")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_ = take(ctx, c) // who asked sees that it ended
		}()
	}
}

type mount struct{ what, where, kind, options string }

func start(ctx context.Context) error {
	os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
	for _, m := range []mount{
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"devtmpfs", "/dev", "devtmpfs", ""},
		{"tmpfs", "/run", "tmpfs", "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
	} {
		if err := m.mount(); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	words := strings.Fields(string(raw))
	if err := unix.Sethostname([]byte("head")); err != nil {
		return err
	}
	if err := call(ctx, "modprobe", "-a", "virtio_net", "virtio_blk", "af_packet"); err != nil {
		return err
	}
	if err := network(ctx, value(words, "addr")); err != nil {
		return err
	}
	options := ""
	if slices.Contains(words, "dirsync") {
		options = "dirsync"
	}
	for _, m := range []mount{{disk("state"), "/state", "ext4", ""}, {disk("share"), "/srv", "ext4", options}} {
		if err := m.mount(); err != nil {
			return err
		}
	}
	// What the NFS servers and the head keep in /var and /etc is on the disk that stays.
	for from, to := range map[string]string{"/state/nfs": "/var/lib/nfs", "/state/exports.d": "/etc/exports.d", "/state/muster": "/var/lib/muster"} {
		if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
			if err := errors.Join(os.MkdirAll(to, 0o755), call(ctx, "cp", "-a", to, from)); err != nil {
				return err
			}
		}
		if err := errors.Join(os.MkdirAll(to, 0o755), unix.Mount(from, to, "", unix.MS_BIND, "")); err != nil {
			return fmt.Errorf("mounting %s: %w", to, err)
		}
	}
	if value(words, "engine") == "kernel" {
		return startNFSD(ctx)
	}
	return nil
}

func value(words []string, key string) string {
	for _, w := range words {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v
		}
	}
	return ""
}

func (m mount) mount() error {
	if err := os.MkdirAll(m.where, 0o755); err != nil {
		return err
	}
	flags := uintptr(0)
	if m.options == "dirsync" {
		flags, m.options = unix.MS_DIRSYNC, ""
	}
	if err := unix.Mount(m.what, m.where, m.kind, flags, m.options); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", m.what, m.where, err)
	}
	return nil
}

// disk is the device of a disk, by its serial number; "" when there is none.
func disk(serial string) string {
	files, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return ""
	}
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && string(bytes.TrimRight(text, "\n\x00")) == serial {
			return "/dev/" + filepath.Base(filepath.Dir(f))
		}
	}
	return ""
}

// network gives the network card its address.
func network(ctx context.Context, address string) error {
	prefix, err := netip.ParsePrefix(address)
	if err != nil {
		return fmt.Errorf("addr=%s: %w", address, err)
	}
	deadline := time.Now().Add(time.Minute)
	card, err := netlink.LinkByName("eth0")
	for ; err != nil && time.Now().Before(deadline); card, err = netlink.LinkByName("eth0") {
		select { // the kernel looks for it still
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err != nil {
		return fmt.Errorf("the network card: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}}
	return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(card, addr), netlink.LinkSetUp(card))
}

// startNFSD does what nfs-server.service and the services that it wants do.
func startNFSD(ctx context.Context) error {
	if err := call(ctx, "modprobe", "-a", "nfsd", "sunrpc"); err != nil {
		return err
	}
	for _, m := range []mount{{"nfsd", "/proc/fs/nfsd", "nfsd", ""}, {"sunrpc", "/run/rpc_pipefs", "rpc_pipefs", ""}} {
		if err := m.mount(); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	for _, c := range [][]string{{"nfsdcld"}, {"exportfs", "-r"}, {"rpc.mountd"}, {"rpc.nfsd"}} {
		if err := call(ctx, c[0], c[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func call(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
