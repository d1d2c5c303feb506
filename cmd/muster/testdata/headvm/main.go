// Command headvm is the system of a virtual machine that is a head, and runs there what a test asks for.
//
//	headvm                as PID 1: mount the disks, start NFS servers, take commands
//	headvm exec ADDR JSON on the outside: run a command in there, with this program's input and output
//
// It starts what Debian's services would start, in their order, and nothing of muster.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if os.Getpid() == 1 {
		init1()
	}
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "headvm:", err)
		status = 125
	}
	os.Exit(status)
}

func run(args []string) (int, error) {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return 1, serve(context.Background())
	case len(args) == 3 && args[0] == "exec":
		var q request
		if err := json.Unmarshal([]byte(args[2]), &q); err != nil {
			return 0, err
		}
		c, err := net.Dial("tcp", args[1])
		if err != nil {
			return 0, err
		}
		defer c.Close()
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
		return ask(c, q, os.Stdin, os.Stdout, os.Stderr, signals)
	}
	return 0, errors.New("usage: headvm exec ADDR JSON")
}

// init1 is PID 1: it has another process do everything, and buries the dead.
func init1() {
	console := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	child, err := os.StartProcess("/sbin/headvm", []string{"headvm", "serve"}, &os.ProcAttr{Files: console, Env: os.Environ()})
	for err == nil {
		var pid int
		pid, err = syscall.Wait4(-1, nil, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			err = nil
		}
		if pid == child.Pid {
			break
		}
	}
	fmt.Println("guest: error: the system ended:", err)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
