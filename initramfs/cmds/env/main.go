// Command env prints the environment or runs a command with a changed one.
//
// Synopsis:
//
//	env [-i] [-u NAME]… [NAME=VALUE]… [COMMAND [ARG]…]
//
// Exit status: that of the command; 126 or 127 if it cannot be run or found;
// 125 for wrong options.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

func main() {
	env, command, err := parse(os.Environ(), os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "env: %v\n", err)
		os.Exit(125)
	}
	if len(command) == 0 {
		print(os.Stdout, env)
		return
	}
	status, err := run(env, command)
	fmt.Fprintf(os.Stderr, "env: %v\n", err)
	os.Exit(status)
}

// parse returns the environment that args make of env, and the command.
func parse(env, args []string) (newEnv, command []string, err error) {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "-i" || arg == "-" || arg == "--ignore-environment":
			env = nil
		case arg == "--":
			return assign(env, args)
		case arg == "-u":
			if len(args) == 0 {
				return nil, nil, errors.New("-u needs the name of a variable")
			}
			env = unset(env, args[0])
			args = args[1:]
		case strings.HasPrefix(arg, "-u"):
			env = unset(env, arg[2:])
		case strings.HasPrefix(arg, "--unset="):
			env = unset(env, strings.TrimPrefix(arg, "--unset="))
		default:
			return nil, nil, fmt.Errorf("unknown option %s; usage: env [-i] [-u NAME] [NAME=VALUE] [COMMAND [ARG]]", arg)
		}
	}
	return assign(env, args)
}

// assign takes the leading NAME=VALUE from args.
func assign(env, args []string) (newEnv, command []string, err error) {
	for len(args) > 0 && strings.Contains(args[0], "=") {
		name, _, _ := strings.Cut(args[0], "=")
		env = append(unset(env, name), args[0])
		args = args[1:]
	}
	return env, args, nil
}

func unset(env []string, name string) []string {
	var kept []string
	for _, v := range env {
		if !strings.HasPrefix(v, name+"=") {
			kept = append(kept, v)
		}
	}
	return kept
}

func print(w io.Writer, env []string) {
	for _, v := range env {
		fmt.Fprintln(w, v)
	}
}

// run replaces the process by the command, which is looked up with the new PATH.
// It returns only when that is not possible.
func run(env, command []string) (status int, err error) {
	for _, v := range env {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			os.Setenv("PATH", path)
		}
	}
	file, err := exec.LookPath(command[0])
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return 127, err
	}
	if err != nil {
		return 126, err
	}
	err = syscall.Exec(file, command, env)
	return 126, fmt.Errorf("running %s: %w", file, err)
}
