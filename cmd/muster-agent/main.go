// Command muster-agent is what runs on a machine of a cluster: one program
// with several uses, chosen by the name that it is called by or by its first
// argument.
//
//	init      PID 1: boots the machine and keeps the agent running
//	modprobe  loads kernel modules; the kernel calls it as /sbin/modprobe
//	drivers   loads the drivers of devices that the initramfs has none for; started by the agent
//	agent     gets an address, joins the head, runs tasks
//	shim      holds one task; started by the agent
//
// Exit status: 0 done, 1 failed, 2 wrong use.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
)

func main() {
	os.Exit(run(os.Args, os.Getpid(), os.Stderr))
}

// errUsage says that the program was called in a way that it does not know;
// what is wrong was said already.
var errUsage = errors.New("wrong use")

// run is the program without its end.
func run(argv []string, pid int, stderr io.Writer) int {
	verb, args := use(argv, pid)
	var err error
	switch verb {
	case "init":
		err = initMain(pid)
	case "modprobe":
		err = modprobeMain(args, stderr)
	case "drivers":
		err = driversMain(os.Stdin)
	case "agent":
		err = agentMain(args, stderr)
	case "shim":
		err = shimMain(args)
	case "version":
		fmt.Fprintln(stderr, "muster-agent", version())
	default:
		fmt.Fprintf(stderr, "usage: muster-agent init | modprobe [-q] [-a] NAME [PARAMETER=VALUE...] | agent [flags] | shim DIR | version\n")
		return 2
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	}
	status := 1
	if errors.Is(err, errAgain) {
		status = exitAgain
	}
	if !errors.Is(err, errQuiet) {
		fmt.Fprintf(stderr, "muster-agent: error: %v\n", err)
	}
	return status
}

// use finds out what is asked for: the name that the program was called by
// decides where it is one of its uses (the initramfs has /init and a link
// /sbin/modprobe), else the first argument.
func use(argv []string, pid int) (verb string, args []string) {
	if pid == 1 {
		// What the kernel passes on from its command line is not for us.
		return "init", nil
	}
	if len(argv) == 0 {
		return "", nil
	}
	if name := filepath.Base(argv[0]); name == "modprobe" {
		return name, argv[1:]
	}
	if len(argv) < 2 {
		return "", nil
	}
	return argv[1], argv[2:]
}

// version is the module's version as the build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
