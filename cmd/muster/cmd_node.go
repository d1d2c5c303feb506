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

func newNodeCommand(at *headFlag) *cobra.Command {
	c := &cobra.Command{
		Use:     "node",
		Short:   "List, approve and manage nodes",
		GroupID: "admin",
		Example: `  muster node list
  muster node approve k7qx-3fza-mm2d-5yth       # as its screen shows
  muster node approve --all --name 'n[1-24]'
  muster node add 52:54:00:12:34:56 --name n7   # let in when it boots`,
	}
	c.AddCommand(
		newNodeListCommand(at), newNodeShowCommand(at), newNodeApproveCommand(at),
		newNodeRejectCommand(at), newNodeAddCommand(at), newNodeRemoveCommand(at),
		newNodeRenameCommand(at), newNodeRebootCommand(at), newNodeLogCommand(at),
		newNodeDrainCommand(at), newNodePauseCommand(at), newNodeReadyCommand(at),
		newNodeImageCommand(at), newNodeLabelCommand(at),
	)
	return c
}

func newNodeListCommand(at *headFlag) *cobra.Command {
	var asJSON, hints bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List nodes, and machines that are no nodes yet",
		Example: "  muster node list\n  muster node list --json | jq -r .items[].name",
		Args:    cobra.NoArgs,
		RunE: at.run(func(cmd *cobra.Command, _ []string, call *caller) error {
			list, err := call.client.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), list)
			}
			return writeNodes(cmd.OutOrStdout(), list.Items, time.Now(), hints)
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.Flags().BoolVar(&hints, "hints", true, "below the list, say what takes each waiting machine further")
	return c
}

// writeNodes writes the listing of nodes.
func writeNodes(w io.Writer, nodes []api.Node, now time.Time, hints bool) error {
	if len(nodes) == 0 {
		_, err := fmt.Fprintln(w, "no machine was heard yet; boot one from the network, or see: muster status")
		return err
	}
	t := table{head: []string{"NAME", "STATE", "MAC", "CPU", "MEM", "LOAD", "IMAGE OR FINGERPRINT"}}
	labels := slices.ContainsFunc(nodes, func(n api.Node) bool { return len(n.Labels) > 0 })
	if labels {
		t.head = append(t.head, "LABELS")
	}
	var below []string
	for _, n := range nodes {
		load := "-"
		if n.Link == api.LinkUp || n.Link == api.LinkLate {
			load = fmt.Sprintf("%.1f", n.Load.Runnable)
		}
		row := []string{
			orDash(n.Name), string(n.State), orDash(n.MAC), countOrDash(n.Hardware.Cores), memory(n.Hardware.MemoryMiB), load, lastCell(n),
		}
		if labels {
			row = append(row, orDash(strings.Join(n.Labels, " ")))
		}
		t.add(row...)
		if text := standing(n); text != "" {
			below = append(below, text)
		}
	}
	if err := t.write(w); err != nil {
		return err
	}
	if hints && len(below) > 0 {
		_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(below, "\n"))
		return err
	}
	return nil
}

// lastCell is what a node runs, and of a machine that is none what to compare with
// its screen.
func lastCell(n api.Node) string {
	if n.Admin != "" {
		return imageText(n)
	}
	return orDash(n.Fingerprint)
}

// standing says where a machine stands and what takes it further, "" for one
// of which there is nothing to say.
func standing(n api.Node) string {
	text := fmt.Sprintf("%s is %s", orWord(n.Name, n.MAC), n.State)
	if n.Stage != "" {
		text += " (" + n.Stage + ")"
	}
	switch {
	case n.Hint != "":
		return text + "; " + n.Hint
	case n.Stage != "" && n.Admin != "":
		return text
	}
	return ""
}

func newNodeShowCommand(at *headFlag) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show NODE",
		Short: "Show all that is known of a node or machine",
		Long: `Show all that is known of a node or machine. NODE is a name, a MAC, or a
fingerprint or the beginning of one.`,
		Example: "  muster node show n7\n  muster node show 52:54:00:12:34:56",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			n, err := call.client.Node(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), n)
			}
			return writeNode(cmd.OutOrStdout(), n, time.Now())
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.ValidArgsFunction = at.completeNodes
	return c
}

func writeNode(w io.Writer, n api.Node, now time.Time) error {
	hw, sw := n.Hardware, n.Software
	rows := [][2]string{
		{"name", n.Name},
		{"state", string(n.State)},
		{"stage", n.Stage},
		{"since", fmt.Sprintf("%s ago", ago(now, n.Since))},
		{"last heard", lastHeard(now, n.LastHeard)},
		{"labels", strings.Join(n.Labels, " ")},
		{"fingerprint", n.Fingerprint},
		{"identity", string(n.Identity)},
		{"address", n.IP},
		{"MACs", strings.Join(hw.MACs, " ")},
		{"UUID", hw.UUID},
		{"hardware", strings.TrimSpace(hw.Vendor + " " + hw.Product)},
		{"processor", known(hw.Cores, "%d × %s", hw.Cores, hw.CPUModel)},
		{"speed", known(n.Speed, "%.2f of the reference, weight %d %%", n.Speed, n.Weight)},
		{"memory", known(n.Load.MemTotalMiB, "%s, %s free", memory(n.Load.MemTotalMiB), memory(n.Load.MemFreeMiB))},
		{"firmware", hw.Firmware},
		{"medium", sw.Medium},
		{"kernel", sw.Kernel},
		{"image", imageRow(n)},
		{"userland", userlandRow(n)},
		{"agent", sw.Agent},
		{"load", known(n.Load.MemTotalMiB, "%.2f runnable, %.0f %% of all cores busy", n.Load.Runnable, 100*n.Load.CPUBusy)},
		{"tasks", known(n.Load.MemTotalMiB, "%d", n.Load.Tasks)},
		{"next", n.Hint},
	}
	for _, r := range rows {
		if r[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-12s %s\n", r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}

// known formats args unless v is its zero value, for what is not known yet.
func known[T comparable](v T, format string, args ...any) string {
	var zero T
	if v == zero {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}

func lastHeard(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return ago(now, t) + " ago"
}

func newNodeApproveCommand(at *headFlag) *cobra.Command {
	var req api.ApproveRequest
	c := &cobra.Command{
		Use:   "approve [MACHINE...]",
		Short: "Let pending machines in",
		Long: `Let pending machines in as nodes. MACHINE is a MAC, or a fingerprint or the
beginning of one: compare it with the one on the machine's screen.`,
		Example: `  muster node approve k7qx-3fza-mm2d-5yth
  muster node approve k7qx 3mmd --name 'n[7-8]'
  muster node approve --all --name 'n[1-24]'     # in order of arrival`,
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			if req.All == (len(args) > 0) {
				return usagef("name the machines to approve, or all that wait with --all; see: muster node list")
			}
			req.Machines = args
			nodes, err := call.client.Approve(cmd.Context(), req)
			for _, n := range nodes {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is approved (%s, %s)\n", n.Name, orWord(n.MAC, "no MAC"), n.Fingerprint)
			}
			if err == nil && len(nodes) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "no machine is pending")
			}
			return err
		}),
	}
	c.Flags().BoolVar(&req.All, "all", false, "every machine that is pending now, in order of arrival")
	c.Flags().StringVar(&req.Names, "name", "", "`names` to give, as n7 or n[1-24] (default: lowest free n1, n2, ...)")
	c.ValidArgsFunction = at.completeNodes
	return c
}

// newNodeEachCommand returns a command that does one thing to each node that
// is named; names may be host lists.
func newNodeEachCommand(at *headFlag, use, short, example, done string, do func(cmd *cobra.Command, call *caller, name string) error) *cobra.Command {
	return &cobra.Command{
		Use:     use + " NODE...",
		Short:   short,
		Long:    short + ".\nNODE is a name, a host list as n[1-4,7], label:gpu for all with that label, a\nMAC, or a fingerprint or the beginning of one.",
		Example: example,
		Args:    cobra.MinimumNArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			names, err := nodesNamed(cmd, call, args)
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := do(cmd, call, name); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", name, done)
			}
			return nil
		}),
		ValidArgsFunction: at.completeNodes,
	}
}

func newNodeRejectCommand(at *headFlag) *cobra.Command {
	return newNodeEachCommand(at, "reject", "Turn machines away until they are approved after all",
		"  muster node reject 52:54:00:12:34:56", "is rejected",
		func(cmd *cobra.Command, call *caller, name string) error {
			return call.client.Reject(cmd.Context(), name)
		})
}

func newNodeRemoveCommand(at *headFlag) *cobra.Command {
	return newNodeEachCommand(at, "remove", "Forget nodes; what still runs there is ended",
		"  muster node remove n7", "is removed",
		func(cmd *cobra.Command, call *caller, name string) error {
			return call.client.RemoveNode(cmd.Context(), name)
		})
}

func newNodeRebootCommand(at *headFlag) *cobra.Command {
	return newNodeEachCommand(at, "reboot", "Reboot nodes",
		"  muster node reboot n7\n  muster node reboot 'n[1-24]'", "reboots",
		func(cmd *cobra.Command, call *caller, name string) error {
			return call.client.RebootNode(cmd.Context(), name)
		})
}

// newNodeAdminCommand returns a command that changes what an administrator
// wants of nodes.
func newNodeAdminCommand(at *headFlag, use, short, example, done string, to api.AdminState) *cobra.Command {
	return newNodeEachCommand(at, use, short, example, done, func(cmd *cobra.Command, call *caller, name string) error {
		_, err := call.client.SetNodeAdmin(cmd.Context(), name, to)
		return err
	})
}

func newNodeDrainCommand(at *headFlag) *cobra.Command {
	return newNodeAdminCommand(at, "drain", "Give nodes no new tasks; those that run there go on",
		"  muster node drain n7", "gets no new tasks", api.AdminDraining)
}

func newNodePauseCommand(at *headFlag) *cobra.Command {
	return newNodeAdminCommand(at, "pause", "Give nodes no new tasks, and leave those that run there alone",
		"  muster node pause n7", "is paused", api.AdminPaused)
}

func newNodeReadyCommand(at *headFlag) *cobra.Command {
	return newNodeAdminCommand(at, "ready", "Give nodes tasks again after drain or pause",
		"  muster node ready n7", "gets tasks again", api.AdminReady)
}

func newNodeAddCommand(at *headFlag) *cobra.Command {
	var req api.DeclareRequest
	c := &cobra.Command{
		Use:     "add MAC|UUID",
		Short:   "Make a machine known before it boots: it is let in without asking",
		Example: "  muster node add 52:54:00:12:34:56 --name n7 --ip 10.77.0.7",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			if strings.Count(args[0], "-") == 4 && len(args[0]) == 36 {
				req.UUID = strings.ToLower(args[0])
			} else {
				req.MAC = args[0]
			}
			n, err := call.client.DeclareNode(cmd.Context(), req)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is known as %s and is let in when it boots\n", args[0], orWord(n.Name, "the lowest free name"))
			return err
		}),
	}
	c.Flags().StringVar(&req.Name, "name", "", "its `name` (default: lowest free when it joins)")
	c.Flags().StringVar(&req.IP, "ip", "", "fixed `address`, where this head gives out the addresses")
	return c
}

func newNodeRenameCommand(at *headFlag) *cobra.Command {
	return &cobra.Command{
		Use:     "rename NODE NAME",
		Short:   "Give a node another name",
		Example: "  muster node rename n7 gpu1",
		Args:    cobra.ExactArgs(2),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			if _, err := call.client.RenameNode(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is now %s\n", args[0], args[1])
			return err
		}),
		ValidArgsFunction: at.completeNodes,
	}
}

func newNodeLogCommand(at *headFlag) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "log NODE",
		Short:   "Show the kernel log that a node sent",
		Example: "  muster node log n7",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			lines, err := call.client.NodeLog(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), lines)
			}
			for _, l := range lines.Lines {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "[%5d.%06d] %s\n", l.Micro/1e6, l.Micro%1e6, l.Text); err != nil {
					return err
				}
			}
			return nil
		}),
		ValidArgsFunction: at.completeNodes,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// expandNodes expands host lists in arguments; what is no host list (a MAC,
// a fingerprint) stays as it is.
func expandNodes(args []string) ([]string, error) {
	var names []string
	for _, a := range args {
		if !strings.ContainsAny(a, "[,") && strings.Count(a, "-") != 1 {
			names = append(names, a)
			continue
		}
		list, err := api.ParseHostList(a)
		if err != nil {
			return nil, usageError{err}
		}
		names = append(names, list...)
	}
	return names, nil
}

func orDash(s string) string { return orWord(s, "-") }

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

func countOrDash(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// memory writes mebibytes.
func memory(mib int64) string {
	switch {
	case mib == 0:
		return "-"
	case mib < 10<<10:
		return fmt.Sprintf("%dM", mib)
	}
	return fmt.Sprintf("%dG", (mib+512)>>10)
}

// short is the beginning of a hash, enough for people.
func short(hash string) string {
	if len(hash) > 12 {
		return hash[:12]
	}
	return hash
}
