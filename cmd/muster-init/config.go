package main

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
)

// config is what the shim orders.
//
// It comes over a descriptor as fields that end in a zero byte each, since names
// and arguments may have any other: first configMagic, then settings as NAME=VALUE,
// an empty field, the number of arguments, the arguments and the environment. The
// settings share, share-ro and file are followed by one field more.
type config struct {
	host   string
	root   string // folder that becomes the task's root; "": the node's
	work   string // private folder, which keeps its path
	dir    string // working directory; "": work
	uid    int
	gid    int
	groups []int
	umask  int
	limits []limit
	tmpfs  []string
	shares []share
	files  []file
	// window is the size of the task's terminal, rows and columns, where it has one; its
	// master's end goes to fdConsole.
	tty    bool
	window [2]uint16
	stdout string // file for the output; "": descriptor 1
	stderr string // file for errors; "": descriptor 2
	// containers leaves it the calls that make namespaces and mounts, and /dev/fuse.
	containers bool
	tasks      int // of its job
	argv       []string
	env        []string
}

// limit is a resource limit.
type limit struct {
	what       int
	soft, hard uint64
}

// share is a folder of the node that the task sees at another path.
type share struct {
	from, to string
	readOnly bool
}

// file is a file of the node that lies over one of the task's root.
type file struct{ from, to string }

// configMagic begins the orders, with the version of their format.
const configMagic = "muster-init 5"

var errCut = errors.New("reading orders: they are cut off")

// readConfig reads the orders to their end.
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
		return config{}, errCut
	}
	f := strings.Split(string(b[:len(b)-1]), "\x00")
	if f[0] != configMagic {
		return config{}, errors.New("reading orders: shim and init are of different versions")
	}
	f = f[1:]
	c := config{umask: 0o022}
	for {
		if len(f) == 0 {
			return config{}, errCut
		}
		setting := f[0]
		f = f[1:]
		if setting == "" {
			break
		}
		name, value, _ := strings.Cut(setting, "=")
		to := ""
		if name == "share" || name == "share-ro" || name == "file" {
			if len(f) == 0 {
				return config{}, errCut
			}
			to, f = f[0], f[1:]
		}
		if err := c.set(name, value, to); err != nil {
			return config{}, errors.New("reading orders: " + name + ": " + err.Error())
		}
	}
	if len(f) == 0 {
		return config{}, errCut
	}
	n, err := strconv.Atoi(f[0])
	if err != nil || n < 1 || n > len(f)-1 {
		return config{}, errors.New("reading orders: " + f[0] + " arguments are said, others follow")
	}
	c.argv, c.env = f[1:1+n], f[1+n:]
	return c, nil
}

// set takes one setting.
func (c *config) set(name, value, to string) (err error) {
	switch name {
	case "host":
		c.host = value
	case "root":
		c.root = value
	case "work":
		c.work = value
	case "dir":
		c.dir = value
	case "uid":
		c.uid, err = number(value)
	case "gid":
		c.gid, err = number(value)
	case "group":
		var n int
		n, err = number(value)
		c.groups = append(c.groups, n)
	case "umask":
		c.umask, err = number(value)
	case "limit":
		var l limit
		l, err = parseLimit(value)
		c.limits = append(c.limits, l)
	case "tmpfs":
		c.tmpfs = append(c.tmpfs, value)
	case "share", "share-ro":
		c.shares = append(c.shares, share{value, to, name == "share-ro"})
	case "file":
		c.files = append(c.files, file{value, to})
	case "tty":
		c.tty = true
		c.window, err = parseWindow(value)
	case "stdout":
		c.stdout = value
	case "stderr":
		c.stderr = value
	case "tasks":
		c.tasks, err = number(value)
	case "containers":
		c.containers = true
	default:
		return errors.New("this is not known; shim and init are of different versions")
	}
	return err
}

// parseLimit reads RESOURCE:SOFT:HARD.
func parseLimit(s string) (limit, error) {
	f := strings.Split(s, ":")
	if len(f) != 3 {
		return limit{}, errors.New(s + " is not RESOURCE:SOFT:HARD")
	}
	what, err := number(f[0])
	if err != nil {
		return limit{}, err
	}
	l := limit{what: what}
	for i, to := range []*uint64{&l.soft, &l.hard} {
		if *to, err = strconv.ParseUint(f[i+1], 10, 64); err != nil {
			return limit{}, errors.New(f[i+1] + " is not a number")
		}
	}
	return l, nil
}

// parseWindow reads ROWSxCOLUMNS.
func parseWindow(s string) (w [2]uint16, err error) {
	rows, columns, _ := strings.Cut(s, "x")
	for i, f := range []string{rows, columns} {
		n, err := strconv.ParseUint(f, 10, 16)
		if err != nil {
			return w, errors.New(s + " is not ROWSxCOLUMNS")
		}
		w[i] = uint16(n)
	}
	return w, nil
}

func number(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, errors.New(s + " is not a number")
	}
	return int(n), nil
}
