package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/sys/unix"

	"muster/api"
)

// patience is how long a server may take.
const patience = 10 * time.Second

// low connects from a port below 1024, or from any where that is not permitted.
func low(_ context.Context, network, address string) (net.Conn, error) {
	for port := 1023; port > 600; port-- {
		d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{Port: port}}
		c, err := d.Dial(network, address)
		if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) {
			continue
		}
		if errors.Is(err, unix.EACCES) {
			break
		}
		return c, err
	}
	return net.DialTimeout(network, address, patience)
}

type lowDialer struct{}

func (lowDialer) Dial(network, address string) (net.Conn, error) {
	return low(context.Background(), network, address)
}

// join tells the head at an address that this is the machine with a hardware address.
func join(args []string) (string, error) {
	a, err := want(args, 2)
	if err != nil {
		return "", err
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	key, err := pair.PublicKey()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	nc, err := nats.Connect("tls://"+a[0], nats.Secure(&tls.Config{InsecureSkipVerify: true}), nats.Nkey(key, pair.Sign),
		nats.CustomInboxPrefix(strings.TrimSuffix(api.InboxPrefix, ".")+"."+key), nats.SetCustomDialer(lowDialer{}), nats.Timeout(patience), nats.NoReconnect())
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	defer nc.Close()
	req, err := json.Marshal(api.JoinRequest{
		BootID: "attempt", IP: "10.77.0.99", Hardware: api.Hardware{MACs: []string{a[1]}, Cores: 1, MemoryMiB: 1024},
		Software: api.Software{Agent: "attempt", Kernel: "attempt", Protocol: api.Protocol},
	})
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	m, err := nc.Request(api.SubjectJoin+key, req, patience)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	var reply api.JoinReply
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return "", fmt.Errorf("%w: %w: %s", errBroken, err, m.Data)
	}
	if reply.State != api.JoinApproved {
		return "", fmt.Errorf("%s: %s", reply.State, reply.Message)
	}
	return "let in as " + reply.Name, nil
}

// ask sends a request to an HTTP server: METHOD URL [TOKEN].
func ask(args []string) (string, error) {
	if len(args) == 2 {
		args = append(args, "")
	}
	return request(http.DefaultTransport.(*http.Transport).Clone(), args)
}

// askUnix does so over a Unix socket: SOCKET METHOD PATH.
func askUnix(args []string) (string, error) {
	a, err := want(args, 3)
	if err != nil {
		return "", err
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: patience}).DialContext(ctx, "unix", a[0])
	}}
	return request(tr, []string{a[1], "http://head" + a[2], ""})
}

func request(tr *http.Transport, args []string) (string, error) {
	a, err := want(args, 3)
	if err != nil {
		return "", err
	}
	tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	req, err := http.NewRequest(a[0], a[1], nil)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	if a[2] != "" {
		req.Header.Set("Authorization", "Bearer "+a[2])
	}
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return "", errors.New(resp.Status)
	}
	return resp.Status, nil
}

// Numbers of RFC 5531 and RFC 7530.
const (
	programNFS  = 100003
	opLookup    = 15
	opPutRootFH = 24
	opRead      = 25
)

// nfs reads a file of an export by speaking NFS 4.0 itself, as the user that it says it is:
// HOST:PORT UID EXPORT FILE.
func nfs(args []string) (string, error) {
	a, err := want(args, 4)
	if err != nil {
		return "", err
	}
	uid, err := strconv.ParseUint(a[1], 10, 32)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	c, err := low(context.Background(), "tcp", a[0])
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", fmt.Errorf("%w: %w", errBroken, err)
	}
	var b bytes.Buffer
	words := func(w ...uint32) {
		for _, v := range w {
			b.Write(binary.BigEndian.AppendUint32(nil, v))
		}
	}
	opaque := func(s string) {
		words(uint32(len(s)))
		b.WriteString(s + "\x00\x00\x00"[:(4-len(s)%4)%4])
	}
	words(1, 0, 2, programNFS, 4, 1)    // xid, call, RPC 2, NFS, version 4, COMPOUND
	words(1, 20, 0, 0, uint32(uid), 0)  // AUTH_SYS: stamp, no name, uid, gid
	words(0, 0, 0)                      // no more groups; no verifier
	words(0, 0, 4)                      // no tag, minor version 0, operations
	words(opPutRootFH, opLookup)        //
	opaque(a[2])                        //
	words(opLookup)                     //
	opaque(a[3])                        //
	words(opRead, 0, 0, 0, 0, 0, 0, 64) // without having opened it; from 0
	if err := binary.Write(c, binary.BigEndian, uint32(b.Len())|1<<31); err != nil {
		return "", err
	}
	if _, err := c.Write(b.Bytes()); err != nil {
		return "", err
	}
	var size uint32
	if err := binary.Read(c, binary.BigEndian, &size); err != nil {
		return "", err
	}
	answer := make([]byte, size&^(1<<31)&0xffff)
	if _, err := io.ReadFull(c, answer); err != nil {
		return "", err
	}
	word := func(i int) uint32 {
		if len(answer) < 4*i+4 {
			return ^uint32(0)
		}
		return binary.BigEndian.Uint32(answer[4*i:])
	}
	// xid, reply, accepted?, verifier (flavor, length), accept state, status of the compound
	if word(2) != 0 {
		return "", fmt.Errorf("the server denies the call: reason %d", word(4))
	}
	if word(5) != 0 || word(6) != 0 {
		return "", fmt.Errorf("the server refuses: %d, NFS error %d", word(5), word(6))
	}
	n := int(word(len(answer)/4 - 1)) // the content is the last
	return fmt.Sprintf("content: %q (%d)", bytes.TrimRight(answer[max(0, len(answer)-16):], "\x00"), n), nil
}
