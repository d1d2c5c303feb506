package deb

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCopyright(t *testing.T) {
	const head = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: x\n\n"
	for name, c := range map[string]struct {
		text string
		want []License
		ok   bool
	}{
		"prose":    {"This package was debianized by somebody.\n\nLicense: GPL-2\n", nil, false},
		"no text":  {"", nil, false},
		"two":      {head + "Files: *\nLicense: GPL-2+\n\nFiles: a\nLicense:  MIT  or BSD\n", []License{{"GPL-2+", ""}, {"MIT or BSD", ""}}, true},
		"one text": {head + "Files: *\nLicense: X\n\nLicense: X\n Do as\n .\n  you like.\nComment: no\n", []License{{"X", "Do as\n\n you like."}}, true},
		"windows":  {"Format: http://dep.debian.net/deps/dep5\r\n\r\nLicense: MIT\r\n text\r\n", []License{{"MIT", "text"}}, true},
		"none":     {head + "Files: *\nCopyright: me\n", nil, false},
	} {
		got, ok := ParseCopyright(c.text)
		if diff := cmp.Diff(c.want, got); diff != "" || ok != c.ok {
			t.Errorf("%s: ParseCopyright() = %v, differs (-want +got):\n%s", name, ok, diff)
		}
	}
}

func FuzzParseCopyright(f *testing.F) {
	f.Add("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nLicense: GPL-2\n text\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := ParseCopyright(text)
		if ok != (len(got) > 0) {
			t.Errorf("ParseCopyright() = %v, %v", got, ok)
		}
		for _, l := range got {
			if l.Name == "" {
				t.Error("a license has no name")
			}
		}
	})
}
