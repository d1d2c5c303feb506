package userland

import (
	"strings"
	"testing"

	"muster/api"
)

func TestPlace(t *testing.T) {
	const mib = 1 << 20
	src := &api.UserlandSource{Server: "10.0.0.9", Export: "/x", File: "f"}
	none, asked, given := offer{}, offer{told: true}, offer{told: true, source: src}
	big := api.Userland{Size: 200 * mib, MemoryMiB: 448, In: api.UserlandAuto, VerityRoot: "r"}
	with := func(in api.UserlandIn) api.Userland { u := big; u.In = in; return u }
	old := big
	old.VerityRoot = ""
	// MemTotal of machines with 256, 512, 800 and 1024 MiB.
	const m256, m512, m800, m1024 = 200, 464, 728, 944
	for name, tc := range map[string]struct {
		want  api.Userland
		total int64
		offer offer
		in    api.UserlandIn
		why   string // part of it
	}{
		"auto, a quarter is enough":          {big, m800, none, api.UserlandMemory, ""},
		"auto, more than a quarter, share":   {big, m512, given, api.UserlandShare, ""},
		"auto, more than a quarter, asks":    {big, m512, none, "", ""},
		"auto, more than a quarter, none":    {big, m512, asked, api.UserlandMemory, ""},
		"auto, too small, share":             {big, m256, given, api.UserlandShare, ""},
		"auto, too small, asks":              {big, m256, none, "", ""},
		"auto, too small, none":              {big, m256, asked, "", "needs a machine with 448 MiB, this one has 256 MiB, or a read-only share that has it; on the head: muster image set"},
		"auto, memory not known":             {big, 0, given, api.UserlandMemory, ""},
		"auto, no tree, too small":           {old, m256, given, "", "needs a machine with 448 MiB"},
		"auto, no tree":                      {old, m512, given, api.UserlandMemory, ""},
		"share, large":                       {with(api.UserlandShare), m1024, given, api.UserlandShare, ""},
		"share, asks":                        {with(api.UserlandShare), m1024, none, "", ""},
		"share, none":                        {with(api.UserlandShare), m1024, asked, "", "its image wants it on a read-only share, and there is none; on the head: muster image set"},
		"share, no tree":                     {api.Userland{In: api.UserlandShare}, m1024, given, "", "has no hash tree"},
		"memory, though a share is there":    {with(api.UserlandMemory), m512, given, api.UserlandMemory, ""},
		"memory, too small":                  {with(api.UserlandMemory), m256, given, "", "or an image with userland: auto"},
		"an image of before, small":          {api.Userland{Size: 200 * mib, MemoryMiB: 448}, m512, given, api.UserlandMemory, ""},
		"an image of before, much too small": {api.Userland{Size: 200 * mib, MemoryMiB: 448}, m256, given, "", "needs a machine with 448 MiB"},
	} {
		in, why := place(tc.want, tc.total, tc.offer)
		if in != tc.in || (tc.why == "") != (why == "") || !strings.Contains(why, tc.why) {
			t.Errorf("%s: %q, %q; want %q, %q", name, in, why, tc.in, tc.why)
		}
	}
}
