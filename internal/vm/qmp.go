package vm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// qmpTime is how long QEMU may take for a command. It answers at once; with
// many machines on few processors it may have to wait for its turn.
const qmpTime = 30 * time.Second

// monitor speaks QMP with a machine.
type monitor struct {
	mu    sync.Mutex
	conn  net.Conn
	lines *bufio.Reader
	ready bool
}

// socketPair returns two connected stream sockets: ours, and QEMU's as a file.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket for %s: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("using a socket for %s: %w", name, err)
	}
	return conn, theirs, nil
}

func newMonitor(c net.Conn) *monitor { return &monitor{conn: c, lines: bufio.NewReader(c)} }

// command runs a command without arguments and waits for its answer.
func (m *monitor) command(name string) error { return m.commandWith(name, nil) }

// commandWith runs a command with arguments, nil for none, and waits for its answer.
func (m *monitor) commandWith(name string, args any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.conn.SetDeadline(time.Now().Add(qmpTime)); err != nil {
		return err
	}
	if !m.ready {
		// QMP begins with a greeting, and then takes one command only.
		if err := m.call("qmp_capabilities", nil); err != nil {
			return err
		}
		m.ready = true
	}
	return m.call(name, args)
}

func (m *monitor) call(name string, args any) error {
	request := map[string]any{"execute": name}
	if args != nil {
		request["arguments"] = args
	}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		return fmt.Errorf("telling QEMU to %s: %w", name, err)
	}
	for {
		line, err := m.lines.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("waiting for QEMU to %s: %w", name, err)
		}
		var answer struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			return fmt.Errorf("reading QEMU's answer to %s: %w", name, err)
		}
		switch {
		case answer.Error != nil:
			return fmt.Errorf("telling QEMU to %s: %s", name, answer.Error.Desc)
		case answer.Return != nil:
			return nil
		} // else the greeting or an event
	}
}
