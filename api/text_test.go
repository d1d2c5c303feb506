package api

import "testing"

func FuzzEncodeText(f *testing.F) {
	for _, s := range []string{"", "plain", "ü", "\xff", "a\x80b", "\x00", "\x00/w=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 0 && s[0] == 0 {
			return // no argument is so
		}
		if got := DecodeText(EncodeText(s)); got != s {
			t.Errorf("%q comes back as %q", s, got)
		}
	})
}

func TestDecodeTextOfAStranger(t *testing.T) {
	for _, s := range []string{"\x00", "\x00!", "\x00YWJj"} { // the last is valid UTF-8, which is never coded
		if got := DecodeText(s); got != s {
			t.Errorf("%q is decoded to %q", s, got)
		}
	}
}
