//go:build run

package main

import (
	"github.com/spf13/cobra"
)

// commands returns the verb run alone, for the small program that internal/mkmuster makes.
func commands() []*cobra.Command {
	at := &headFlag{}
	run := newRunCommand(at)
	at.add(run)
	return []*cobra.Command{run}
}
