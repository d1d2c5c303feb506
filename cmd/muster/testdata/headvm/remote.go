package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// request is what runs in the machine: a command, or a connection to a socket. It is a line of JSON; frames follow in both directions.
type request struct {
	Socket   string   `json:",omitempty"` // the connection goes on as one to this socket
	UID, GID uint32   // of the command
	Groups   []uint32 `json:",omitempty"`
	Dir      string
	Env      []string
	Args     []string
}

// Kinds of frames: a byte, the length, and so many bytes.
const (
	frameInput  = 'i' // of the command; an empty one is its end
	frameSignal = 's' // a byte
	frameOut    = 'o'
	frameErr    = 'e'
	frameEnd    = 'x' // its status, a byte; the last
)

const maxFrame = 64 << 10

func readFrame(r *bufio.Reader) (kind byte, data []byte, err error) {
	if kind, err = r.ReadByte(); err != nil {
		return 0, nil, err
	}
	var n uint32
	if err := binary.Read(r, binary.BigEndian, &n); err != nil {
		return 0, nil, err
	}
	if n > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	data = make([]byte, n)
	_, err = io.ReadFull(r, data)
	return kind, data, err
}

// frames writes frames; it may be used by several goroutines.
type frames struct {
	mu sync.Mutex
	to io.Writer
}

func (f *frames) write(kind byte, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.to.Write(append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(data))), data...))
	return err
}

// stream writes what it is given as frames of a kind.
type stream struct {
	*frames
	kind byte
}

func (s stream) Write(b []byte) (int, error) {
	for n := 0; n < len(b); n += maxFrame {
		if err := s.write(s.kind, b[n:min(len(b), n+maxFrame)]); err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// ask has a command run and returns how it ended.
func ask(c net.Conn, q request, in io.Reader, out, errOut io.Writer, signals <-chan os.Signal) (int, error) {
	if err := json.NewEncoder(c).Encode(q); err != nil {
		return 0, err
	}
	f := &frames{to: c}
	go func() {
		_, err := io.Copy(stream{f, frameInput}, in)
		if err == nil {
			_ = f.write(frameInput, nil) // who reads below sees that it is gone
		}
	}()
	go func() {
		for s := range signals {
			if n, ok := s.(syscall.Signal); ok {
				_ = f.write(frameSignal, []byte{byte(n)})
			}
		}
	}()
	r := bufio.NewReader(c)
	for {
		kind, data, err := readFrame(r)
		if err != nil {
			return 0, fmt.Errorf("the machine is gone: %w", err)
		}
		switch kind {
		case frameOut:
			_, err = out.Write(data)
		case frameErr:
			_, err = errOut.Write(data)
		case frameEnd:
			return int(data[0]), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// take does what a connection asks for, in the machine.
func take(ctx context.Context, c net.Conn) error {
	r := bufio.NewReader(c)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return err
	}
	var q request
	if err := json.Unmarshal(line, &q); err != nil {
		return err
	}
	if q.Socket != "" {
		return relay(c, r, q.Socket)
	}
	f := &frames{to: c}
	cmd := exec.CommandContext(ctx, q.Args[0], q.Args[1:]...)
	cmd.Dir, cmd.Env = q.Dir, q.Env
	cmd.Stdout, cmd.Stderr = stream{f, frameOut}, stream{f, frameErr}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: q.UID, Gid: q.GID, Groups: q.Groups}}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		_ = f.write(frameErr, []byte(err.Error()+"\n"))
		return f.write(frameEnd, []byte{127})
	}
	go func() {
		for {
			kind, data, err := readFrame(r)
			switch {
			case err != nil: // who asked is gone
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				return
			case kind == frameSignal:
				_ = cmd.Process.Signal(syscall.Signal(data[0]))
			case len(data) == 0:
				in.Close()
			default:
				_, _ = in.Write(data) // a command need not read it
			}
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	status := cmd.ProcessState.ExitCode()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		status = 128 + int(ws.Signal())
	}
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	return f.write(frameEnd, []byte{byte(status)})
}

// relay joins a connection with a socket of the machine.
func relay(c net.Conn, r io.Reader, socket string) error {
	to, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer to.Close()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(to, r)
		if u, ok := to.(*net.UnixConn); ok {
			_ = u.CloseWrite() // the other direction says how it went
		}
		done <- err
	}()
	_, err = io.Copy(c, to)
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.CloseWrite() // likewise
	}
	return errors.Join(err, <-done)
}
