package shares

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nfsClient speaks as much of NFS 4.1 (RFC 8881) as looking a file up and reading it takes.
type nfsClient struct {
	conn    net.Conn
	session []byte
	seq     uint32
	uid     uint32 // who asks, in no group
}

// Operations and results (RFC 8881 16.1, 15.1).
const (
	opGetattr, opLookup, opPutRootFH, opRead                        = 9, 15, 24, 25
	opExchangeID, opCreateSession, opSequence, opReclaimComplete    = 42, 43, 53, 58
	nfsOK, nfsNoEnt, nfsAccess, nfsRoFS, nfsStale, nfsDelay, nfsGra = 0, 2, 13, 30, 70, 10008, 10013
)

type nfsError uint32

func (e nfsError) Error() string { return fmt.Sprintf("NFS error %d", uint32(e)) }

type xdr []byte

func (x xdr) u32(v ...uint32) xdr {
	for _, n := range v {
		x = binary.BigEndian.AppendUint32(x, n)
	}
	return x
}

func (x xdr) raw(b []byte) xdr { return append(x, b...) }

func (x xdr) opaque(b []byte) xdr {
	x = append(x.u32(uint32(len(b))), b...)
	for len(x)%4 != 0 {
		x = append(x, 0)
	}
	return x
}

// dialNFS connects from an address, and from a privileged port unless plain.
func dialNFS(from string, port int, plain bool) (*nfsClient, error) {
	var conn net.Conn
	var err error
	for range 50 {
		local := &net.TCPAddr{IP: net.ParseIP(from)}
		if !plain {
			local.Port = 600 + rand.IntN(400)
		}
		d := net.Dialer{LocalAddr: local, Timeout: 5 * time.Second}
		conn, err = d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := &nfsClient{conn: conn}
	owner := fmt.Appendf(nil, "muster test %s %d", from, rand.Uint64())
	r, err := c.compound(xdr{}.u32(opExchangeID).raw(make([]byte, 8)).opaque(owner).u32(0, 0, 0))
	if err != nil {
		return nil, fmt.Errorf("EXCHANGE_ID: %w", err)
	}
	id, seq := r[8:16], binary.BigEndian.Uint32(r[16:])
	channel := func(x xdr) xdr { return x.u32(0, 65536, 65536, 4096, 8, 1, 0) }
	r, err = c.compound(channel(channel(xdr{}.u32(opCreateSession).raw(id).u32(seq, 0))).u32(0x40000000, 1, 0))
	if err != nil {
		return nil, fmt.Errorf("CREATE_SESSION: %w", err)
	}
	c.session = r[8:24]
	if _, err := c.ops(xdr{}.u32(opReclaimComplete, 0), 1); err != nil {
		return nil, fmt.Errorf("RECLAIM_COMPLETE: %w", err)
	}
	return c, nil
}

// ops calls operations in the session and returns what comes after the answer to SEQUENCE.
func (c *nfsClient) ops(x xdr, n uint32) ([]byte, error) {
	c.seq++
	all := xdr{}.u32(opSequence).raw(c.session).u32(c.seq, 0, 0, 0).raw(x)
	r, err := c.call(all, n+1)
	if err != nil {
		return nil, err
	}
	return r[8+36:], nil
}

// compound calls one operation outside a session.
func (c *nfsClient) compound(op xdr) ([]byte, error) { return c.call(op, 1) }

func (c *nfsClient) call(ops xdr, n uint32) ([]byte, error) {
	cred := xdr{}.u32(0).opaque([]byte("test")).u32(c.uid, c.uid, 0)
	x := xdr{}.u32(rand.Uint32(), 0, 2, 100003, 4, 1, 1).opaque(cred).u32(0, 0, 0, 1, n).raw(ops)
	if _, err := c.conn.Write(xdr{}.u32(1<<31 | uint32(len(x))).raw(x)); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(c.conn, head[:]); err != nil {
		return nil, err
	}
	r := make([]byte, binary.BigEndian.Uint32(head[:])&^(1<<31))
	if _, err := io.ReadFull(c.conn, r); err != nil {
		return nil, err
	}
	if len(r) >= 12 && binary.BigEndian.Uint32(r[8:]) == 1 { // MSG_DENIED (RFC 5531 9): so the kernel's server greets strangers
		return nil, nfsError(nfsAccess)
	}
	if len(r) < 36 {
		return nil, fmt.Errorf("a short answer: %x", r)
	}
	if accepted := binary.BigEndian.Uint32(r[8:]); accepted != 0 || binary.BigEndian.Uint32(r[20:]) != 0 {
		return nil, fmt.Errorf("the call was denied: %x", r[8:])
	}
	if status := binary.BigEndian.Uint32(r[24:]); status != nfsOK {
		return nil, nfsError(status)
	}
	return r[36:], nil // after status, empty tag and count
}

// read reads a file of an export; a server in its grace time or that is late is asked again.
func (c *nfsClient) read(export, name string) (string, error) {
	names := append(strings.Split(strings.Trim(export, "/"), "/"), name)
	x := xdr{}.u32(opPutRootFH)
	for _, n := range names {
		x = x.u32(opLookup).opaque([]byte(n))
	}
	x = x.u32(opRead).raw(make([]byte, 16)).u32(0, 0, 4096)
	for {
		r, err := c.ops(x, uint32(len(names))+2)
		var status nfsError
		if errors.As(err, &status) && (status == nfsDelay || status == nfsGra) {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if err != nil {
			return "", err
		}
		r = r[8*(len(names)+1)+8+4:] // operations without values, and that of reading up to its data
		return string(r[4 : 4+binary.BigEndian.Uint32(r)]), nil
	}
}

// readNFS connects and reads a file.
func readNFS(t *testing.T, from string, port int, export, name string) (string, error) {
	t.Helper()
	c, err := dialNFS(from, port, false)
	if err != nil {
		return "", err
	}
	defer c.conn.Close()
	return c.read(export, name)
}
