//go:build !run

package main

import (
	"github.com/spf13/cobra"
)

// commands returns the verbs.
func commands() []*cobra.Command {
	at := &headFlag{}
	users := []*cobra.Command{
		newStatusCommand(at), newRunCommand(at), newJobCommand(at), newExecCommand(at), newNodeCommand(at), newEnrollCommand(at),
		newImageCommand(at), newShareCommand(at), newBootCommand(at), newConfigCommand(at),
	}
	for _, c := range users {
		at.add(c)
	}
	all := append(users, newDemoCommand(), newBuildCommand(), newLockCommand(), newVerifyCommand(), newPersonalizeCommand(), newHeadCommand(), newHeadChildCommand(), newHeadEngineCommand(), newVersionCommand())
	return append(all, newDemoInsideCommands()...)
}
