package vm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NetworkConfig is a network for machines.
type NetworkConfig struct {
	Bridge string         // name of the bridge, at most 15 bytes; required
	Addrs  []netip.Prefix // addresses of this side, with their networks
}

// Network is a bridge that machines are connected to by ports. It lives in
// the network namespace of the thread that made it; ports have to be made in
// the same.
type Network struct {
	bridge netlink.Link

	mu    sync.Mutex
	ports []*Port
}

// NewNetwork makes the bridge and switches it, and lo, on. It needs the right to
// do so: root, or a namespace of [Isolate].
func NewNetwork(cfg NetworkConfig) (*Network, error) {
	n, err := newNetwork(cfg)
	if err != nil {
		return nil, fmt.Errorf("making the network %s: %w", cfg.Bridge, err)
	}
	return n, nil
}

func newNetwork(cfg NetworkConfig) (*Network, error) {
	if err := switchOn("lo"); err != nil {
		return nil, err
	}
	snooping := false // it would hold back router solicitations
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: cfg.Bridge}, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(bridge); err != nil {
		return nil, err
	}
	n := &Network{bridge: bridge}
	for _, p := range cfg.Addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(bridge, addr); err != nil {
			return nil, errors.Join(fmt.Errorf("adding %s: %w", p, err), n.Close())
		}
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func switchOn(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("switching %s on: %w", name, err)
	}
	return nil
}

// Close removes all ports and the bridge. Machines should have ended.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, p := range n.ports {
		errs = append(errs, p.file.Close())
	}
	n.ports = nil
	if n.bridge != nil {
		errs = append(errs, netlink.LinkDel(n.bridge))
		n.bridge = nil
	}
	return errors.Join(errs...)
}

// Port is a socket of the network that a machine's cable goes into. Machines may
// use it one after the other. It goes with its network.
type Port struct {
	Name string // of the tap device, for packet captures
	file *os.File
}

// NewPort makes a port; the name is that of its tap device, at most 15 bytes.
func (n *Network) NewPort(name string) (*Port, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	file, err := openTap(name)
	if err != nil {
		return nil, fmt.Errorf("making the port %s: %w", name, err)
	}
	err = func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(link, n.bridge); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	}()
	if err != nil {
		return nil, fmt.Errorf("plugging the port %s in: %w", name, errors.Join(err, file.Close()))
	}
	p := &Port{Name: name, file: file}
	n.ports = append(n.ports, p)
	return p, nil
}

// SetUp switches the port on or off, like its cable being plugged in or pulled.
func (p *Port) SetUp(up bool) error {
	link, err := netlink.LinkByName(p.Name)
	if err == nil && up {
		err = netlink.LinkSetUp(link)
	} else if err == nil {
		err = netlink.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("switching the port %s: %w", p.Name, err)
	}
	return nil
}

// duplicate returns a descriptor of the tap for one machine; the port keeps its
// own for the next one.
func (p *Port) duplicate() (int, error) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("using the port %s: %w", p.Name, err)
	}
	var fd int
	var dupErr error
	err = raw.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 3) })
	if err := errors.Join(err, dupErr); err != nil {
		return 0, fmt.Errorf("using the port %s: %w", p.Name, err)
	}
	return fd, nil
}

const tunDevice = "/dev/net/tun"

// openTap makes a tap device that exists while the file is open somewhere.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		err = &os.PathError{Op: "open", Path: tunDevice, Err: err}
		switch {
		case errors.Is(err, os.ErrPermission):
			return nil, fmt.Errorf("%w; allow it with: sudo chmod 666 %s", err, tunDevice)
		case errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("%w; load the driver with: sudo modprobe tun; a container gets it with: --device %s", err, tunDevice)
		}
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), tunDevice), nil
}

// Isolate makes cmd run in a network namespace of its own, which goes away with
// the last process in it: what [NewNetwork] makes there cannot be left behind.
// A caller that is not root gets a user namespace too, in which it is root;
// cmd.Start then fails where the machine forbids that.
func Isolate(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
}
