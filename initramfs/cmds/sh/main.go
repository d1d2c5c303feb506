// Command sh runs shell scripts: POSIX shell with most of bash, by mvdan.cc/sh.
//
// Synopsis:
//
//	sh [-aefnux] [-o OPTION] [-l] [FILE [ARG]…]
//	sh [-aefnux] [-o OPTION] [-l] -c COMMAND [NAME [ARG]…]
//
// Without FILE and -c it reads commands from the standard input, with a prompt
// on a terminal. There is no job control. Exit status: that of the script; 2 if it
// cannot be parsed; 127 if it cannot be read.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

func main() {
	o, err := parseArgs(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "sh: %v\n", err)
		os.Exit(2)
	}
	os.Exit(run(o, os.Stdin, os.Stdout, os.Stderr))
}

// options is what the arguments say.
type options struct {
	set      []string // for set: -e, -o pipefail
	command  string
	isScript bool   // command was given by -c
	file     string // script; empty: none
	name     string // $0
	args     []string
}

func parseArgs(args []string) (options, error) {
	o := options{name: "sh"}
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			break
		}
		if strings.HasPrefix(arg, "--") { // --login, --norc, --posix
			continue
		}
		for _, c := range arg[1:] {
			switch c {
			case 'c':
				o.isScript = true
			case 'l', 'i', 's': // a login shell is no different here
			case 'o':
				if len(args) == 0 {
					return o, errors.New("-o needs the name of an option")
				}
				o.set = append(o.set, arg[:1]+"o", args[0])
				args = args[1:]
			default:
				o.set = append(o.set, arg[:1]+string(c))
			}
		}
	}
	if o.isScript {
		if len(args) == 0 {
			return o, errors.New("-c needs a command")
		}
		o.command, args = args[0], args[1:]
	}
	if len(args) > 0 {
		o.name, args = args[0], args[1:]
		if !o.isScript {
			o.file = o.name
		}
	}
	o.args = args
	return o, nil
}

// run returns the exit status.
func run(o options, stdin io.Reader, stdout, stderr io.Writer) int {
	params := append(append(o.set[:len(o.set):len(o.set)], "--"), o.args...)
	r, err := interp.New(interp.StdIO(stdin, stdout, stderr), interp.Params(params...))
	if err != nil {
		fmt.Fprintf(stderr, "sh: %v\n", err)
		return 2
	}
	switch {
	case o.isScript:
		return script(r, strings.NewReader(o.command), o.name, stderr)
	case o.file != "":
		f, err := os.Open(o.file)
		if err != nil {
			fmt.Fprintf(stderr, "sh: %v\n", err)
			return 127
		}
		defer f.Close()
		return script(r, f, o.file, stderr)
	}
	if f, ok := stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return interactive(r, f, stdout, stderr)
	}
	return lines(r, stdin, o.name, stderr)
}

// script runs a whole text.
func script(r *interp.Runner, text io.Reader, name string, stderr io.Writer) int {
	prog, err := syntax.NewParser().Parse(text, name)
	if err != nil {
		fmt.Fprintf(stderr, "sh: %v\n", err)
		return 2
	}
	return status(r.Run(context.Background(), prog), stderr)
}

// lines runs the standard input statement by statement, since a statement may
// read what follows it.
func lines(r *interp.Runner, text io.Reader, name string, stderr io.Writer) int {
	last := 0
	err := syntax.NewParser().Stmts(oneByte{text}, func(s *syntax.Stmt) bool {
		last = status(r.Run(context.Background(), s), stderr)
		return !r.Exited()
	})
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 2
	}
	return last
}

// oneByte reads single bytes, so that nothing is taken that belongs to a command.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// interactive reads lines with a prompt until the end of input or exit.
func interactive(r *interp.Runner, tty *os.File, stdout, stderr io.Writer) int {
	// The interrupt key ends the command that runs, not the shell.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)

	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{tty, stdout}, "")
	last, text := 0, ""
	for !r.Exited() {
		line, err := readLine(t, tty, prompt(text))
		if err != nil {
			return last
		}
		text += line + "\n"
		prog, err := syntax.NewParser().Parse(strings.NewReader(text), "sh")
		if syntax.IsIncomplete(err) {
			continue
		}
		text = ""
		if err != nil {
			fmt.Fprintf(stderr, "sh: %v\n", err)
			last = 2
			continue
		}
		for _, s := range prog.Stmts {
			if last = status(r.Run(context.Background(), s), stderr); r.Exited() {
				break
			}
		}
	}
	return last
}

// prompt is for the first line of a command, or for a later one.
func prompt(sofar string) string {
	switch {
	case sofar != "":
		return "> "
	case os.Getuid() == 0:
		return "# "
	}
	return "$ "
}

// readLine edits one line; the terminal is raw only meanwhile.
func readLine(t *term.Terminal, tty *os.File, prompt string) (string, error) {
	old, err := term.MakeRaw(int(tty.Fd()))
	if err != nil {
		return "", err
	}
	defer term.Restore(int(tty.Fd()), old)
	if w, h, err := term.GetSize(int(tty.Fd())); err == nil && w > 0 {
		t.SetSize(w, h)
	}
	t.SetPrompt(prompt)
	return t.ReadLine()
}

// status is the exit status that err of a run stands for.
func status(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if s, ok := interp.IsExitStatus(err); ok {
		return int(s)
	}
	fmt.Fprintf(stderr, "sh: %v\n", err)
	return 1
}
