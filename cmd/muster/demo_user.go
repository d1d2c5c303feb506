package main

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// demoUser is who submits the jobs of a demo that runs as root.
type demoUser struct {
	Name     string
	Home     string
	UID, GID uint32
	Groups   []uint32 // all of them
}

// sudoCaller is the user who called sudo, nil when nobody did. getenv is the environment.
func sudoCaller(getenv func(string) string) *demoUser {
	uid, err1 := strconv.ParseUint(getenv("SUDO_UID"), 10, 32)
	gid, err2 := strconv.ParseUint(getenv("SUDO_GID"), 10, 32)
	if errors.Join(err1, err2) != nil || uid == 0 {
		return nil
	}
	u := &demoUser{Name: getenv("SUDO_USER"), Home: "/", UID: uint32(uid), GID: uint32(gid), Groups: []uint32{uint32(gid)}}
	account, err := user.LookupId(getenv("SUDO_UID"))
	if err != nil {
		return u // of a directory service, perhaps: it goes without its other groups
	}
	u.Name, u.Home = account.Username, account.HomeDir
	groups, _ := account.GroupIds()
	for _, g := range groups {
		if id, err := strconv.ParseUint(g, 10, 32); err == nil && !slices.Contains(u.Groups, uint32(id)) {
			u.Groups = append(u.Groups, uint32(id))
		}
	}
	return u
}

// credential is what a process of the user runs with.
func (u *demoUser) credential() *syscall.Credential {
	return &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
}

// mayPass tells whether the user may pass through every folder above a path.
func (u *demoUser) mayPass(path string) bool {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil {
			return false
		}
		need := uint32(0o001)
		switch {
		case st.Uid == u.UID:
			need = 0o100
		case slices.Contains(u.Groups, st.Gid):
			need = 0o010
		}
		if st.Mode&need == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// submitter is who submits the jobs of a demo that runs as root: who called sudo, where that user reaches the
// demo's folder and this program; else nil. A demo that does not run as root submits as whom it runs.
func submitter(o demoOptions, self string) *demoUser {
	u := sudoCaller(os.Getenv)
	if u == nil || !u.mayPass(filepath.Join(o.Dir, "bin")) || !u.mayPass(self) {
		return nil
	}
	return u
}
