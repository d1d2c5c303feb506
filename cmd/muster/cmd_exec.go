package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"muster/api"
	"muster/api/client"
)

// execFlags are the flags of `muster exec`.
type execFlags struct {
	all    bool
	on     string
	asJSON bool
}

func newExecCommand(at *headFlag) *cobra.Command {
	var f execFlags
	c := &cobra.Command{
		Use:   "exec --all|--on NODES [flags] [--] COMMAND [ARG...]",
		Short: "Run a command on every node and sum up what differs",
		Long: `Run a command on every node, or on those that --on names, also on paused and
full ones: it takes no core. It runs as the caller, without input, in an empty
private folder. Lines of output begin with the node's name. At the end the nodes
that said the same are named together, and so are those that were not reached.
Ctrl-C goes to the command, the second one ends it. For administrators.`,
		Example: `  muster exec --all uname -r
  muster exec --on label:gpu,n7 -- cat /proc/loadavg
  muster exec --all --json -- sh -c 'df /tmp | tail -1'`,
		GroupID: "admin",
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := execEverywhere(cmd, at, f, args)
			var usage usageError
			switch {
			case errors.As(err, &usage):
				return err
			case err != nil:
				fmt.Fprintf(cmd.ErrOrStderr(), "muster: error: %v\n", err)
				return exitStatus(exitMuster)
			case status != 0:
				return exitStatus(status)
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.SetInterspersed(false)
	flags.BoolVar(&f.all, "all", false, "on every node")
	flags.StringVar(&f.on, "on", "", "on these `nodes`, as n1, n[1-4,7] or label:gpu")
	flags.BoolVar(&f.asJSON, "json", false, "print everything at the end, as JSON")
	c.Annotations = map[string]string{"status": `Exit status: the command's, the highest of all nodes; 255 when a node was not
reached or muster itself failed, 2 for wrong use.`}
	_ = c.RegisterFlagCompletionFunc("on", at.completeNodeItems)
	return c
}

// spec checks the flags and makes the job's specification of them.
func (f execFlags) spec(args []string) (api.JobSpec, error) {
	switch {
	case f.all == (f.on != ""):
		return api.JobSpec{}, usagef("say where: --all for every node, or --on NODES; as in: muster exec --all uname -r")
	case len(args) == 0:
		return api.JobSpec{}, usagef("no command to run; as in: muster exec --all uname -r")
	}
	if f.on != "" {
		if _, err := api.ParseNodeList(f.on); err != nil {
			return api.JobSpec{}, usagef("--on: %w", err)
		}
	}
	umask := ownUmask()
	spec := api.JobSpec{
		EachNode: true, On: f.on, Private: true, Label: true, Env: passedEnvironment(os.Environ()), Umask: &umask,
		Limits: ownLimits(), RequestID: rand.Text(),
	}
	for _, a := range args {
		spec.Argv = append(spec.Argv, api.EncodeText(a))
	}
	return spec, nil
}

// execEverywhere runs a command on every node and returns the highest exit status.
func execEverywhere(cmd *cobra.Command, at *headFlag, f execFlags, args []string) (int, error) {
	spec, err := f.spec(args)
	if err != nil {
		return 0, err
	}
	call, err := at.connect()
	if err != nil {
		return 0, err
	}
	// Signals belong to the command from here on.
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	signals, stop := passSignals(ctx, false)
	defer stop()
	defer catchPipe()()

	j, err := call.client.Submit(ctx, spec)
	if err != nil {
		return 0, err
	}
	report := newExecReport(j)
	out, errOut := cmd.OutOrStdout(), cmd.ErrOrStderr()
	p := newPrefixer(out, errOut, len(j.Tasks))
	p.names = report.names()
	j, err = call.client.Attach(ctx, j.ID, client.RunOptions{
		Notice:  func(text string) { fmt.Fprintf(errOut, "muster: %s\n", text) },
		Signals: endOnSecond(ctx, signals.passed, func() { _, _ = call.client.Cancel(ctx, j.ID) }),
		Output: func(task int, stream api.Stream, data []byte) error {
			report.add(task, stream, data, f.asJSON)
			if f.asJSON {
				return nil
			}
			return p.write(task, stream, data)
		},
	})
	if err != nil {
		return 0, err
	}
	p.flush()
	if len(j.Tasks) < len(report.nodes) { // a job of very many nodes ends without them
		if j, err = call.client.Job(ctx, j.ID); err != nil {
			return 0, err
		}
	}
	report.end(j)
	if f.asJSON {
		if err := writeJSON(out, report.document()); err != nil {
			return 0, err
		}
	} else {
		report.writeSummary(errOut)
	}
	if j.ExitCode == 0 && j.State != api.JobFinished {
		return exitMuster, nil
	}
	return j.ExitCode, nil
}

// endOnSecond passes signals on and calls end with the second that asks for the end.
func endOnSecond(ctx context.Context, signals <-chan os.Signal, end func()) <-chan os.Signal {
	passed := make(chan os.Signal)
	go func() {
		asked := 0
		for {
			var s os.Signal
			select {
			case s = <-signals:
			case <-ctx.Done():
				return
			}
			if s == syscall.SIGINT || s == syscall.SIGTERM {
				if asked++; asked == 2 {
					go end()
				}
			}
			select {
			case passed <- s:
			case <-ctx.Done():
				return
			}
		}
	}()
	return passed
}

// writeSummary says, when there is something to compare or something went wrong, which nodes said the same and
// how the command ended there.
func (r *execReport) writeSummary(w io.Writer) {
	groups := r.groups()
	if len(r.nodes) == 1 && groups[0].ExitCode == 0 && groups[0].Error == "" {
		return
	}
	for _, g := range groups {
		fmt.Fprintf(w, "muster: %s: %s\n", g.Nodes, g.text(len(groups) == 1))
	}
}
