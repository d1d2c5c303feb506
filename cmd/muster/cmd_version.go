package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"muster/api"
)

// version is given by make; elsewhere the toolchain's record is shown.
var version string

// programVersion is the version of this program.
func programVersion() string {
	if version != "" {
		return version
	}
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
		Example: "  muster version",
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
