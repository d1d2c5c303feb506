package main

import (
	"os"

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
		c.PersistentFlags().StringVar(&at.addr, "head", os.Getenv("MUSTER_HEAD"), "the head: `path` of its socket or https address (MUSTER_HEAD)")
	}
	all := append(users, newDemoCommand(), newBuildCommand(), newLockCommand(), newVerifyCommand(), newPersonalizeCommand(), newHeadCommand(), newHeadChildCommand(), newHeadEngineCommand(), newVersionCommand())
	return append(all, newDemoInsideCommands()...)
}
