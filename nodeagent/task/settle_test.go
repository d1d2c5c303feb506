package task

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProgramParts(t *testing.T) {
	const static = `00400000-007f3000 r-xp 00000000 fe:00 1234                               /init
007f3000-00c0d000 r--p 003f3000 fe:00 1234                               /init
00c0d000-00c6a000 rw-p 0080d000 fe:00 1234                               /init
00c6a000-02cad000 rw-p 00000000 00:00 0 
7f6787c3e000-7f6787c3f000 r--s 00000000 00:01 99                         /memfd:output
7f6787e57000-7f6787e59000 r-xp 00000000 00:00 0                          [vdso]
`
	for name, tc := range map[string]struct {
		maps string
		want []part
	}{
		"static":        {static, []part{{0x400000, 0x3f3000}, {0x7f3000, 0x41a000}}},
		"with a loader": {static + "7f0000000000-7f0000001000 r--p 00000000 fe:00 99 /lib/ld.so\n", nil},
		"no addresses":  {"x-y r-xp 00000000 fe:00 1234 /init\n", nil},
		"backwards":     {"2-1 r-xp 00000000 fe:00 1234 /init\n", nil},
		"nothing":       {"", nil},
	} {
		if diff := cmp.Diff(tc.want, programParts(tc.maps), cmp.AllowUnexported(part{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
