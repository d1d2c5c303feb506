package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestImageShare says from where nodes read an image's userland, and looks at what that says to people.
func TestImageShare(t *testing.T) {
	c := startCluster(t, "--dhcp=full")
	u, ok := readTestManifest(t, c.image).Userland()
	if !ok {
		t.Fatal("the image has no userland")
	}
	for _, step := range []struct {
		args   string
		status int
		want   string // of what it says
	}{
		{"image show compute-vm", 0, "share        none set; with: muster image set IMAGE --userland-share HOST:/FOLDER"},
		{"image set compute-vm", 2, "nothing is set; say --kexec=media, --kexec=always or --kexec=never, or --userland-share=FOLDER"},
		{"image set compute-vm --userland-share=", 2, "--userland-share is empty"},
		{"image set compute-vm --userland-share=nas1", 2, `"nas1" is no place for a userland`},
		{"image set nosuch --userland-share=10.77.0.9:/x", 1, "no image is called nosuch"},
		{"image set compute-vm --userland-share=10.77.0.9:/x --kexec=never", 0, "kexec never\ncompute-vm: nodes read its userland from 10.77.0.9:/x (auto)\nif the file is not there yet: cp "},
		{"image set compute-vm --kexec=media", 0, "kexec media\n"},
		{"image show compute-vm", 0, "share        10.77.0.9:/x\nfile         " + u.SHA256 + ".sqfs (copy: cp "},
		{"image show nosuch", 1, "no image is called nosuch"},
	} {
		r := c.muster("", strings.Fields(step.args)...)
		if text := r.stdout + r.stderr; r.status != step.status || !strings.Contains(text, step.want) {
			t.Errorf("muster %s: status %d, %s; want %d, %s", step.args, r.status, text, step.status, step.want)
		}
	}
	// What it says to copy is the file.
	r := c.muster("", "image", "show", "compute-vm")
	m := regexp.MustCompile(`copy: cp (\S+) (\S+)\)`).FindStringSubmatch(r.stdout)
	if m == nil {
		t.Fatalf("no command to copy in %s", r.stdout)
	}
	if st, err := os.Stat(m[1]); err != nil || st.Size() != u.Size || filepath.Base(m[1])+".sqfs" != m[2] {
		t.Errorf("%s has %v, %v; want %d bytes", m[1], st, err, u.Size)
	}
	if r := c.muster("", "image", "set", "compute-vm", "--userland-share=none"); r.stdout != "compute-vm: no share has its userland\n" {
		t.Errorf("%+v", r)
	}
}
