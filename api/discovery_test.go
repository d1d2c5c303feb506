package api

import (
	"strings"
	"testing"
)

func TestHeadNote(t *testing.T) {
	pin := strings.Repeat("ab", 32)
	for _, n := range []HeadNote{
		{Addr: "10.77.0.1:7421", Pin: pin}, {Addr: "head.example"}, {Addr: "[fe80::1]:7421"}, {Addr: "2001:db8::1", Pin: pin},
	} {
		b, err := n.Encode()
		if err != nil {
			t.Errorf("Encode(%+v): %v", n, err)
			continue
		}
		if got, err := ParseHeadNote(b); err != nil || got != n {
			t.Errorf("ParseHeadNote(Encode(%+v)) = %+v, %v", n, got, err)
		}
	}
	for name, n := range map[string]HeadNote{
		"no address": {Pin: pin}, "pin too short": {Addr: "h", Pin: "ab"}, "odd address": {Addr: "a b"},
		"port of letters": {Addr: "h:x"}, "URL": {Addr: "http://h"}, "too long": {Addr: strings.Repeat("h", 201)}, "colons": {Addr: "a:b:c"},
	} {
		if b, err := n.Encode(); err == nil {
			t.Errorf("%s: Encode = %q, want an error", name, b)
		}
	}
}

func TestParseHeadNoteOfOthers(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":             {},
		"of PXE":              {6, 1, 8, 255},
		"cut in the length":   {subHead},
		"cut in the value":    {subHead, 9, 'h'},
		"a pin alone":         append([]byte{subPin, 64}, strings.Repeat("0", 64)...),
		"end before the head": {0, 255, subHead, 1, 'h'},
	} {
		if n, err := ParseHeadNote(b); err == nil {
			t.Errorf("%s: ParseHeadNote = %+v, want an error", name, n)
		}
	}
	// Padding, other sub-options, a zero byte at the end as some servers write it.
	b := append([]byte{0, 1, 2, 7, 7, subHead, 3, 'h', '1', 0}, 255)
	if n, err := ParseHeadNote(b); err != nil || n != (HeadNote{Addr: "h1"}) {
		t.Errorf("ParseHeadNote = %+v, %v, want h1", n, err)
	}
}

func FuzzParseHeadNote(f *testing.F) {
	b, err := HeadNote{Addr: "10.0.0.1:7421", Pin: strings.Repeat("0", 64)}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{6, 1, 8, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseHeadNote(b)
		if err != nil {
			return
		}
		again, err := n.Encode()
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", n, err)
		}
		if got, err := ParseHeadNote(again); err != nil || got != n {
			t.Fatalf("read %+v, then %+v, %v", n, got, err)
		}
	})
}
