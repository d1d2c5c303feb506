package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster/api"
)

func newStatusCommand(at *headFlag) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show the head and its cluster at a glance",
		Example: "  muster status\n  muster status --json",
		GroupID: "use",
		Args:    cobra.NoArgs,
		RunE: at.run(func(cmd *cobra.Command, _ []string, call *caller) error {
			s, err := call.client.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), s)
			}
			return writeStatus(cmd.OutOrStdout(), s, time.Now())
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func writeStatus(w io.Writer, s api.Status, now time.Time) error {
	rows := [][2]string{
		{"head", fmt.Sprintf("%s, muster %s, up %s", s.Fingerprint, s.Version, ago(now, s.Started))},
		{"pin", s.Pin},
		{"nodes", counts(s.Nodes)},
		{"cores", fmt.Sprintf("%d, %d busy", s.Cores, s.CoresBusy)},
		{"memory", memory(s.MemoryMiB)},
		{"jobs", counts(s.Jobs)},
		{"image", orWord(s.Image, "none; publish one with: muster image publish DIR")},
		{"enrollment", strings.TrimPrefix(enrollmentText(s.Enrollment, now), "enrollment is ")},
	}
	for _, i := range s.Boot {
		rows = append(rows, [2]string{"boot", fmt.Sprintf("%s %s, DHCP %s: %s", i.Name, i.Addr, i.DHCP, i.Reason)})
	}
	for _, m := range s.Warnings {
		rows = append(rows, [2]string{"warning", m})
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(w, "%-10s %s\n", r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}

// counts writes how many there are of each state: 2 ready, 1 pending.
func counts[S ~string](m map[S]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", m[k], k))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
