// Command testtable shows a run of go test as people know it, and ends it with
// a table of what ran.
//
//	go run ./internal/testtable go test -json ./...
//	go test -json ./... | go run ./internal/testtable
//
// It prints failed tests and the lines of packages as they come, then the
// lines of all packages once more, then the table with the reason of
// every skip. With MUSTER_NEED=all a skip is a failure, but for tests that
// belong to another make target and say so ("only in make test-net").
//
// Exit status: 0 all passed, 1 something failed or did not end, 2 wrong use.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"muster/internal/need"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, need.All()))
}

// run reads events from the command's output, or from stdin without one, and
// returns the exit status.
func run(command []string, stdin io.Reader, stdout, stderr io.Writer, needAll bool) int {
	in, wait := stdin, func() error { return nil }
	if len(command) > 0 {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stderr = stderr
		pipe, err := cmd.StdoutPipe()
		if err == nil {
			// An interrupt goes to the whole foreground group: go test ends
			// by it, and the table still shows how far it came.
			signal.Ignore(syscall.SIGINT)
			err = cmd.Start()
		}
		if err != nil {
			fmt.Fprintln(stderr, "testtable: error: starting go test:", err)
			return 2
		}
		in, wait = pipe, cmd.Wait
	}
	s := newSummary()
	err := s.read(in, stdout)
	waitErr := wait()
	if err != nil {
		fmt.Fprintln(stderr, "testtable: error: reading the events of go test:", err)
		return 1
	}
	s.finish(stdout, needAll)
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		fmt.Fprintln(stderr, "testtable: error:", waitErr)
	}
	if waitErr != nil || !s.passed(needAll) {
		return 1
	}
	return 0
}

// read takes all events and prints what is to be seen while they come.
func (s *summary) read(in io.Reader, out io.Writer) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if _, err := io.WriteString(out, s.line(line)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
