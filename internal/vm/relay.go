package vm

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxFrame is the largest frame between QEMU and a tap; without offloading
// it is an Ethernet frame.
const maxFrame = 64 << 10

// relay carries frames between a machine and a port, through a filter.
type relay struct {
	machine net.Conn // QEMU's stream of frames, each after its length in 4 bytes
	port    *os.File // tap
	filter  func([]byte) []byte
	close   sync.Once
}

// connect says how a network card is connected; give hands a file to QEMU.
func (n NIC) connect(give func(*os.File) int) (link, *relay, error) {
	if n.Port == nil {
		return link{}, nil, nil
	}
	fd, err := n.Port.duplicate()
	if err != nil {
		return link{}, nil, err
	}
	if n.Filter == nil {
		return link{fd: give(os.NewFile(uintptr(fd), n.Port.Name))}, nil, nil
	}
	// Nonblocking, so that closing it ends the relay's read.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return link{}, nil, os.NewSyscallError("fcntl", err)
	}
	tap := os.NewFile(uintptr(fd), n.Port.Name)
	ours, theirs, err := socketPair(n.Port.Name)
	if err != nil {
		tap.Close()
		return link{}, nil, err
	}
	return link{fd: give(theirs), stream: true}, &relay{machine: ours, port: tap, filter: n.Filter}, nil
}

// Close ends the relay.
func (r *relay) Close() error {
	r.close.Do(func() {
		_ = r.machine.Close()
		_ = r.port.Close()
	})
	return nil
}

// run carries frames both ways until one side is closed.
func (r *relay) run() {
	var running sync.WaitGroup
	running.Go(func() { defer r.Close(); r.fromMachine() })
	running.Go(func() { defer r.Close(); r.toMachine() })
	running.Wait()
}

func (r *relay) fromMachine() {
	for {
		var head [4]byte
		if _, err := io.ReadFull(r.machine, head[:]); err != nil {
			return
		}
		size := binary.BigEndian.Uint32(head[:])
		if size > maxFrame {
			return
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(r.machine, frame); err != nil {
			return
		}
		if frame = r.filter(frame); frame == nil {
			continue
		}
		// A frame that the port refuses is lost, as on any cable.
		_, _ = r.port.Write(frame)
	}
}

func (r *relay) toMachine() {
	buf := make([]byte, 4+maxFrame)
	for {
		n, err := r.port.Read(buf[4:])
		if err != nil {
			return
		}
		binary.BigEndian.PutUint32(buf, uint32(n))
		if _, err := r.machine.Write(buf[:4+n]); err != nil {
			return
		}
	}
}
