package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"muster/api"
)

func newBootCommand(at *headFlag) *cobra.Command {
	c := &cobra.Command{
		Use:     "boot",
		Short:   "Look at how machines boot",
		GroupID: "admin",
		Example: "  muster boot log 52:54:00:12:34:56",
	}
	var asJSON bool
	log := &cobra.Command{
		Use:     "log MACHINE",
		Short:   "Show the timeline of a machine's latest boots",
		Example: "  muster boot log n7\n  muster boot log 52:54:00:12:34:56",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			l, err := call.client.BootLog(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), l)
			}
			return writeBootLog(cmd.OutOrStdout(), l)
		}),
		ValidArgsFunction: at.completeNodes,
	}
	log.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.AddCommand(log)
	return c
}

// newBootAfter is the silence after which an event starts a new boot.
const newBootAfter = 2 * time.Minute

// beginsBoot tells whether e is the first step of another boot than the step
// before it, which is the zero value for the first of all.
func beginsBoot(before, e api.BootEvent) bool {
	switch {
	case before.Time.IsZero():
		return true
	case before.Stage == api.StageKexec && e.Stage == api.StageAgent:
		return true // the other image
	case e.Stage == api.StageApproved, e.Stage == api.StageKexec, e.Stage == api.StageUserland, e.Stage == api.StagePreparing, e.Stage == api.StageReady:
		return false // a person may take a while to approve, and a slow network for a userland
	case e.Stage == api.StageDHCP && slices.Contains([]api.BootStage{api.StageAgent, api.StagePending, api.StageApproved, api.StageUserland, api.StagePreparing, api.StageKexec, api.StageReady}, before.Stage):
		return true
	}
	return e.Time.Sub(before.Time) > newBootAfter
}

func writeBootLog(w io.Writer, l api.BootLog) error {
	var start time.Time
	var before api.BootEvent
	for _, e := range l.Events {
		if beginsBoot(before, e) {
			start = e.Time
			if _, err := fmt.Fprintf(w, "%s  boot of %s\n", e.Time.Local().Format(time.DateTime), orWord(l.Name, l.MAC)); err != nil {
				return err
			}
		}
		before = e
		if _, err := fmt.Fprintf(w, "%8.2fs  %s\n", e.Time.Sub(start).Seconds(), bootText(e)); err != nil {
			return err
		}
	}
	if l.Advice != "" {
		_, err := fmt.Fprintf(w, "\n%s\n", l.Advice)
		return err
	}
	return nil
}

// bootText says what a machine did, in one line.
func bootText(e api.BootEvent) string {
	text := fmt.Sprintf("%-9s", e.Stage)
	if e.Client != "" {
		text += fmt.Sprintf(" %-4s", e.Client)
	}
	detail := e.Detail
	if e.Stage == api.StageUserland { // the agent's words, which stand by themselves elsewhere
		detail = strings.TrimPrefix(strings.TrimPrefix(detail, "userland"), ":")
		detail = strings.TrimPrefix(detail, " ")
	}
	if detail != "" {
		text += " " + detail
	}
	if e.Bytes > 0 {
		text += fmt.Sprintf(" (%s", size(e.Bytes))
		if e.MS > 0 {
			text += fmt.Sprintf(" in %.2f s", float64(e.MS)/1000)
		}
		text += ")"
	}
	return strings.TrimRight(text, " ")
}
