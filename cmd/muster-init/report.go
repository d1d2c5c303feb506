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
// namespace), "stopped SIGNAL", "continued 0", "exit CODE", "signal N". It returns false when the shim is gone.
func report(what string, n int) bool {
	return write(what + " " + strconv.Itoa(n) + "\n")
}

// fail reports "error CODE TEXT" and ends.
func fail(code int, text string) {
	write("error " + strconv.Itoa(code) + " " + oneLine(text) + "\n")
	syscall.Exit(code)
}

// oneLine is text without line ends and what else is no text: names may be any bytes.
func oneLine(text string) string {
	quoted := strconv.Quote(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func write(line string) bool {
	b := []byte(line)
	for len(b) > 0 {
		n, err := syscall.Write(fdReport, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}
