package main

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
)

// config is what the shim orders. On the wire it is a sequence of strings,
// each ended by a zero byte: "muster-init 2", host, root, folder, uid, gid, groups
// (blanks between), folders for private tmpfs (colons between), number of
// arguments, the arguments, the environment.
// nodeagent/task/initconfig.go writes it.
type config struct {
	host   string
	root   string // folder that becomes the task's root; "": the node's
	dir    string
	uid    int
	gid    int
	groups []int
	tmpfs  []string
	argv   []string
	env    []string
}

const configMagic = "muster-init 2"

func readConfig(fd int) (config, error) {
	var b []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := syscall.Read(fd, buf)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return config{}, errors.New("reading orders: " + err.Error())
		}
		if n == 0 {
			return parseConfig(b)
		}
		b = append(b, buf[:n]...)
	}
}

func parseConfig(b []byte) (config, error) {
	if len(b) == 0 || b[len(b)-1] != 0 {
		return config{}, errors.New("reading orders: they are cut off")
	}
	f := strings.Split(string(b[:len(b)-1]), "\x00")
	if len(f) < 10 || f[0] != configMagic {
		return config{}, errors.New("reading orders: shim and init are of different versions")
	}
	c := config{host: f[1], root: f[2], dir: f[3]}
	f = f[1:] // what follows is counted from the folder
	var err error
	if c.uid, err = number(f[3], nil); err == nil {
		c.gid, err = number(f[4], nil)
	}
	for _, g := range strings.Fields(f[5]) {
		var n int
		n, err = number(g, err)
		c.groups = append(c.groups, n)
	}
	if f[6] != "" {
		c.tmpfs = strings.Split(f[6], ":")
	}
	n, err := number(f[7], err)
	if err != nil {
		return config{}, err
	}
	if n < 1 || n > len(f)-8 {
		return config{}, errors.New("reading orders: " + f[7] + " arguments are said, others follow")
	}
	c.argv, c.env = f[8:8+n], f[8+n:]
	return c, nil
}

// number reads a 31 bit number, unless something was wrong before.
func number(s string, before error) (int, error) {
	if before != nil {
		return 0, before
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, errors.New("reading orders: " + s + " is not a number")
	}
	return int(n), nil
}
