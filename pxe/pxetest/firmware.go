package pxetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Firmware is one machine. MAC, Kind and Conn are required.
type Firmware struct {
	Kind Kind
	MAC  net.HardwareAddr

	// Conn carries DHCP: what is written to Server reaches the DHCP server,
	// and its answers are read. With a raw connection as of
	// nclient4.NewRawUDPConn answers are seen wherever they are sent; with a
	// common socket on port 68 set Broadcast.
	Conn      net.PacketConn
	Server    net.Addr   // nil: 255.255.255.255:67
	Broadcast bool       // ask for broadcast answers
	Relay     netip.Addr // set: speak as the relay with this address, for Conn on port 67

	// Wait is how long an answer is waited for, Tries how often is asked.
	// 0: 4 s as EDK2, and 4.
	Wait  time.Duration
	Tries int

	// Files fetches by TFTP; nil: files named for TFTP are not fetched.
	Files func(ctx context.Context, server netip.Addr, name string) ([]byte, error)
	// HTTP fetches URLs; nil: http.DefaultClient.
	HTTP *http.Client

	sent int
}

// Boot is what a machine went through.
type Boot struct {
	IP        netip.Addr // the last one that it was given
	Addresses []netip.Addr
	Loader    string // name or URL of the boot program, "" for iPXE in ROM
	LoaderLen int
	ScriptURL string
	Script    string
	Kernel    string // URL
	Initramfs string // URL
	Cmdline   string
	KernelLen int64
	InitrdLen int64
	Asked     int // messages of DHCP that were sent, four if none was repeated
}

// ErrNoAnswer is the error of a machine that nobody answers.
var ErrNoAnswer = errors.New("no answer")

// Boot goes all the way from the first DISCOVER to the initramfs. The error
// says at which step the machine stopped.
func (f *Firmware) Boot(ctx context.Context) (Boot, error) {
	var b Boot
	if f.Kind != IPXE {
		if err := f.fetchLoader(ctx, &b); err != nil {
			return b, err
		}
	}
	lease, err := f.DHCP(ctx, true, &b)
	if err != nil {
		return b, fmt.Errorf("asking by DHCP as iPXE: %w", err)
	}
	b.ScriptURL = lease.File
	text, err := f.get(ctx, b.ScriptURL)
	if err != nil {
		return b, fmt.Errorf("fetching the script: %w", err)
	}
	b.Script = string(text)
	return b, f.runScript(ctx, &b)
}

// fetchLoader is the part of the firmware.
func (f *Firmware) fetchLoader(ctx context.Context, b *Boot) error {
	lease, err := f.DHCP(ctx, false, b)
	if err != nil {
		return fmt.Errorf("asking by DHCP as %s: %w", f.Kind, err)
	}
	if b.Loader = lease.File; b.Loader == "" {
		return fmt.Errorf("asking by DHCP as %s: no boot program was named", f.Kind)
	}
	var content []byte
	switch {
	case strings.HasPrefix(b.Loader, "http://"):
		content, err = f.get(ctx, b.Loader)
	case f.Files != nil:
		content, err = f.Files(ctx, lease.Next, b.Loader)
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("fetching %s: %w", b.Loader, err)
	}
	b.LoaderLen = len(content)
	return nil
}

// Lease is what DHCP gave: the address by one server, the boot file by the
// same or by a proxy.
type Lease struct {
	IP   netip.Addr
	Next netip.Addr // server of the boot file
	File string
	Ack  *dhcpv4.DHCPv4
}

// DHCP asks for an address and a boot file as iPXE (chain) or as the
// firmware. b, which may be nil, gets the address and the count of messages.
func (f *Firmware) DHCP(ctx context.Context, chain bool, b *Boot) (Lease, error) {
	if b == nil {
		b = &Boot{}
	}
	discover := f.Discover(chain)
	var offer, boot *dhcpv4.DHCPv4
	err := f.exchange(ctx, discover, b, func(m *dhcpv4.DHCPv4) bool {
		if m.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		if offer == nil && addrOf(m.YourIPAddr).IsValid() {
			offer = m
		}
		if boot == nil && bootFile(m) != "" {
			boot = m
		}
		return offer != nil && boot != nil
	})
	if offer == nil {
		return Lease{}, fmt.Errorf("DISCOVER: %w", err)
	}
	var ack *dhcpv4.DHCPv4
	err = f.exchange(ctx, f.Request(chain, offer), b, func(m *dhcpv4.DHCPv4) bool {
		ack = m
		return m.MessageType() == dhcpv4.MessageTypeAck || m.MessageType() == dhcpv4.MessageTypeNak
	})
	switch {
	case err != nil:
		return Lease{}, fmt.Errorf("REQUEST: %w", err)
	case ack.MessageType() == dhcpv4.MessageTypeNak:
		return Lease{}, fmt.Errorf("REQUEST: refused: %s", ack.Message())
	}
	l := Lease{IP: addrOf(ack.YourIPAddr), Ack: ack}
	if boot != nil {
		l.File, l.Next = bootFile(boot), addrOf(boot.ServerIPAddr)
	}
	b.IP = l.IP
	b.Addresses = append(b.Addresses, l.IP)
	return l, nil
}

// bootFile is option 67, else the file field.
func bootFile(m *dhcpv4.DHCPv4) string {
	if name := strings.TrimRight(string(m.Options.Get(dhcpv4.OptionBootfileName)), "\x00"); name != "" {
		return name
	}
	return m.BootFileName
}

// exchange sends m until enough answers came.
func (f *Firmware) exchange(ctx context.Context, m *dhcpv4.DHCPv4, b *Boot, enough func(*dhcpv4.DHCPv4) bool) error {
	to := f.Server
	if to == nil {
		to = &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort}
	}
	wait, tries := f.Wait, f.Tries
	if wait == 0 {
		wait = 4 * time.Second
	}
	if tries == 0 {
		tries = 4
	}
	buf := make([]byte, 2048)
	for range tries {
		if _, err := f.Conn.WriteTo(m.ToBytes(), to); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		b.Asked++
		end := time.Now().Add(wait)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f.Conn.SetReadDeadline(end); err != nil {
				return err
			}
			n, _, err := f.Conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return fmt.Errorf("receiving: %w", err)
			}
			answer, err := dhcpv4.FromBytes(buf[:n])
			if err != nil || answer.OpCode != dhcpv4.OpcodeBootReply || answer.TransactionID != m.TransactionID ||
				answer.ClientHWAddr.String() != f.MAC.String() {
				continue
			}
			if enough(answer) {
				return nil
			}
		}
	}
	return ErrNoAnswer
}

// get fetches a URL whole, and insists on what firmware insists on.
func (f *Firmware) get(ctx context.Context, u string) ([]byte, error) {
	body, size, err := f.open(ctx, u)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("%s: %d bytes of %d", u, len(b), size)
	}
	return b, err
}

func (f *Firmware) open(ctx context.Context, u string) (io.ReadCloser, int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, 0, err
	}
	c := http.Client{}
	if f.HTTP != nil {
		c = *f.HTTP
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Do(req)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("%s: %s, length %d", u, resp.Status, resp.ContentLength)
	}
	return resp.Body, resp.ContentLength, nil
}

var (
	kernelLine = regexp.MustCompile(`(?m)^kernel (?:--name \S+ )?(\S+) (.*?)(?: \|\| .*)?$`)
	initrdLine = regexp.MustCompile(`(?m)^initrd (?:--name \S+ )?(\S+)`)
)

// runScript fetches what the script boots. A script that boots nothing ends
// it without an error, with Kernel empty.
func (f *Firmware) runScript(ctx context.Context, b *Boot) error {
	if !strings.HasPrefix(b.Script, "#!ipxe\n") {
		return fmt.Errorf("%s is no iPXE script", path.Base(b.ScriptURL))
	}
	if m := kernelLine.FindStringSubmatch(b.Script); m != nil {
		b.Kernel, b.Cmdline = m[1], m[2]
	}
	if m := initrdLine.FindStringSubmatch(b.Script); m != nil {
		b.Initramfs = m[1]
	}
	for _, file := range []struct {
		url string
		len *int64
	}{{b.Kernel, &b.KernelLen}, {b.Initramfs, &b.InitrdLen}} {
		if file.url == "" {
			continue
		}
		body, size, err := f.open(ctx, file.url)
		if err != nil {
			return fmt.Errorf("fetching: %w", err)
		}
		*file.len, err = io.Copy(io.Discard, body)
		body.Close()
		if err != nil || *file.len != size {
			return fmt.Errorf("fetching %s: %d bytes of %d: %w", file.url, *file.len, size, err)
		}
	}
	return nil
}
