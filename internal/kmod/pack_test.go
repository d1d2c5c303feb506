package kmod_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"muster/internal/kmod"
)

func TestPack(t *testing.T) {
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	want := &kmod.Pack{SHA256: a, Size: 100, Pieces: map[string]kmod.Piece{
		"kernel/z.ko.xz":        {Offset: 0, Size: 10, SHA256: b},
		"kernel/with a name.ko": {Offset: 20, Size: 80, SHA256: c},
	}}
	text := want.Encode()
	if got := "100 " + a + "\n0 10 " + b + " kernel/z.ko.xz\n20 80 " + c + " kernel/with a name.ko\n"; string(text) != got {
		t.Errorf("it is written as\n%s", text)
	}
	got, err := kmod.ParsePack(text)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for name, bad := range map[string]string{
		"nothing":  "",
		"no hash":  "100\n",
		"size":     "x " + a + "\n",
		"fields":   "100 " + a + "\n1 2 " + b + "\n",
		"outside":  "100 " + a + "\n21 80 " + b + " x.ko\n",
		"overflow": "100 " + a + "\n9223372036854775807 9223372036854775807 " + b + " x.ko\n",
		"negative": "100 " + a + "\n-1 80 " + b + " x.ko\n",
		"up":       "100 " + a + "\n1 80 " + b + " ../x.ko\n",
		"absolute": "100 " + a + "\n1 80 " + b + " /x.ko\n",
		"hash":     "100 " + a + "\n1 80 " + b[1:] + " x.ko\n",
	} {
		if p, err := kmod.ParsePack([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func FuzzParsePack(f *testing.F) {
	f.Add([]byte("100 " + strings.Repeat("a", 64) + "\n0 10 " + strings.Repeat("b", 64) + " kernel/z.ko.xz\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := kmod.ParsePack(text)
		if err != nil {
			return
		}
		again, err := kmod.ParsePack(p.Encode())
		if diff := cmp.Diff(p, again); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}
