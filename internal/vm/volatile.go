package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

// VolatileDisk is a disk with a write cache that a power cut empties: what was
// written is there at once, but durable only when the machine has flushed the
// cache, or wrote it past the cache. QEMU attaches it by the NBD protocol,
// see [VolatileDisk.Drive].
type VolatileDisk struct {
	listener net.Listener
	served   sync.WaitGroup

	mu      sync.Mutex
	durable []byte
	cache   map[int64][]byte // of blocks that are not durable, by number
	flushes int
	past    int // writes that went past the cache
}

// diskBlock is what a disk writes as a whole or not at all.
const diskBlock = 4096

// NewVolatileDisk makes a disk of the raw image in a file, which stays as it
// is, and serves it at the Unix socket path. The caller closes it.
func NewVolatileDisk(image, socket string) (*VolatileDisk, error) {
	data, err := os.ReadFile(image)
	if err != nil {
		return nil, fmt.Errorf("making a disk: %w", err)
	}
	if len(data)%diskBlock != 0 {
		return nil, fmt.Errorf("making a disk of %s: %d bytes are no multiple of %d", image, len(data), diskBlock)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("making a disk: %w", err)
	}
	d := &VolatileDisk{listener: l, durable: data, cache: map[int64][]byte{}}
	d.served.Go(d.accept)
	return d, nil
}

// Close ends the service. The machine must have ended.
func (d *VolatileDisk) Close() error {
	err := d.listener.Close()
	d.served.Wait()
	return err
}

// Drive is the value of QEMU's option -drive for the disk, with the given id.
func (d *VolatileDisk) Drive(id string) string {
	return fmt.Sprintf("if=none,id=%s,format=raw,cache=writeback,file.driver=nbd,file.server.type=unix,file.server.path=%s",
		id, escape(d.listener.Addr().String()))
}

// CutPower empties the cache. A real disk has written some of it already, in
// an order of its own: survives chooses the blocks that are durable although they
// were not flushed; nil stands for none. It returns how many blocks were
// lost. The machine must have ended.
func (d *VolatileDisk) CutPower(survives func() bool) (lost int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n, data := range d.cache {
		if survives != nil && survives() {
			copy(d.durable[n*diskBlock:], data)
		} else {
			lost++
		}
	}
	clear(d.cache)
	return lost
}

// Counts is how often the machine has flushed the cache, and written past it.
func (d *VolatileDisk) Counts() (flushes, past int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flushes, d.past
}

func (d *VolatileDisk) flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n, data := range d.cache {
		copy(d.durable[n*diskBlock:], data)
	}
	clear(d.cache)
	d.flushes++
}

// read fills b with what is at off, and tells whether that is on the disk.
func (d *VolatileDisk) read(b []byte, off int64) bool {
	return d.each(b, off, func(n int64, part []byte, at int) {
		if data, ok := d.cache[n]; ok {
			copy(part, data[at:])
		} else {
			copy(part, d.durable[n*diskBlock+int64(at):])
		}
	})
}

// write puts b into the cache, and past it on request.
func (d *VolatileDisk) write(b []byte, off int64, durable bool) bool {
	if durable {
		d.mu.Lock()
		d.past++
		d.mu.Unlock()
	}
	return d.each(b, off, func(n int64, part []byte, at int) {
		data, ok := d.cache[n]
		if !ok {
			data = append([]byte(nil), d.durable[n*diskBlock:(n+1)*diskBlock]...)
			d.cache[n] = data
		}
		copy(data[at:], part)
		if durable {
			copy(d.durable[n*diskBlock:], data)
			delete(d.cache, n)
		}
	})
}

// each calls f for the part of b in each block. d.mu is held meanwhile.
func (d *VolatileDisk) each(b []byte, off int64, f func(block int64, part []byte, at int)) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || off > int64(len(d.durable)) || int64(len(b)) > int64(len(d.durable))-off {
		return false
	}
	for len(b) > 0 {
		at := int(off % diskBlock)
		n := min(len(b), diskBlock-at)
		f(off/diskBlock, b[:n], at)
		b, off = b[n:], off+int64(n)
	}
	return true
}

// accept serves one connection after the other: a disk is in one machine.
func (d *VolatileDisk) accept() {
	for {
		c, err := d.listener.Accept()
		if err != nil {
			return
		}
		_ = d.serve(c) // ends with the machine, in whatever way
		c.Close()
	}
}

// The NBD protocol, github.com/NetworkBlockDevice/nbd, doc/proto.md: fixed
// newstyle negotiation, then simple replies.
const (
	nbdMagic       = 0x4e42444d41474943 // NBDMAGIC
	nbdOption      = 0x49484156454f5054 // IHAVEOPT
	nbdOptionReply = 0x3e889045565a9
	nbdRequest     = 0x25609513
	nbdReply       = 0x67446698

	nbdFixedNewstyle = 1
	nbdNoZeroes      = 2

	nbdOptAbort = 2
	nbdOptGo    = 7

	nbdRepAck         = 1
	nbdRepInfo        = 3
	nbdRepUnsupported = 1<<31 | 1

	nbdHasFlags  = 1
	nbdSendFlush = 1 << 2
	nbdSendFUA   = 1 << 3

	nbdCmdRead  = 0
	nbdCmdWrite = 1
	nbdCmdDisc  = 2
	nbdCmdFlush = 3
	nbdFlagFUA  = 1

	nbdErrInvalid = 22

	// nbdMostData bounds what a request may carry; QEMU sends at most this.
	nbdMostData = 32 << 20
)

var errNBD = errors.New("not the NBD protocol")

func (d *VolatileDisk) serve(c net.Conn) error {
	if err := d.negotiate(c); err != nil {
		return err
	}
	var h struct {
		Magic          uint32
		Flags, Command uint16
		Cookie, Offset uint64
		Length         uint32
	}
	for {
		if err := binary.Read(c, binary.BigEndian, &h); err != nil {
			return err
		}
		if h.Magic != nbdRequest || h.Length > nbdMostData {
			return errNBD
		}
		ok := true
		var data []byte
		switch h.Command {
		case nbdCmdRead:
			data = make([]byte, h.Length)
			ok = d.read(data, int64(h.Offset))
		case nbdCmdWrite:
			in := make([]byte, h.Length)
			if _, err := io.ReadFull(c, in); err != nil {
				return err
			}
			ok = d.write(in, int64(h.Offset), h.Flags&nbdFlagFUA != 0)
		case nbdCmdFlush:
			d.flush()
		case nbdCmdDisc:
			return nil
		default:
			ok = false
		}
		reply := binary.BigEndian.AppendUint32(nil, nbdReply)
		if ok {
			reply = binary.BigEndian.AppendUint32(reply, 0)
		} else {
			reply, data = binary.BigEndian.AppendUint32(reply, nbdErrInvalid), nil
		}
		reply = append(binary.BigEndian.AppendUint64(reply, h.Cookie), data...)
		if _, err := c.Write(reply); err != nil {
			return err
		}
	}
}

// negotiate agrees with a client, which must ask for what [nbdOptGo] gives.
func (d *VolatileDisk) negotiate(c net.Conn) error {
	hello := binary.BigEndian.AppendUint64(nil, nbdMagic)
	hello = binary.BigEndian.AppendUint64(hello, nbdOption)
	hello = binary.BigEndian.AppendUint16(hello, nbdFixedNewstyle|nbdNoZeroes)
	if _, err := c.Write(hello); err != nil {
		return err
	}
	var flags uint32
	if err := binary.Read(c, binary.BigEndian, &flags); err != nil {
		return err
	}
	for {
		var o struct {
			Magic          uint64
			Option, Length uint32
		}
		if err := binary.Read(c, binary.BigEndian, &o); err != nil {
			return err
		}
		if o.Magic != nbdOption || o.Length > 64<<10 {
			return errNBD
		}
		if _, err := io.CopyN(io.Discard, c, int64(o.Length)); err != nil {
			return err
		}
		reply := func(kind uint32, data []byte) []byte {
			b := binary.BigEndian.AppendUint64(nil, nbdOptionReply)
			b = binary.BigEndian.AppendUint32(b, o.Option)
			b = binary.BigEndian.AppendUint32(b, kind)
			return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
		}
		var answer []byte
		switch o.Option {
		case nbdOptGo:
			info := binary.BigEndian.AppendUint16(nil, 0) // NBD_INFO_EXPORT
			info = binary.BigEndian.AppendUint64(info, uint64(len(d.durable)))
			info = binary.BigEndian.AppendUint16(info, nbdHasFlags|nbdSendFlush|nbdSendFUA)
			answer = append(reply(nbdRepInfo, info), reply(nbdRepAck, nil)...)
		case nbdOptAbort:
			answer = reply(nbdRepAck, nil)
		default:
			answer = reply(nbdRepUnsupported, nil)
		}
		if _, err := c.Write(answer); err != nil {
			return err
		}
		switch o.Option {
		case nbdOptGo:
			return nil
		case nbdOptAbort:
			return io.EOF
		}
	}
}
