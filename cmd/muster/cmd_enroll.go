package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"muster/api"
)

func newEnrollCommand(at *headFlag) *cobra.Command {
	c := &cobra.Command{
		Use:     "enroll",
		Short:   "Say whether unknown machines are answered when they boot",
		GroupID: "admin",
		Long: `Enrollment decides about boot answers only. It is open where muster gives out
the addresses, and closed beside another DHCP server, so that an office machine
that happens to boot from the network is left alone. A machine that was booted
must still be approved.`,
		Example: "  muster enroll open 30m\n  muster enroll status",
	}
	var asJSON bool
	status := &cobra.Command{
		Use:     "status",
		Short:   "Show whether enrollment is open",
		Example: "  muster enroll status",
		Args:    cobra.NoArgs,
		RunE: at.run(func(cmd *cobra.Command, _ []string, call *caller) error {
			e, err := call.client.Enrollment(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), e)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), enrollmentText(e, time.Now()))
			return err
		}),
	}
	status.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.AddCommand(
		&cobra.Command{
			Use:     "open [DURATION]",
			Short:   "Answer unknown machines, for a time if one is given (30m, 2h)",
			Example: "  muster enroll open 30m",
			Args:    cobra.MaximumNArgs(1),
			RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
				req := api.EnrollmentRequest{Open: true}
				if len(args) == 1 {
					d, err := time.ParseDuration(args[0])
					if err != nil || d < time.Second {
						return usagef("%q is no duration; write it as 30m or 2h", args[0])
					}
					req.ForSecs = int(d.Seconds())
				}
				return setEnrollment(cmd, call, req)
			}),
		},
		&cobra.Command{
			Use:     "close",
			Short:   "Leave unknown machines alone",
			Example: "  muster enroll close",
			Args:    cobra.NoArgs,
			RunE: at.run(func(cmd *cobra.Command, _ []string, call *caller) error {
				return setEnrollment(cmd, call, api.EnrollmentRequest{})
			}),
		},
		status,
	)
	return c
}

func setEnrollment(cmd *cobra.Command, call *caller, req api.EnrollmentRequest) error {
	e, err := call.client.SetEnrollment(cmd.Context(), req)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), enrollmentText(e, time.Now()))
	return err
}

// enrollmentText says what enrollment is, in one line.
func enrollmentText(e api.Enrollment, now time.Time) string {
	text := "enrollment is closed: unknown machines are not answered"
	if e.Open {
		text = "enrollment is open: unknown machines are booted and wait for approval"
		if !e.Until.IsZero() {
			left := e.Until.Sub(now)
			if left > time.Minute {
				left = left.Round(time.Minute)
			}
			text += fmt.Sprintf(", for another %s", span(left))
		}
	}
	if e.Policy != "" {
		text += " (" + e.Policy + ")"
	}
	return text
}
