package pxe

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Machine is a machine that asked something, as far as its packets tell.
type Machine struct {
	MAC     net.HardwareAddr // never empty, six bytes
	UUID    string           // of option 97, lower case with dashes, or ""
	Arch    string           // amd64, arm64, i386, or "" when unknown
	Client  Client           // what kind of program asks
	IP      netip.Addr       // address it uses, the zero Addr when it has none
	OwnsLAN bool             // it asked on an interface where this server gives out the addresses
}

// Client is the kind of program that asks.
type Client string

// The kinds: a BIOS PXE ROM, UEFI PXE, UEFI HTTP boot, iPXE, anything else
// (an operating system).
const (
	ClientBIOS Client = "bios"
	ClientUEFI Client = "uefi"
	ClientHTTP Client = "http"
	ClientIPXE Client = "ipxe"
	ClientOS   Client = "os"
)

// Booter decides what a machine boots.
//
// Boot is called several times during one boot, for each DHCP message and
// for the script, from several goroutines at once. It must answer within a
// second or two, since firmware gives up; a slow or failing Booter makes the
// server drop the message (the firmware repeats it). A machine that is not to
// be answered gets a Boot with a Refused reason, not an error. Leases for
// [ClientOS] are given without asking.
type Booter interface {
	Boot(ctx context.Context, m Machine) (Boot, error)
}

// Boot is what a machine boots.
type Boot struct {
	// Refused says why the machine is not answered; "" for one that is.
	Refused string

	// Kernel and Initramfs are absolute HTTP URLs, or paths that begin with
	// a slash and are completed with the base URL for bulk files of the
	// interface on which the machine asked.
	Kernel, Initramfs string

	// Cmdline is the whole kernel command line but for what only the boot
	// script knows: initrd= and BOOTIF= are added by it. "{host}" in it is
	// replaced by the server's address on the machine's interface.
	Cmdline string

	// Loader is the file name of the network boot program per client kind
	// and architecture, in the server's loader file system, for example
	// "undionly.kpxe". Empty: the default of the client.
	Loader string

	// Program is what UEFI HTTP boot starts in place of a loader: a UKI, which asks for no
	// script. A URL or a path, as Kernel is. Empty: the loader.
	Program string

	FixedIP  netip.Addr // reservation; the zero Addr for none
	HostName string     // DHCP option 12; "" for none

	// Wait makes the script wait so long and ask again instead of booting.
	Wait time.Duration
}

// Event is one thing that a machine did on its way.
type Event struct {
	Time   time.Time
	MAC    net.HardwareAddr
	IP     netip.Addr
	UUID   string
	Arch   string
	Client Client
	Stage  Stage
	Detail string        // file name, reason: for people
	Bytes  int64         // how much was sent
	Dur    time.Duration // how long that took
}

// Stage is the step of a boot that an [Event] tells of.
type Stage string

// The stages, in the order of a boot.
const (
	StageDHCP      Stage = "dhcp"      // an OFFER was sent
	StageLoader    Stage = "loader"    // a boot program was sent, by TFTP or HTTP
	StageScript    Stage = "script"    // the boot script was sent
	StageKernel    Stage = "kernel"    // the kernel was sent
	StageInitramfs Stage = "initramfs" // the initramfs was sent
	StageRefused   Stage = "refused"   // the machine was not answered: Detail says why
	StageStuck     Stage = "stuck"     // a boot loop was noticed: Detail says where
)

// Observer is told what machines do. Observe must not block: it is called
// from the goroutines that answer packets.
type Observer interface {
	Observe(Event)
}
