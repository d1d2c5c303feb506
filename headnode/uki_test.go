package headnode

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"muster/api"
	"muster/images"
)

// TestUKIIsSigned: UEFI HTTP boot gets a UKI that is signed, and an image is published once more for
// another signature.
func TestUKIIsSigned(t *testing.T) {
	w := newWorld(t)
	im := newTestImages(t, w)
	_, content, m := build("compute", "1")
	publish := func(name, data, signer string) images.Manifest {
		t.Helper()
		sum := sha256.Sum256([]byte(data))
		with := m
		with.Artifacts = append(m.Artifacts[:len(m.Artifacts):len(m.Artifacts)], images.Artifact{
			Kind: images.KindUKI, Name: name, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), Signer: signer,
		})
		content[hex.EncodeToString(sum[:])] = []byte(data)
		putAll(t, im, content)
		text, err := json.Marshal(with)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := im.Publish(t.Context(), "root", text, nil); err != nil {
			t.Fatal(err)
		}
		got, ok := im.Default()
		if !ok {
			t.Fatal("there is no default image")
		}
		return got
	}
	signer := strings.Repeat("ab", 32)
	for _, c := range []struct{ data, signer, want string }{
		{"unsigned", "", ""},
		{"signed", signer, "signed"},
		{"signed anew", signer, "signed anew"},
	} {
		var d api.BootDecision
		bootFiles(&d, publish("compute.efi", c.data, c.signer))
		got := ""
		for _, l := range d.Loaders {
			if l.Client == "http" {
				got = string(content[l.SHA256])
				if l.Name != "compute.efi" || l.Arch != "amd64" {
					t.Errorf("the UKI is %+v", l)
				}
			}
		}
		if got != c.want {
			t.Errorf("with the UKI %q by %q HTTP boot gets %q, want %q", c.data, c.signer, got, c.want)
		}
	}
	again, err := openImages(im.dir, im.now, fakeUsers{}, im.log)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := again.Default()
	if u, found := got.File(images.KindUKI); !ok || !found || string(content[u.SHA256]) != "signed anew" {
		t.Errorf("after a restart the UKI is %+v", u)
	}
	// Other bytes of a kernel under one ID are never taken.
	_, more, other := build("compute", "2")
	putAll(t, im, more)
	other.ID = m.ID
	text, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.Publish(t.Context(), "root", text, nil); err != nil {
		t.Fatal(err)
	}
	now, _ := im.Default()
	if now.Artifacts[0].SHA256 != m.Artifacts[0].SHA256 {
		t.Error("the kernel of a published image was replaced")
	}
}
