package mdns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"muster/internal/need"
)

func testService() Service {
	return Service{
		Type: "_muster._tcp", Instance: "muster abcd-efgh", Host: "muster-abcd-efgh", Port: 7421,
		Text: []string{"pin=" + strings.Repeat("ab", 32), "v=1"},
	}
}

func testNames(t testing.TB) names {
	t.Helper()
	n, err := testService().names()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func ask(t testing.TB, known []dnsmessage.Resource, questions ...dnsmessage.Question) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: questions, Answers: known}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func about(name string, typ dnsmessage.Type, class dnsmessage.Class) dnsmessage.Question {
	return dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: class}
}

func pointer(ttl uint32) []dnsmessage.Resource {
	return []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("_muster._tcp.local."), Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("muster abcd-efgh._muster._tcp.local.")},
	}}
}

func TestParseQuery(t *testing.T) {
	const in, any = dnsmessage.ClassINET, dnsmessage.ClassANY
	many := make([]dnsmessage.Question, 80)
	for i := range many {
		many[i] = about("printer.local.", dnsmessage.TypeA, in)
	}
	many[79] = about("_muster._tcp.local.", dnsmessage.TypePTR, in)
	for name, c := range map[string]struct {
		msg     []byte
		want    []record // nil: not ours
		unicast bool
	}{
		"the type":               {msg: ask(t, nil, about("_muster._tcp.local.", dnsmessage.TypePTR, in)), want: []record{recordPTR}},
		"in capitals, class any": {msg: ask(t, nil, about("_MUSTER._TCP.Local.", dnsmessage.TypePTR, any)), want: []record{recordPTR}},
		"any type":               {msg: ask(t, nil, about("muster abcd-efgh._muster._tcp.local.", dnsmessage.TypeALL, in)), want: []record{recordSRV, recordTXT}},
		"by unicast":             {msg: ask(t, nil, about("_muster._tcp.local.", dnsmessage.TypePTR, in|topBit)), want: []record{recordPTR}, unicast: true},
		"one of two by unicast": {
			msg:  ask(t, nil, about("_muster._tcp.local.", dnsmessage.TypePTR, in|topBit), about("muster-abcd-efgh.local.", dnsmessage.TypeA, in)),
			want: []record{recordPTR, recordA},
		},
		"all types of services": {msg: ask(t, nil, about("_services._dns-sd._udp.local.", dnsmessage.TypePTR, in)), want: []record{recordList}},
		"known already":         {msg: ask(t, pointer(ttlShared), about("_muster._tcp.local.", dnsmessage.TypePTR, in))},
		"known, not for long":   {msg: ask(t, pointer(100), about("_muster._tcp.local.", dnsmessage.TypePTR, in)), want: []record{recordPTR}},
		"another service":       {msg: ask(t, nil, about("_ipp._tcp.local.", dnsmessage.TypePTR, in))},
		"another instance":      {msg: ask(t, nil, about("muster xyz._muster._tcp.local.", dnsmessage.TypeSRV, in))},
		"another class":         {msg: ask(t, nil, about("_muster._tcp.local.", dnsmessage.TypePTR, 3))},
		"behind too many":       {msg: ask(t, nil, many...)},
		"an answer":             {msg: mustEncode(t, reply{answers: everything()})},
		"cut":                   {msg: ask(t, nil, about("_muster._tcp.local.", dnsmessage.TypePTR, in))[:20]},
		"nothing":               {},
	} {
		q, err := parseQuery(c.msg, testNames(t))
		if (err == nil) != (c.want != nil) {
			t.Errorf("%s: parseQuery = %+v, %v, want %v", name, q, err, c.want)
			continue
		}
		if d := cmp.Diff(c.want, q.wants); err == nil && (d != "" || q.unicast != c.unicast) {
			t.Errorf("%s: unicast %v, want %v: %s", name, q.unicast, c.unicast, d)
		}
	}
}

func mustEncode(t testing.TB, r reply) []byte {
	t.Helper()
	b, err := testService().encode(r, netip.MustParseAddr("192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnswerIsUnderstood(t *testing.T) {
	s := testService()
	for name, c := range map[string]struct {
		r    reply
		src  string
		want string
	}{
		"announcement":          {r: reply{answers: everything()}, src: "192.0.2.1", want: "192.0.2.1:7421"},
		"to a plain DNS client": {r: reply{answers: []record{recordPTR}, legacy: true, id: 9, questions: []dnsmessage.Question{about("_muster._tcp.local.", dnsmessage.TypePTR, 1)}}, src: "192.0.2.1", want: "192.0.2.1:7421"},
		"of another's address":  {r: reply{answers: everything()}, src: "192.0.2.7", want: "192.0.2.1:7421"},
		"goodbye":               {r: reply{answers: everything(), goodbye: true}, src: "192.0.2.1"},
		"without the pointer":   {r: reply{answers: []record{recordA}}, src: "192.0.2.1"},
	} {
		msg := mustEncode(t, c.r)
		got, err := parseAnswer(msg, "_muster._tcp", netip.MustParseAddr(c.src))
		if err != nil {
			t.Fatal(err)
		}
		var want []Found
		if c.want != "" {
			want = []Found{{Instance: s.Instance, Addr: netip.MustParseAddrPort(c.want), Text: s.Text}}
		}
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if c.r.legacy && binary.BigEndian.Uint16(msg) != c.r.id {
			t.Errorf("%s: identifier is %d, want %d", name, binary.BigEndian.Uint16(msg), c.r.id)
		}
	}
	if _, err := parseAnswer(ask(t, nil, about("_muster._tcp.local.", dnsmessage.TypePTR, 1)), "_muster._tcp", netip.MustParseAddr("192.0.2.1")); !errors.Is(err, errNotOurs) {
		t.Errorf("a question taken for an answer: %v", err)
	}
}

func TestValue(t *testing.T) {
	f := Found{Text: []string{"flag", "PIN=x=y", "pin=z"}}
	if got := f.Value("pin"); got != "x=y" {
		t.Errorf("Value(pin) = %q, want the first, x=y", got)
	}
	if got := f.Value("flag"); got != "" {
		t.Errorf("Value(flag) = %q, want nothing", got)
	}
}

// TestAnswerIsDNS has a program that others wrote read an answer.
func TestAnswerIsDNS(t *testing.T) {
	tshark := need.Program(t, "tshark", "tshark")
	file := filepath.Join(t.TempDir(), "answer.pcap")
	if err := os.WriteFile(file, pcapOf(mustEncode(t, reply{answers: everything()})), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tshark, "-r", file, "-T", "fields", "-E", "separator=|", "-E", "occurrence=a",
		"-e", "dns.ptr.domain_name", "-e", "dns.srv.port", "-e", "dns.srv.target", "-e", "dns.txt", "-e", "dns.a", "-e", "_ws.malformed").Output()
	if err != nil {
		t.Fatal(err)
	}
	s := testService()
	want := "muster abcd-efgh._muster._tcp.local|7421|muster-abcd-efgh.local|" + strings.Join(s.Text, ",") + "|192.0.2.1|\n"
	if got := string(out); got != want {
		t.Errorf("tshark reads %q, want %q", got, want)
	}
}

// pcapOf is a capture of one datagram from port 5353 (raw IP, LINKTYPE 101).
func pcapOf(payload []byte) []byte {
	var b bytes.Buffer
	le, be := binary.LittleEndian, binary.BigEndian
	for _, v := range []uint32{0xa1b2c3d4, 4<<16 | 2, 0, 0, 65535, 101, 0, 0, uint32(28 + len(payload)), uint32(28 + len(payload))} {
		b.Write(le.AppendUint32(nil, v))
	}
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 255, 17, 0, 0, 192, 0, 2, 1, 224, 0, 0, 251}
	be.PutUint16(ip[2:], uint16(28+len(payload)))
	udp := be.AppendUint16(be.AppendUint16(be.AppendUint16(be.AppendUint16(nil, port), port), uint16(8+len(payload))), 0)
	b.Write(ip)
	b.Write(udp)
	b.Write(payload)
	return b.Bytes()
}

// FuzzMessage gives both sides anything: they answer or refuse, and what is found is bounded.
func FuzzMessage(f *testing.F) {
	f.Add(ask(f, nil, about("_muster._tcp.local.", dnsmessage.TypePTR, 1)))
	f.Add(ask(f, pointer(ttlShared), about("_muster._tcp.local.", dnsmessage.TypePTR, 1|topBit)))
	f.Add(mustEncode(f, reply{answers: everything()}))
	f.Add(mustEncode(f, reply{answers: []record{recordPTR}, legacy: true, questions: []dnsmessage.Question{about("_muster._tcp.local.", dnsmessage.TypePTR, 1)}}))
	n := testNames(f)
	src := netip.MustParseAddr("192.0.2.1")
	f.Fuzz(func(t *testing.T, msg []byte) {
		msg = msg[:min(len(msg), maxMessage)]
		if q, err := parseQuery(msg, n); err == nil {
			if len(q.wants) == 0 || len(q.questions) > maxQuestions {
				t.Fatalf("parseQuery = %+v", q)
			}
			b, err := testService().encode(reply{answers: q.wants, legacy: true, id: q.id, questions: q.questions}, src)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > maxMessage {
				t.Fatalf("an answer of %d bytes to %d", len(b), len(msg))
			}
		}
		list, err := parseAnswer(msg, "_muster._tcp", src)
		if err == nil && len(list) > 2*maxFound {
			t.Fatalf("%d services found", len(list))
		}
		for _, x := range list {
			if x.Addr.Port() == 0 || x.Instance == "" {
				t.Fatalf("found %+v", x)
			}
		}
	})
}
