package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// backgroundLook is how often a program in the background looks whether it is in the foreground again.
const backgroundLook = 200 * time.Millisecond

// inForeground reads a terminal only while this program is in its foreground. Whoever reads it in the background
// is stopped by the kernel, and muster run would be for input that its command may never ask for. What
// is no terminal is returned as it is.
func inForeground(in io.Reader) io.Reader {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return in
	}
	// With the signal ignored such a read is an error.
	signal.Ignore(syscall.SIGTTIN)
	return foregroundReader{f}
}

type foregroundReader struct{ terminal *os.File }

// Read implements io.Reader.
func (r foregroundReader) Read(b []byte) (int, error) {
	for {
		n, err := r.terminal.Read(b)
		if !errors.Is(err, syscall.EIO) || inFront(int(r.terminal.Fd())) {
			return n, err
		}
		for !inFront(int(r.terminal.Fd())) {
			time.Sleep(backgroundLook)
		}
	}
}

// inFront tells whether this program is in the foreground of its terminal, or the terminal is gone.
func inFront(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}
