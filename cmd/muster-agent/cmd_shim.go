package main

import (
	"errors"

	"muster/nodeagent/task"
)

// shimMain holds one task. Only the agent starts it, with descriptors that
// nobody else passes.
func shimMain(args []string) error {
	switch len(args) {
	case 0:
		return task.WaitingShim()
	case 1:
		return task.Shim(args[0])
	}
	return errors.New("shim takes the folder of one task; it is started by the agent")
}
