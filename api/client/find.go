package client

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"muster/api"
)

// SystemSocket is where a head that runs as a service listens.
const SystemSocket = "/run/muster/head.sock"

// systemState is the state folder of a head that runs as root.
const systemState = "/var/lib/muster"

// DefaultState is the state folder of a head of this user.
func DefaultState() (string, error) {
	if os.Geteuid() == 0 {
		return systemState, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "muster"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("looking for a state folder: %w; name one with --state", err)
	}
	return filepath.Join(home, ".local", "state", "muster"), nil
}

// Find returns the address of the head for [New]: addr where it is not empty
// (the flag --head), else MUSTER_HEAD, else the socket of the system's head,
// else that of this user's own head. Its error says where it looked.
func Find(addr string) (string, error) {
	if addr != "" {
		return addr, nil
	}
	if env := os.Getenv("MUSTER_HEAD"); env != "" {
		return env, nil
	}
	places := []string{SystemSocket}
	if dir, err := DefaultState(); err == nil {
		places = append(places, filepath.Join(dir, "run", "head.sock"))
	}
	for _, p := range places {
		if st, err := os.Stat(p); err == nil && st.Mode()&os.ModeSocket != 0 {
			return p, nil
		}
	}
	return "", &api.Error{
		Code: api.CodeUnreachable, Msg: "no head runs here: there is no " + strings.Join(places, " and no "),
		Hint: "start one with: muster head; or name one with --head or MUSTER_HEAD",
	}
}
