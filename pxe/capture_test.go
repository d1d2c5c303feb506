package pxe

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// readPcap gives the IPv4 packets of a capture file of Ethernet frames
// (https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html).
func readPcap(t testing.TB, path string) (packets [][]byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	le := binary.LittleEndian
	var head [24]byte
	if _, err := io.ReadFull(f, head[:]); err != nil || le.Uint32(head[:]) != 0xa1b2c3d4 {
		t.Fatalf("%s is no capture of this byte order: %v", path, err)
	}
	for {
		var rec [16]byte
		if _, err := io.ReadFull(f, rec[:]); err == io.EOF {
			return packets
		} else if err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, le.Uint32(rec[8:]))
		if _, err := io.ReadFull(f, frame); err != nil {
			t.Fatal(err)
		}
		if len(frame) > 14 && binary.BigEndian.Uint16(frame[12:]) == 0x0800 {
			packets = append(packets, frame[14:])
		}
	}
}

// TestCaptures puts what real firmware sent through classification and
// answer; the text beside each capture says what it said and what it gets.
func TestCaptures(t *testing.T) {
	files, err := filepath.Glob("testdata/*.pcap")
	if err != nil || len(files) < 8 {
		t.Fatalf("captures: %v, %v", files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".pcap")
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			for _, packet := range readPcap(t, file) {
				payload, from, to, ok := parseUDP(packet)
				if !ok || to.Port() != portServer && to.Port() != portProxy {
					continue
				}
				m, err := Parse(payload)
				if err != nil {
					t.Fatalf("%v to %v: %v", from, to, err)
				}
				r, err := Classify(m)
				if err != nil {
					t.Fatalf("%v to %v: %v", from, to, err)
				}
				fmt.Fprintf(&out, "%v > %v %v: client %s, arch %q, uuid %q, wants %s of %s\n", from, to, r.Type, r.Machine.Client, r.Arch, r.UUID, orDash(r.Wanted), orDash(r.ServerID))
				for _, line := range strings.Split(m.Summary(), "\n") {
					out.WriteString(strings.TrimRight("    "+line, " ") + "\n")
				}
				reply := Reply{Type: dhcpv4.MessageTypeOffer, IP: addr("10.77.0.9"), File: "FILE"}
				if r.Type == dhcpv4.MessageTypeRequest {
					reply.Type = dhcpv4.MessageTypeAck
				}
				answer := Answer(r, testNetwork(), reply)
				dest, rawly := destination(query{Request: r, port: &port{num: int(to.Port())}, from: from}, answer)
				fmt.Fprintf(&out, "  answer to %v, by hardware address %v, %d bytes\n", dest, rawly, len(answer.ToBytes()))
				for _, line := range strings.Split(answer.Summary(), "\n") {
					out.WriteString(strings.TrimRight("    "+line, " ") + "\n")
				}
			}
			golden(t, name+".txt", strings.ReplaceAll(out.String(), "\x00", `\0`))
		})
	}
}

func orDash(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}
