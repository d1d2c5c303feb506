package mdns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of a message.
const (
	maxMessage   = 9000 // RFC 6762 17
	maxQuestions = 64
	maxRecords   = 256
	maxFound     = 32 // services in one message
	maxTexts     = 32 // strings of one text record
)

// Times to live, RFC 6762 10 and 6.7.
const (
	ttlShared = 4500
	ttlHost   = 120
	ttlLegacy = 10
)

// topBit of a class is "answer by unicast, please" in a question and "forget
// what you knew" in an answer (RFC 6762 5.4, 10.2).
const topBit = 1 << 15

// Service is one instance of a service.
type Service struct {
	Type     string   // _muster._tcp
	Instance string   // name of this one, for people, without dots; unique on the link
	Host     string   // host name, one label; unique on the link
	Port     uint16   //
	Text     []string // key=value, each of at most 255 bytes
}

// names are the DNS names of a service.
type names struct {
	list, service, instance, host dnsmessage.Name
}

func (s Service) names() (n names, err error) {
	for _, x := range []struct {
		to   *dnsmessage.Name
		text string
	}{
		{&n.list, "_services._dns-sd._udp.local."}, // RFC 6763 9
		{&n.service, s.Type + ".local."},
		{&n.instance, s.Instance + "." + s.Type + ".local."},
		{&n.host, s.Host + ".local."},
	} {
		name, err := dnsmessage.NewName(x.text)
		if err != nil {
			return n, fmt.Errorf("DNS name %q: %w", x.text, err)
		}
		*x.to = name
	}
	return n, nil
}

// record is what a service can say.
type record int

const (
	recordList record = iota // this type of service is here
	recordPTR                // this instance is here
	recordSRV
	recordTXT
	recordA
)

// query is a question of somebody, as far as it is about a service.
type query struct {
	id        uint16
	questions []dnsmessage.Question // as asked, for an answer to a plain DNS client
	wants     []record
	unicast   bool // all questions ask for an answer by unicast
}

var errNotOurs = errors.New("not about this service")

// parseQuery reads a message. One that asks nothing of the service, or lists the answer as
// known, is errNotOurs.
func parseQuery(msg []byte, n names) (query, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	switch {
	case err != nil:
		return query{}, err
	case h.Response || h.OpCode != 0:
		return query{}, errNotOurs
	}
	q := query{id: h.ID, unicast: true}
	for range maxQuestions {
		x, err := p.Question()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return query{}, err
		}
		wants := wanted(x, n)
		if len(wants) == 0 {
			continue
		}
		q.unicast = q.unicast && x.Class&topBit != 0
		x.Class &^= topBit
		q.questions = append(q.questions, x)
		for _, w := range wants {
			if !slices.Contains(q.wants, w) {
				q.wants = append(q.wants, w)
			}
		}
	}
	if len(q.wants) == 0 {
		return query{}, errNotOurs
	}
	if err := p.SkipAllQuestions(); err != nil {
		return query{}, err
	}
	if knows(&p, n) { // RFC 6762 7.1
		q.wants = slices.DeleteFunc(q.wants, func(r record) bool { return r == recordPTR })
	}
	if len(q.wants) == 0 {
		return query{}, errNotOurs
	}
	return q, nil
}

func wanted(q dnsmessage.Question, n names) []record {
	if class := q.Class &^ topBit; class != dnsmessage.ClassINET && class != dnsmessage.ClassANY {
		return nil
	}
	is := func(name dnsmessage.Name, types ...dnsmessage.Type) bool {
		return sameName(q.Name, name) && (slices.Contains(types, q.Type) || q.Type == dnsmessage.TypeALL)
	}
	var list []record
	if is(n.list, dnsmessage.TypePTR) {
		list = append(list, recordList)
	}
	if is(n.service, dnsmessage.TypePTR) {
		list = append(list, recordPTR)
	}
	if is(n.instance, dnsmessage.TypeSRV) {
		list = append(list, recordSRV)
	}
	if is(n.instance, dnsmessage.TypeTXT) {
		list = append(list, recordTXT)
	}
	if is(n.host, dnsmessage.TypeA) {
		list = append(list, recordA)
	}
	return list
}

// knows tells whether the sender has our pointer for some time to come.
func knows(p *dnsmessage.Parser, n names) bool {
	for range maxRecords {
		h, err := p.AnswerHeader()
		if err != nil {
			return false
		}
		if h.Type != dnsmessage.TypePTR || !sameName(h.Name, n.service) {
			if p.SkipAnswer() != nil {
				return false
			}
			continue
		}
		r, err := p.PTRResource()
		if err != nil {
			return false
		}
		if sameName(r.PTR, n.instance) && h.TTL >= ttlShared/2 {
			return true
		}
	}
	return false
}

// sameName compares as DNS does: without regard to the case of ASCII letters.
func sameName(a, b dnsmessage.Name) bool { return strings.EqualFold(a.String(), b.String()) }

// reply says how an answer is written.
type reply struct {
	answers   []record
	legacy    bool // to a plain DNS client, RFC 6762 6.7: with its question and identifier
	id        uint16
	questions []dnsmessage.Question
	goodbye   bool // the service ends: time to live 0
}

// encode writes an answer that holds every record of the service: those that were asked for
// first, the others as additional ones.
func (s Service) encode(r reply, addr netip.Addr) ([]byte, error) {
	n, err := s.names()
	if err != nil {
		return nil, err
	}
	h := dnsmessage.Header{Response: true, Authoritative: true}
	if r.legacy {
		h.ID = r.id
	}
	b := dnsmessage.NewBuilder(nil, h)
	b.EnableCompression()
	if r.legacy {
		if err := b.StartQuestions(); err != nil {
			return nil, err
		}
		for _, q := range r.questions {
			if err := b.Question(q); err != nil {
				return nil, err
			}
		}
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	for _, rec := range r.answers {
		if err := s.add(&b, n, r, rec, addr); err != nil {
			return nil, err
		}
	}
	if err := b.StartAdditionals(); err != nil {
		return nil, err
	}
	for _, rec := range []record{recordSRV, recordTXT, recordA} {
		if !slices.Contains(r.answers, rec) {
			if err := s.add(&b, n, r, rec, addr); err != nil {
				return nil, err
			}
		}
	}
	return b.Finish()
}

func (s Service) add(b *dnsmessage.Builder, n names, r reply, rec record, addr netip.Addr) error {
	head := func(name dnsmessage.Name, ttl uint32, unique bool) dnsmessage.ResourceHeader {
		h := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}
		switch {
		case r.goodbye:
			h.TTL = 0
		case r.legacy:
			h.TTL = min(ttl, ttlLegacy)
		}
		if unique && !r.legacy {
			h.Class |= topBit
		}
		return h
	}
	switch rec {
	case recordList:
		return b.PTRResource(head(n.list, ttlShared, false), dnsmessage.PTRResource{PTR: n.service})
	case recordPTR:
		return b.PTRResource(head(n.service, ttlShared, false), dnsmessage.PTRResource{PTR: n.instance})
	case recordSRV:
		return b.SRVResource(head(n.instance, ttlHost, true), dnsmessage.SRVResource{Port: s.Port, Target: n.host})
	case recordTXT:
		text := s.Text
		if len(text) == 0 {
			text = []string{""} // RFC 6763 6.1
		}
		return b.TXTResource(head(n.instance, ttlShared, true), dnsmessage.TXTResource{TXT: text})
	default:
		return b.AResource(head(n.host, ttlHost, true), dnsmessage.AResource{A: addr.As4()})
	}
}

// question is what [Browse] sends.
func question(service string) ([]byte, error) {
	name, err := dnsmessage.NewName(service + ".local.")
	if err != nil {
		return nil, fmt.Errorf("DNS name of the service %q: %w", service, err)
	}
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}}}
	return m.Pack()
}

// Found is a service that answered.
type Found struct {
	Instance string
	Addr     netip.AddrPort
	Text     []string
}

// Value returns the value of a key of the text record, "" where there is none.
func (f Found) Value(key string) string {
	for _, t := range f.Text {
		if k, v, ok := strings.Cut(t, "="); ok && strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}

// records are those of an answer by kind, with the key that they belong to in lower case.
type records struct {
	instances []string // full names
	srv       map[string]dnsmessage.SRVResource
	text      map[string][]string
	addrs     map[string][]netip.Addr
}

// parseAnswer returns the instances of a service in an answer that came from src. An instance
// without port is left out.
func parseAnswer(msg []byte, service string, src netip.Addr) ([]Found, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return nil, err
	}
	if !h.Response || h.RCode != dnsmessage.RCodeSuccess {
		return nil, errNotOurs
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, err
	}
	r := records{srv: map[string]dnsmessage.SRVResource{}, text: map[string][]string{}, addrs: map[string][]netip.Addr{}}
	want := strings.ToLower(service + ".local.")
	if err := r.read(&p, p.AnswerHeader, p.SkipAnswer, want); err != nil {
		return nil, err
	}
	if err := p.SkipAllAuthorities(); err != nil {
		return nil, err
	}
	if err := r.read(&p, p.AdditionalHeader, p.SkipAdditional, want); err != nil {
		return nil, err
	}
	return r.found(want, src), nil
}

func (r *records) read(p *dnsmessage.Parser, next func() (dnsmessage.ResourceHeader, error), skip func() error, want string) error {
	for range maxRecords {
		h, err := next()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.ToLower(h.Name.String())
		switch {
		case h.TTL == 0: // it says goodbye
			err = skip()
		case h.Type == dnsmessage.TypePTR && name == want:
			var ptr dnsmessage.PTRResource
			if ptr, err = p.PTRResource(); err == nil && len(r.instances) < maxFound {
				r.instances = append(r.instances, ptr.PTR.String())
			}
		case h.Type == dnsmessage.TypeSRV:
			var srv dnsmessage.SRVResource
			if srv, err = p.SRVResource(); err == nil {
				r.srv[name] = srv
			}
		case h.Type == dnsmessage.TypeTXT:
			var txt dnsmessage.TXTResource
			if txt, err = p.TXTResource(); err == nil {
				r.text[name] = txt.TXT[:min(len(txt.TXT), maxTexts)]
			}
		case h.Type == dnsmessage.TypeA:
			var a dnsmessage.AResource
			if a, err = p.AResource(); err == nil {
				r.addrs[name] = append(r.addrs[name], netip.AddrFrom4(a.A))
			}
		default:
			err = skip()
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d records", maxRecords)
}

func (r *records) found(want string, src netip.Addr) []Found {
	var list []Found
	for _, full := range r.instances {
		key := strings.ToLower(full)
		srv, ok := r.srv[key]
		instance, isOurs := strings.CutSuffix(key, "."+want)
		if !ok || srv.Port == 0 || !isOurs || instance == "" {
			continue
		}
		addr := src
		if addrs := r.addrs[strings.ToLower(srv.Target.String())]; len(addrs) > 0 && !slices.Contains(addrs, src) {
			addr = addrs[0]
		}
		list = append(list, Found{Instance: full[:len(instance)], Addr: netip.AddrPortFrom(addr, srv.Port), Text: r.text[key]})
	}
	return list
}
