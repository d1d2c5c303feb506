package pxe

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// cut gives the message up to and without its END option.
func cut(m *dhcpv4.DHCPv4) []byte {
	b := m.ToBytes()
	opts, _ := wholeOptions(b[offOptions:])
	return append(b[:offOptions:offOptions], opts...)
}

func TestParseMends(t *testing.T) {
	whole := ask(discover, class("PXEClient"), arch7)
	overload := func(where byte, inFile, inSname []byte) []byte {
		b := cut(ask(discover, raw(52, where)))
		b = append(b, 52, 1, where) // cut leaves it out
		copy(b[offFile:], inFile)
		copy(b[offSname:], inSname)
		return append(b, 255)
	}
	cls := append([]byte{60, 9}, "PXEClient\xff"...)
	arch := []byte{93, 2, 0, 7, 255}
	tests := map[string]struct {
		in     []byte
		client Client
		arch   string
	}{
		"whole":                        {whole.ToBytes(), ClientUEFI, "amd64"},
		"without END":                  {cut(whole), ClientUEFI, "amd64"},
		"cut in the last option":       {append(cut(whole), 12, 20, 'h', 'o'), ClientUEFI, "amd64"},
		"cut behind a code":            {append(cut(whole), 12), ClientUEFI, "amd64"},
		"options in file":              {overload(1, slices.Concat(cls[:len(cls)-1], arch), nil), ClientUEFI, "amd64"},
		"options in sname":             {overload(2, nil, slices.Concat(cls[:len(cls)-1], arch)), ClientUEFI, "amd64"},
		"options in both":              {overload(3, cls, arch), ClientUEFI, "amd64"},
		"overload that is not so":      {overload(3, nil, nil), ClientOS, ""},
		"overload bits out of range":   {overload(0xf0, cls, arch), ClientOS, ""},
		"options only padding at end":  {append(cut(whole), 0, 0, 0, 0), ClientUEFI, "amd64"},
		"file is no overload":          {withFile(whole, "x"), ClientUEFI, "amd64"},
		"options without END in file":  {overload(1, append(cls[:len(cls)-1:len(cls)-1], 93, 2, 0, 7), nil), ClientUEFI, "amd64"},
		"option runs out of the field": {overload(2, nil, append(bytes.Repeat([]byte{0}, 60), 60, 30, 'P', 'X')), ClientOS, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := bytes.Clone(tt.in)
			m, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Classify(m)
			if err != nil {
				t.Fatal(err)
			}
			if r.Machine.Client != tt.client || r.Arch != tt.arch {
				t.Errorf("client %q, arch %q, want %q, %q", r.Machine.Client, r.Arch, tt.client, tt.arch)
			}
			if !bytes.Equal(before, tt.in) {
				t.Error("Parse changed the message")
			}
		})
	}
}

func withFile(m *dhcpv4.DHCPv4, name string) []byte {
	c := *m
	c.BootFileName = name
	return c.ToBytes()
}

func TestParseRefuses(t *testing.T) {
	good := ask(discover).ToBytes()
	bad := bytes.Clone(good)
	bad[offCookie] = 0
	for name, in := range map[string][]byte{
		"nothing": {}, "one byte": {1}, "header only": good[:offCookie], "no magic cookie": bad,
	} {
		if _, err := Parse(in); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: error = %v, want ErrNotOurs", name, err)
		}
	}
}

// FuzzAnswer puts any datagram through everything that is done with one.
func FuzzAnswer(f *testing.F) {
	f.Add(ask(discover).ToBytes())
	f.Add(ask(discover, pxeBIOS, arch0, guid).ToBytes())
	f.Add(ask(dhcpv4.MessageTypeRequest, pxeUEFI, arch7, guid, raw(50, 10, 77, 0, 9), raw(54, 10, 77, 0, 1), raw(57, 2, 64)).ToBytes())
	f.Add(ask(discover, httpUEFI, arch16, raw(61, 1, 2, 3), raw(82, 1, 4, 'e', 't', 'h', '0')).ToBytes())
	f.Add(ask(discover, pxeUEFI, userIPXE, raw(175, 0xb1, 1, 1)).ToBytes())
	f.Add(cut(ask(discover, pxeUEFI, raw(52, 3))))
	n := testNetwork()
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrNotOurs) {
				t.Fatalf("error %v is not ErrNotOurs", err)
			}
			return
		}
		r, err := Classify(m)
		if err != nil {
			return
		}
		for _, p := range []Reply{
			{Type: dhcpv4.MessageTypeOffer, IP: addr("10.77.0.9"), File: "undionly.kpxe"},
			{Type: dhcpv4.MessageTypeAck, File: "http://10.77.0.1/boot.ipxe?mac=52-54-00-12-34-56"},
			{Type: dhcpv4.MessageTypeNak, Message: "no"},
		} {
			out := Answer(r, n, p)
			back, err := dhcpv4.FromBytes(out.ToBytes())
			if err != nil {
				t.Fatalf("the answer cannot be read: %v", err)
			}
			if back.TransactionID != m.TransactionID || back.MessageType() != p.Type {
				t.Fatalf("answer %v %v to %v", back.TransactionID, back.MessageType(), m.TransactionID)
			}
			q := query{Request: r, in: &iface{}, port: &port{num: portServer}}
			if to, _ := destination(q, out); !to.IsValid() {
				t.Fatalf("no destination for %v", out.Summary())
			}
		}
	})
}
