package deb

import (
	"bytes"
	"fmt"
	"strings"
)

// Stanza is one paragraph of a control file (Debian Policy 5.1): its fields by
// name in lower case. The lines of a value that goes over several are
// separated by \n, without their leading space.
type Stanza map[string]string

// Field returns a field by name, in any case.
func (s Stanza) Field(name string) string { return s[strings.ToLower(name)] }

// ParseStanza reads one paragraph. Lines that begin with # are comments.
func ParseStanza(text []byte) (Stanza, error) {
	s := make(Stanza)
	last, n, ended := "", 0, false
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case len(bytes.TrimSpace(line)) == 0:
			ended = len(s) > 0
		case line[0] == '#':
		case ended:
			return nil, fmt.Errorf("line %d begins a second paragraph", n)
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return nil, fmt.Errorf("line %d continues no field", n)
			}
			s[last] += "\n" + string(bytes.TrimLeft(line, " \t"))
		default:
			name, value, ok := bytes.Cut(line, []byte(":"))
			if !ok || len(name) == 0 || bytes.ContainsAny(name, " \t") {
				return nil, fmt.Errorf("line %d is no field: %.60q", n, line)
			}
			last = strings.ToLower(string(name))
			if _, twice := s[last]; twice {
				return nil, fmt.Errorf("line %d: field %s is there twice", n, name)
			}
			s[last] = string(bytes.TrimSpace(value))
		}
	}
	return s, nil
}

// paragraphs splits a control file at blank lines and calls fn with each until it
// returns false.
func paragraphs(text []byte, fn func(p []byte) bool) {
	for len(text) > 0 {
		end := bytes.Index(text, []byte("\n\n"))
		p := text
		if end >= 0 {
			p, text = text[:end+1], text[end+2:]
		} else {
			text = nil
		}
		if p = bytes.TrimLeft(p, "\n"); len(p) > 0 && !fn(p) {
			return
		}
	}
}
