package task

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// outputPipe is the size of the pipes that output comes through: fewer
// switches between program and shim than with the kernel's 64 KiB.
const outputPipe = 256 << 10

// pipes are what connects a shim and its program.
type pipes struct {
	stdin  *os.File // nil: there is no input
	stdout *os.File
	stderr *os.File
	report *os.File
	// theirs are the other ends: input, output, error, report.
	theirs []*os.File
}

func openPipes(input bool) (p *pipes, err error) {
	p = &pipes{}
	defer func() {
		if err != nil {
			p.close()
			err = fmt.Errorf("making pipes for the task: %w", err)
		}
	}()
	if input {
		r, w, err := os.Pipe()
		if err != nil {
			return p, err
		}
		p.stdin, p.theirs = w, append(p.theirs, r)
	} else {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return p, err
		}
		p.theirs = append(p.theirs, null)
	}
	for _, ours := range []**os.File{&p.stdout, &p.stderr, &p.report} {
		r, w, err := os.Pipe()
		if err != nil {
			return p, err
		}
		if ours != &p.report {
			unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, outputPipe) // a wish
		}
		*ours, p.theirs = r, append(p.theirs, w)
	}
	return p, nil
}

func (p *pipes) closeTheirs() {
	for _, f := range p.theirs {
		f.Close()
	}
	p.theirs = nil
}

func (p *pipes) close() {
	p.closeTheirs()
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr, p.report} {
		if f != nil {
			f.Close()
		}
	}
}
