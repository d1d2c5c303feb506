package shares

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// leaseSeconds is how long a client that is not heard keeps its locks, and how long a server that
// starts waits for clients to claim theirs. Measured: a writer stalls 10 s at most when the server is
// killed, against 17 s with the default of 60.
const leaseSeconds = 10

// ganeshaBasics is what the configuration says beside exports.
type ganeshaBasics struct {
	recovery string // folder of what it has to remember
	plugins  string // folder of its parts for file systems; "": the one that it knows
	port     int
	version  int // its major version; 0: not known
}

// flusherVersion is the first version that ends when it cannot be an IO flusher, which takes a capability that it does not get
// here, unless it is told to go on. Earlier ones do not know that word. Seen with 4.3 and 6.5.
const flusherVersion = 5

// core is what a block NFS_CORE_PARAM says beside what all versions are told, by name.
func (g ganeshaBasics) core() map[string]string {
	more := map[string]string{}
	if g.plugins != "" {
		more["Plugins_Dir"] = `"` + g.plugins + `"`
	}
	if g.version >= flusherVersion {
		more["Allow_Set_Io_Flusher_Fail"] = "true"
	}
	return more
}

// ganeshaConfig is the configuration of nfs-ganesha for exports.
func ganeshaConfig(basics ganeshaBasics, list []Export) string {
	var b strings.Builder
	more := ""
	for _, name := range slices.Sorted(maps.Keys(basics.core())) {
		more += fmt.Sprintf("\t%s = %s;\n", name, basics.core()[name])
	}
	// Minor version 2 is left out: version 4.3 answers its READ_PLUS with zeros for data that is
	// not on the disk yet.
	fmt.Fprintf(&b, `NFS_CORE_PARAM {
	Protocols = 4;
	NFS_Port = %d;
	Enable_NLM = false;
	Enable_RQUOTA = false;
	Enable_UDP = false;
%[4]s}
NFSv4 {
	Minor_Versions = 1;
	Lease_Lifetime = %[2]d;
	Grace_Period = %[2]d;
	RecoveryBackend = fs;
	RecoveryRoot = "%[3]s";
	Only_Numeric_Owners = true;
	Delegations = false;
}
LOG {
	Default_Log_Level = EVENT;
}
`, basics.port, leaseSeconds, basics.recovery, more)
	for _, e := range list {
		b.WriteString(ganeshaExport(e))
	}
	return b.String()
}

// ganeshaExport is the block of one export. Whoever is in no CLIENT block has no access.
func ganeshaExport(e Export) string {
	access := "RW"
	if e.ReadOnly {
		access = "RO"
	}
	squash, _ := e.squash()
	var b strings.Builder
	// Attributes are not kept: with one second, what the head itself writes was seen two seconds late.
	// Tasks have no privileged port, so they cannot speak NFS under another user's number.
	fmt.Fprintf(&b, `EXPORT {
	Export_Id = %[1]d;
	Filesystem_Id = %[1]d.1;
	Path = "%[2]s";
	Pseudo = "/share-%[1]d";
	Protocols = 4;
	Transports = TCP;
	SecType = sys;
	Access_Type = None;
	PrivilegedPort = true;
	Manage_Gids = true;
	Attr_Expiration_Time = 0;
	Squash = %[3]s;
	Anonymous_Uid = 65534;
	Anonymous_Gid = 65534;
	FSAL {
		Name = VFS;
	}
`, e.ID, e.Dir, squash)
	if addrs := e.addrs(); len(addrs) > 0 {
		b.WriteString("\tCLIENT {\n\t\tClients = ")
		for i, a := range addrs {
			if i > 0 {
				b.WriteString(",\n\t\t\t")
			}
			b.WriteString(a.String())
		}
		fmt.Fprintf(&b, ";\n\t\tAccess_Type = %s;\n\t\tSquash = %s;\n\t\tProtocols = 4;\n\t\tPrivilegedPort = true;\n\t}\n", access, squash)
	}
	b.WriteString("}\n")
	return b.String()
}

// block is a part of a configuration as it is read back.
type block struct {
	name   string
	params map[string]string // as they were written; the words of a list with "," between
	blocks []block
}

// checkGanesha reads a configuration and compares it with what it is made of. A server that reads
// what is not well formed takes all exports away from everybody, so this comes before every reload.
func checkGanesha(text string, basics ganeshaBasics, list []Export) error {
	got, err := parseGanesha(text)
	if err != nil {
		return err
	}
	want := []block{
		{name: "NFS_CORE_PARAM", params: map[string]string{
			"Protocols": "4", "NFS_Port": fmt.Sprint(basics.port), "Enable_NLM": "false", "Enable_RQUOTA": "false", "Enable_UDP": "false",
		}},
		{name: "NFSv4", params: map[string]string{
			"Minor_Versions": "1", "Lease_Lifetime": fmt.Sprint(leaseSeconds), "Grace_Period": fmt.Sprint(leaseSeconds), "RecoveryBackend": "fs",
			"RecoveryRoot": `"` + basics.recovery + `"`, "Only_Numeric_Owners": "true", "Delegations": "false",
		}},
		{name: "LOG", params: map[string]string{"Default_Log_Level": "EVENT"}},
	}
	maps.Copy(want[0].params, basics.core())
	for _, e := range list {
		want = append(want, e.block())
	}
	if !slices.EqualFunc(want, got, block.equal) {
		return errors.New("the configuration says something else than was meant")
	}
	return nil
}

func (b block) equal(o block) bool {
	return b.name == o.name && maps.Equal(b.params, o.params) && slices.EqualFunc(b.blocks, o.blocks, block.equal)
}

// block is what the text of an export must say.
func (e Export) block() block {
	access := "RW"
	if e.ReadOnly {
		access = "RO"
	}
	squash, _ := e.squash()
	b := block{name: "EXPORT", params: map[string]string{
		"Export_Id": fmt.Sprint(e.ID), "Filesystem_Id": fmt.Sprintf("%d.1", e.ID), "Path": `"` + e.Dir + `"`, "Pseudo": fmt.Sprintf(`"/share-%d"`, e.ID),
		"Protocols": "4", "Transports": "TCP", "SecType": "sys", "Access_Type": "None", "PrivilegedPort": "true", "Manage_Gids": "true",
		"Attr_Expiration_Time": "0", "Squash": squash, "Anonymous_Uid": "65534", "Anonymous_Gid": "65534",
	}, blocks: []block{{name: "FSAL", params: map[string]string{"Name": "VFS"}}}}
	var clients []string
	for _, a := range e.addrs() {
		clients = append(clients, a.String())
	}
	if len(clients) > 0 {
		b.blocks = append(b.blocks, block{name: "CLIENT", params: map[string]string{
			"Clients": strings.Join(clients, ","), "Access_Type": access, "Squash": squash, "Protocols": "4", "PrivilegedPort": "true",
		}})
	}
	return b
}

// parseGanesha reads the grammar of ganesha-config(8), as far as it is used here: blocks, values,
// lists and strings in quotation marks.
func parseGanesha(text string) ([]block, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("it is not UTF-8")
	}
	p := &parser{text: text, line: 1}
	var list []block
	for {
		name := p.next()
		if p.err != nil {
			return nil, p.err
		}
		if name == "" {
			return list, nil
		}
		b, err := p.block(name, 0)
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
}

type parser struct {
	text string
	line int
	err  error
}

// next is the next word, string or sign; "" at the end.
func (p *parser) next() string {
	for len(p.text) > 0 && strings.IndexByte(" \t\n", p.text[0]) >= 0 {
		if p.text[0] == '\n' {
			p.line++
		}
		p.text = p.text[1:]
	}
	if p.text == "" {
		return ""
	}
	n := 1
	switch c := p.text[0]; {
	case strings.IndexByte("{}=;,", c) >= 0:
	case c == '"':
		end := strings.IndexAny(p.text[1:], "\"\\\n")
		if end < 0 || p.text[1+end] != '"' {
			p.err = fmt.Errorf("line %d: a string does not end", p.line)
			return ""
		}
		n = end + 2
	case wordByte(c):
		for n < len(p.text) && wordByte(p.text[n]) {
			n++
		}
	default:
		p.err = fmt.Errorf("line %d: %q cannot be here", p.line, c)
		return ""
	}
	word := p.text[:n]
	p.text = p.text[n:]
	return word
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '.' || c == ':' || c == '-'
}

func (p *parser) want(sign string) error {
	if got := p.next(); got != sign {
		if p.err != nil {
			return p.err
		}
		return fmt.Errorf("line %d: %q where %q should be", p.line, got, sign)
	}
	return nil
}

func (p *parser) block(name string, depth int) (block, error) {
	b := block{name: name, params: map[string]string{}}
	if depth > 3 || !wordByte(name[0]) {
		return b, fmt.Errorf("line %d: no block can be called %q here", p.line, name)
	}
	if err := p.want("{"); err != nil {
		return b, err
	}
	for {
		key := p.next()
		switch {
		case p.err != nil:
			return b, p.err
		case key == "}":
			return b, nil
		case key == "":
			return b, fmt.Errorf("line %d: block %s does not end", p.line, name)
		case !wordByte(key[0]):
			return b, fmt.Errorf("line %d: %q cannot be the name of a value", p.line, key)
		}
		if strings.HasPrefix(strings.TrimLeft(p.text, " \t\n"), "{") {
			inner, err := p.block(key, depth+1)
			if err != nil {
				return b, err
			}
			b.blocks = append(b.blocks, inner)
			continue
		}
		if err := p.want("="); err != nil {
			return b, err
		}
		value, err := p.value()
		if err != nil {
			return b, err
		}
		if _, twice := b.params[key]; twice {
			return b, fmt.Errorf("line %d: %s is there twice", p.line, key)
		}
		b.params[key] = value
	}
}

// value reads words with commas between, to the semicolon.
func (p *parser) value() (string, error) {
	var words []string
	for {
		w := p.next()
		if p.err != nil {
			return "", p.err
		}
		if w == "" || w[0] != '"' && !wordByte(w[0]) {
			return "", fmt.Errorf("line %d: %q cannot be a value", p.line, w)
		}
		words = append(words, w)
		switch sign := p.next(); sign {
		case ";":
			return strings.Join(words, ","), nil
		case ",":
		default:
			return "", fmt.Errorf("line %d: %q where , or ; should be", p.line, sign)
		}
	}
}
