package task

import "testing"

func TestProgramPart(t *testing.T) {
	for line, want := range map[string]struct {
		start, size uintptr
		ok          bool
	}{
		"00400000-007f3000 r-xp 00000000 fe:00 1234                               /init":                {0x400000, 0x3f3000, true},
		"007f3000-00c0d000 r--p 003f3000 fe:00 1234                               /a name with words\n": {0x7f3000, 0x41a000, true},
		"00c0d000-00c6a000 rw-p 0080d000 fe:00 1234                               /init":                {},
		"00c6a000-02cad000 rw-p 00000000 00:00 0 ":                                                      {},
		"7f6787c3e000-7f6787c3f000 r--p 00000000 00:00 0 ":                                              {},
		"7f6787c3e000-7f6787c3f000 r--s 00000000 00:01 99                         /memfd:output":        {},
		"7f6787e57000-7f6787e59000 r-xp 00000000 00:00 0                          [vdso]":               {},
		"2-1 r-xp 00000000 fe:00 1234 /init":                                                            {},
		"x-y r-xp 00000000 fe:00 1234 /init":                                                            {},
		"":                                                                                              {},
	} {
		start, size, ok := programPart(line)
		if start != want.start || size != want.size || ok != want.ok {
			t.Errorf("programPart(%q) = %#x, %#x, %v, want %+v", line, start, size, ok, want)
		}
	}
}
