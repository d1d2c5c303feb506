package main

import (
	"bytes"
	"fmt"
	"io"

	"muster/api"
)

// prefixer begins every line with the task that wrote it. A line is held
// back until it is whole, or maxLine long.
type prefixer struct {
	out, err io.Writer
	width    int
	names    []string // of the tasks; nil: their numbers
	partial  map[lineKey][]byte
}

type lineKey struct {
	task   int
	stream api.Stream
}

const maxLine = 64 << 10

func newPrefixer(out, err io.Writer, tasks int) *prefixer {
	return &prefixer{out: out, err: err, width: len(fmt.Sprint(tasks - 1)), partial: map[lineKey][]byte{}}
}

func (p *prefixer) write(task int, stream api.Stream, data []byte) error {
	key := lineKey{task, stream}
	buf := append(p.partial[key], data...)
	for {
		i := bytes.IndexByte(buf, '\n')
		if i < 0 && len(buf) < maxLine {
			break
		}
		if i < 0 {
			i = len(buf) - 1
		}
		if err := p.line(key, buf[:i+1]); err != nil {
			return err
		}
		buf = buf[i+1:]
	}
	p.partial[key] = bytes.Clone(buf)
	return nil
}

func (p *prefixer) line(key lineKey, line []byte) error {
	w := p.out
	if key.stream == api.Stderr {
		w = p.err
	}
	if key.task < len(p.names) {
		_, err := fmt.Fprintf(w, "%s: %s", p.names[key.task], line)
		return err
	}
	_, err := fmt.Fprintf(w, "%*d: %s", p.width, key.task, line)
	return err
}

// flush writes what is left of lines without an end.
func (p *prefixer) flush() {
	for key, rest := range p.partial {
		if len(rest) > 0 {
			_ = p.line(key, append(rest, '\n'))
		}
	}
}
