package main

import (
	"errors"

	"muster/nodeagent/task"
)

// shimMain holds one task. Only the agent starts it, with descriptors that
// nobody else passes.
func shimMain(args []string) error {
	if len(args) != 1 {
		return errors.New("shim takes the folder of one task; it is started by the agent")
	}
	return task.Shim(args[0])
}
