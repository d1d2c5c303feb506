package task

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"muster/api"
)

// largePipe is the size of the pipes of a program: fewer switches between it and its shim than
// with the kernel's 64 KiB.
const largePipe = 256 << 10

// pipes are what connects a shim and its program.
type pipes struct {
	stdin  io.WriteCloser // nil: there is no input
	stdout *os.File
	stderr *os.File // nil: it comes with the output
	report *os.File
	// signals takes those for the program, a byte each.
	signals *os.File
	// console is where the master's end of a terminal comes from, which then is stdin and
	// stdout. Nil: there is none.
	console *os.File
	// theirs are the other ends: input, output, error, report, signals, console.
	theirs []*os.File
}

// openPipes makes pipes for a task, or, for its terminal, what is needed to get that from init.
func openPipes(t api.TaskStart) (p *pipes, err error) {
	p = &pipes{}
	defer func() {
		if err != nil {
			p.close()
			err = fmt.Errorf("making pipes for the task: %w", err)
		}
	}()
	if t.Terminal != nil {
		return p, p.openConsole()
	}
	if t.Stdin {
		r, w, err := os.Pipe()
		if err != nil {
			return p, err
		}
		unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, largePipe) // a wish
		p.stdin, p.theirs = w, append(p.theirs, r)
	} else {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return p, err
		}
		p.theirs = append(p.theirs, null)
	}
	for _, ours := range []**os.File{&p.stdout, &p.stderr} {
		if ours == &p.stderr && t.OneOutput {
			p.theirs = append(p.theirs, p.theirs[1])
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return p, err
		}
		unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, largePipe) // a wish
		*ours, p.theirs = r, append(p.theirs, w)
	}
	return p, p.openControl()
}

// openControl makes the pipes on which init says what becomes of the program, and is told signals.
func (p *pipes) openControl() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	p.report, p.theirs = r, append(p.theirs, w)
	if r, w, err = os.Pipe(); err != nil {
		return err
	}
	p.signals, p.theirs = w, append(p.theirs, r)
	return nil
}

func (p *pipes) closeTheirs() {
	for _, f := range p.theirs {
		f.Close()
	}
	p.theirs = nil
}

func (p *pipes) close() {
	p.closeTheirs()
	if p.stdin != nil {
		p.stdin.Close()
	}
	for _, f := range []*os.File{p.stdout, p.stderr, p.report, p.signals, p.console} {
		if f != nil {
			f.Close()
		}
	}
}
