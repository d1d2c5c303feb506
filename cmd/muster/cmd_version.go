package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"muster/api"
)

// programVersion is what the Go toolchain recorded of the source: its tag, or
// a version made of the latest tag and the commit.
func programVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

func newVersionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of this program",
		GroupID: "start",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), map[string]any{
					"version": programVersion(), "go": runtime.Version(), "agent_protocol": api.Protocol,
				})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "muster %s (%s, agent protocol %d)\n", programVersion(), runtime.Version(), api.Protocol)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}
