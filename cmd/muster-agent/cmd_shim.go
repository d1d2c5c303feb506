package main

import (
	"errors"
	"strings"

	"muster/nodeagent/task"
)

// shimMain holds one task. Only the agent starts it, with descriptors that
// nobody else passes.
func shimMain(args []string) error {
	if len(args) != 1 {
		return errors.New("shim takes the folder of one task, or that of all tasks and a slash to wait for one; it is started by the agent")
	}
	if strings.HasSuffix(args[0], "/") {
		return task.WaitingShim()
	}
	return task.Shim(args[0])
}
