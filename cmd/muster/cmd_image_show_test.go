package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"muster/api"
)

func TestWriteImage(t *testing.T) {
	image := func(change func(*api.Image)) api.Image {
		i := api.Image{
			ID: "i", Name: "big", Default: true, Arch: "amd64", Kernel: "6.12", Bytes: 500e6, Kexec: api.KexecMedia, Published: time.Unix(0, 0),
			Userland: &api.ImageUserland{SHA256: "1111222233334444", Bytes: 400e6, In: api.UserlandAuto, MemoryMiB: 640, Share: "nas1:/x", File: "F", Blob: "/b/F"},
		}
		change(&i)
		return i
	}
	nodes := []api.Node{
		{Name: "n1", Admin: api.AdminReady, Software: api.Software{ImageID: "i", UserlandIn: api.UserlandShare, UserlandFrom: "nas1:/x"}},
		{Name: "n2", Admin: api.AdminReady, Software: api.Software{ImageID: "i", UserlandIn: api.UserlandMemory, UserlandBytes: 400e6}},
		{Name: "n3", Admin: api.AdminReady, Stage: "userland 40 %", Software: api.Software{ImageID: "i", UserlandWanted: "1"}},
		{Name: "n4", Admin: api.AdminReady, Software: api.Software{ImageID: "other"}},
		{MAC: "pending", Software: api.Software{ImageID: "i"}},
	}
	for name, c := range map[string]struct {
		image api.Image
		nodes []api.Node
		want  string // from the userland on
	}{
		"auto": {image(func(*api.Image) {}), nodes, `
userland     111122223333, 400.0 MB, in memory of nodes from 640 MiB, read from a share where it is more than a quarter of that
share        nas1:/x
file         F (copy: cp /b/F F)
node n1      read from nas1:/x, takes no memory for good
node n2      in memory, 400.0 MB
node n3      userland 40 %
`},
		"no share is set": {image(func(i *api.Image) {
			i.Userland.In, i.Userland.Share, i.Assigned = api.UserlandShare, "", []string{"n7"}
		}), nil, `
userland     111122223333, 400.0 MB, read from a share
share        none set; with: muster image set IMAGE --userland-share HOST:/FOLDER
assigned     n7
`},
		"memory": {image(func(i *api.Image) { i.Userland.In, i.Userland.Share = api.UserlandMemory, "" }), nil, `
userland     111122223333, 400.0 MB, in memory, of nodes from 640 MiB
`},
		"an image of before": {image(func(i *api.Image) { i.Userland.In, i.Userland.File = api.UserlandMemory, "" }), nil, `
userland     111122223333, 400.0 MB, in memory, of nodes from 640 MiB
share        nas1:/x
file         it cannot be read from a share; build the image again
`},
		"no userland": {image(func(i *api.Image) { i.Userland = nil }), nil, "\nuserland     none\n"},
	} {
		var b strings.Builder
		if err := writeImage(&b, c.image, c.nodes); err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(b.String(), "kexec        media")
		if diff := cmp.Diff(c.want, rest); diff != "" || !strings.HasPrefix(b.String(), "name         big, the default\n") {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWriteImageSet(t *testing.T) {
	image := api.Image{ID: "1234567890abcdef", Name: "big", Kexec: api.KexecNever, Userland: &api.ImageUserland{In: api.UserlandAuto, Share: "nas1:/x", File: "F", Blob: "/b/F"}}
	share := "nas1:/x"
	for want, s := range map[string]api.ImageSettings{
		"big (1234567890ab): kexec never\n": {Kexec: api.KexecNever},
		"big: nodes read its userland from nas1:/x (auto)\nif the file is not there yet: cp /b/F FOLDER/F\n": {UserlandShare: &share},
	} {
		var b strings.Builder
		if err := writeImageSet(&b, image, s); err != nil || b.String() != want {
			t.Errorf("%q, %v; want %q", b.String(), err, want)
		}
	}
	image.Userland.Share = ""
	var b strings.Builder
	if err := writeImageSet(&b, image, api.ImageSettings{UserlandShare: &share}); err != nil || b.String() != "big: no share has its userland\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}
