package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

func newConfigCommand(at *headFlag) *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Short:   "Show and change the settings of the cluster",
		GroupID: "admin",
		Example: "  muster config list\n  muster config set rejoin approve\n  muster config export > cluster.yaml",
	}
	var asJSON bool
	list := &cobra.Command{
		Use:     "list",
		Short:   "List all settings",
		Example: "  muster config list",
		Args:    cobra.NoArgs,
		RunE: at.run(func(cmd *cobra.Command, _ []string, call *caller) error {
			l, err := call.client.Settings(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), l)
			}
			t := table{head: []string{"KEY", "VALUE", "MEANING"}, wrap: true}
			for _, s := range l.Items {
				t.add(s.Key, s.Value, s.Doc)
			}
			return t.write(cmd.OutOrStdout())
		}),
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	get := &cobra.Command{
		Use:     "get KEY",
		Short:   "Print one setting",
		Example: "  muster config get rejoin",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			s, err := call.client.Setting(cmd.Context(), args[0])
			switch {
			case err != nil:
				return err
			case asJSON:
				return writeJSON(cmd.OutOrStdout(), s)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), s.Value)
			return err
		}),
		ValidArgsFunction: at.completeSettings,
	}
	get.Flags().BoolVar(&asJSON, "json", false, "print as JSON, with its meaning and values")
	c.AddCommand(list, get,
		&cobra.Command{
			Use:     "set KEY VALUE",
			Short:   `Change one setting; "" is its default`,
			Example: "  muster config set root-jobs on\n  muster config set rejoin approve",
			Args:    cobra.ExactArgs(2),
			RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
				_, err := call.client.SetSetting(cmd.Context(), args[0], args[1])
				return err
			}),
			ValidArgsFunction: at.completeSettings,
		},
		&cobra.Command{
			Use:     "export",
			Short:   "Print all settings and known machines as YAML",
			Example: "  muster config export > cluster.yaml",
			Args:    cobra.NoArgs,
			RunE: at.run(func(cmd *cobra.Command, _ []string, call *caller) error {
				text, err := call.client.ExportConfig(cmd.Context())
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(text)
				return err
			}),
		},
		&cobra.Command{
			Use:     "import [FILE]",
			Short:   "Read settings and machines as YAML from a file or standard input",
			Example: "  muster config import cluster.yaml",
			Args:    cobra.MaximumNArgs(1),
			RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
				in := cmd.InOrStdin()
				if len(args) == 1 && args[0] != "-" {
					f, err := os.Open(args[0])
					if err != nil {
						return usagef("reading settings: %w", err)
					}
					defer f.Close()
					in = f
				}
				const most = 1 << 20
				text, err := io.ReadAll(io.LimitReader(in, most))
				if err != nil {
					return fmt.Errorf("reading settings: %w", err)
				}
				return call.client.ImportConfig(cmd.Context(), text)
			}),
		},
	)
	return c
}
