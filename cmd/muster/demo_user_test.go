package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSudoCaller(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want uint32 // 0: none
	}{
		"nobody":        {nil, 0},
		"a user":        {map[string]string{"SUDO_UID": "4000001", "SUDO_GID": "4000002", "SUDO_USER": "alice"}, 4000001},
		"root":          {map[string]string{"SUDO_UID": "0", "SUDO_GID": "0", "SUDO_USER": "root"}, 0},
		"no number":     {map[string]string{"SUDO_UID": "x", "SUDO_GID": "1"}, 0},
		"without group": {map[string]string{"SUDO_UID": "5"}, 0},
	} {
		u := sudoCaller(func(key string) string { return c.env[key] })
		switch {
		case u == nil && c.want != 0, u != nil && u.UID != c.want:
			t.Errorf("%s: %+v, want uid %d", name, u, c.want)
		case u != nil && (u.GID != 4000002 || u.Name != "alice" || len(u.Groups) != 1):
			t.Errorf("%s: %+v", name, u)
		}
	}
}

func TestMayPass(t *testing.T) {
	dir := t.TempDir()
	for p := dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	closed := filepath.Join(dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	stranger := &demoUser{UID: 4000001, GID: 4000001, Groups: []uint32{4000001}}
	for path, want := range map[string]bool{filepath.Join(dir, "x"): true, closed: true, filepath.Join(closed, "x"): false, filepath.Join(dir, "gone", "x"): false} {
		if got := stranger.mayPass(path); got != want {
			t.Errorf("mayPass(%s) = %v, want %v", path, got, want)
		}
	}
	self := &demoUser{UID: uint32(os.Getuid()), Groups: []uint32{uint32(os.Getgid())}}
	if !self.mayPass(filepath.Join(closed, "x")) {
		t.Error("the owner of a folder may not pass through it")
	}
}
