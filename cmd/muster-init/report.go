package main

import (
	"strconv"
	"strings"
	"syscall"
)

// The exit codes of a program that could not be started, as shells have them.
const (
	exitNoStart  = 126 // it is there and cannot be run
	exitNotFound = 127
)

// report says on the shim's pipe what happened: "started PID" (in the
// namespace), "exit CODE", "signal N". A shim that is gone is not an error: the
// task ends with it anyway.
func report(what string, n int) {
	write(what + " " + strconv.Itoa(n) + "\n")
}

// fail reports "error CODE TEXT" and ends.
func fail(code int, text string) {
	write("error " + strconv.Itoa(code) + " " + strings.ReplaceAll(text, "\n", " ") + "\n")
	syscall.Exit(code)
}

func write(line string) {
	b := []byte(line)
	for len(b) > 0 {
		n, err := syscall.Write(fdReport, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return
		}
		b = b[n:]
	}
}
