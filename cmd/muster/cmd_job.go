package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"muster/api"
	"muster/api/client"
)

func newJobCommand(at *headFlag) *cobra.Command {
	c := &cobra.Command{
		Use:     "job",
		Short:   "List, watch and cancel jobs, fetch their files",
		GroupID: "use",
		Example: "  muster job list\n  muster job logs -f 17\n  muster job cancel 17",
	}
	c.AddCommand(newJobListCommand(at), newJobShowCommand(at), newJobCancelCommand(at), newJobLogsCommand(at), newJobAttachCommand(at), newJobFetchCommand(at))
	return c
}

func newJobListCommand(at *headFlag) *cobra.Command {
	var asJSON, all bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List jobs: those that wait or run, then the latest that ended",
		Example: "  muster job list\n  muster job list --all --json",
		Args:    cobra.NoArgs,
		RunE: at.run(func(cmd *cobra.Command, _ []string, call *caller) error {
			list, err := call.client.Jobs(cmd.Context(), all)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), list)
			}
			return writeJobs(cmd.OutOrStdout(), list.Items, time.Now())
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.Flags().BoolVar(&all, "all", false, "all that the head remembers, not only the latest")
	return c
}

func writeJobs(w io.Writer, jobs []api.Job, now time.Time) error {
	if len(jobs) == 0 {
		_, err := fmt.Fprintln(w, "no jobs; start one with: muster run COMMAND")
		return err
	}
	t := table{head: []string{"JOB", "STATE", "USER", "TASKS", "NODES", "TIME", "COMMAND"}}
	for _, j := range jobs {
		state := stateOf(j)
		if j.State.Ended() && j.ExitCode != 0 {
			state += fmt.Sprintf(" (%d)", j.ExitCode)
		}
		took := "-"
		if !j.Started.IsZero() {
			end := j.Ended
			if end.IsZero() {
				end = now
			}
			took = span(end.Sub(j.Started))
		}
		t.add(fmt.Sprint(j.ID), state, j.Owner.User, fmt.Sprint(max(len(j.Tasks), j.Spec.Tasks)), orDash(jobNodes(j)), took, jobText(j))
	}
	return t.write(w)
}

// stateOf is the state of a job for people: that of its tasks, where all that run are in the same
// special one.
func stateOf(j api.Job) string {
	detail := ""
	for _, k := range j.Tasks {
		if k.State != api.JobRunning {
			continue
		}
		if k.Detail == "" || detail != "" && detail != k.Detail {
			return string(j.State)
		}
		detail = k.Detail
	}
	return orWord(detail, string(j.State))
}

// jobNodes is the nodes of a job's tasks as a host list.
func jobNodes(j api.Job) string {
	var names []string
	seen := map[string]bool{}
	for _, t := range j.Tasks {
		if t.Node != "" && !seen[t.Node] {
			seen[t.Node] = true
			names = append(names, t.Node)
		}
	}
	return api.FormatHostList(names)
}

// jobText is a job's command, or what it waits for.
func jobText(j api.Job) string {
	text := orWord(commandText(j.Spec.Argv), j.Name)
	if j.State == api.JobQueued && j.Reason != "" {
		return text + " — " + j.Reason
	}
	return text
}

func newJobShowCommand(at *headFlag) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "show JOB",
		Short:   "Show a job and its tasks",
		Example: "  muster job show 17",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			j, err := jobByArg(cmd.Context(), call, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), j)
			}
			return writeJob(cmd.OutOrStdout(), j)
		}),
		ValidArgsFunction: at.completeJobs,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

// commandText is a command for people. Bytes that are no text are shown as escapes.
func commandText(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = api.DecodeText(a)
	}
	return harmless(strings.Join(words, " "))
}

// completeJobs completes the numbers of jobs: one, or several that are each named once.
func (h *headFlag) completeJobs(cmd *cobra.Command, named []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(named) > 0 && cmd.Name() != "cancel" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	call, err := h.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := call.client.Jobs(contextOf(cmd), false)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, j := range list.Items {
		if cmd.Name() == "cancel" && j.State.Ended() {
			continue
		}
		if cmd.Name() == "fetch" && (!j.State.Ended() || len(j.Spec.Fetch) == 0) {
			continue
		}
		if id := fmt.Sprint(j.ID); strings.HasPrefix(id, prefix) && !slices.Contains(named, id) {
			ids = append(ids, id+"\t"+cut(jobText(j), 40))
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

func jobByArg(ctx context.Context, call *caller, arg string) (api.Job, error) {
	id, err := jobID(arg)
	if err != nil {
		return api.Job{}, err
	}
	return call.client.Job(ctx, id)
}

func jobID(arg string) (uint64, error) {
	id, err := strconv.ParseUint(arg, 10, 64)
	if err != nil || id == 0 {
		return 0, usagef("%q is no job; jobs are numbers, see: muster job list", arg)
	}
	return id, nil
}

func writeJob(w io.Writer, j api.Job) error {
	rows := [][2]string{
		{"job", fmt.Sprintf("%d (%s)", j.ID, stateOf(j))},
		{"reason", j.Reason},
		{"user", fmt.Sprintf("%s (uid %d)", j.Owner.User, j.Owner.UID)},
		{"command", commandText(j.Spec.Argv)},
		{"cannot move", j.Fixed},
		{"asks for", asked(j.Spec)},
		{"output", outputOf(j)},
		{"submitted", j.Submitted.Local().Format(time.DateTime)},
		{"started", timeText(j.Started)},
		{"ended", timeText(j.Ended)},
	}
	if j.State.Ended() {
		rows = append(rows, [2]string{"exit status", fmt.Sprint(j.ExitCode)})
	}
	for _, r := range rows {
		if r[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-12s %s\n", r[0], harmless(r[1])); err != nil {
			return err
		}
	}
	if len(j.Tasks) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := table{head: []string{"TASK", "STATE", "NODE", "EXIT", "OUTPUT", "WHY"}}
	for _, k := range j.Tasks {
		exit := "-"
		if k.State.Ended() {
			exit = fmt.Sprint(k.ExitCode)
		}
		t.add(fmt.Sprint(k.Index), orWord(k.Detail, string(k.State)), orDash(k.Node), exit, size(k.Output), orWord(k.Error, k.Why))
	}
	return t.write(w)
}

// asked is what each task of a job was given.
func asked(s api.JobSpec) string {
	text := "1 core"
	if s.Cores > 1 {
		text = fmt.Sprintf("%d cores", s.Cores)
	}
	if s.MemMiB > 0 {
		text += fmt.Sprintf(", %d MiB of memory", s.MemMiB)
	}
	if s.Tasks > 1 {
		text += " for each task"
	}
	return text
}

// outputOf says where the output of a job is that nobody waited for.
func outputOf(j api.Job) string {
	switch {
	case j.Spec.Output != "":
		return strings.NewReplacer("%j", fmt.Sprint(j.ID), "%%", "%", "%t", "TASK").Replace(api.DecodeText(j.Spec.Output))
	case j.Spec.Detached:
		return fmt.Sprintf("kept by the head: muster job logs %d", j.ID)
	}
	return ""
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

func newJobCancelCommand(at *headFlag) *cobra.Command {
	return &cobra.Command{
		Use:     "cancel JOB...",
		Short:   "End jobs: TERM, and KILL for what is left after 5 seconds",
		Example: "  muster job cancel 17 18",
		Args:    cobra.MinimumNArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			for _, a := range args {
				id, err := jobID(a)
				if err != nil {
					return err
				}
				j, err := call.client.Cancel(cmd.Context(), id)
				if err != nil {
					return err
				}
				if j.State.Ended() {
					fmt.Fprintf(cmd.OutOrStdout(), "job %d is %s\n", id, orWord(harmless(j.Reason), string(j.State)))
				} else {
					fmt.Fprintf(cmd.OutOrStdout(), "job %d gets TERM now, and KILL in 5 s if it does not end\n", id)
				}
			}
			return nil
		}),
		ValidArgsFunction: at.completeJobs,
	}
}

func newJobAttachCommand(at *headFlag) *cobra.Command {
	return &cobra.Command{
		Use:   "attach JOB",
		Short: "Stay with a job: its output so far and to come, and your signals",
		Long: `Stay with a job to its end, as if it had been started here: what it has written
and what it still writes is printed, Ctrl-C and other signals go to it, and the
exit status is its own. It gets no input. To look on without a hand in it use
muster job logs -f. Files of --fetch stay at the head: muster job fetch.`,
		Example: "  muster job attach 17",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			id, err := jobID(args[0])
			if err != nil {
				return err
			}
			j, err := call.client.Job(cmd.Context(), id)
			if err != nil {
				return err
			}
			// Signals belong to the job from here on.
			ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
			defer cancel()
			signals, stop := passSignals(ctx, false)
			defer stop()
			out, errOut := cmd.OutOrStdout(), cmd.ErrOrStderr()
			err = withFiles(ctx, writtenFiles(j, -1, out, errOut), errOut, func() (err error) {
				j, err = call.client.Attach(ctx, id, client.RunOptions{
					Signals: signals.passed, Notice: func(text string) { fmt.Fprintf(errOut, "muster: %s\n", harmless(text)) },
					Output: func(_ int, stream api.Stream, data []byte) error {
						w := out
						if stream == api.Stderr {
							w = errOut
						}
						_, err := w.Write(data)
						return err
					},
				})
				return err
			})
			if errors.Is(err, client.ErrInterrupted) {
				fmt.Fprintf(errOut, "muster: %v\n", err)
				return exitStatus(128 + int(syscall.SIGINT))
			}
			if err != nil {
				return err
			}
			status := jobStatus(errOut, j)
			if len(j.Spec.Fetch) > 0 {
				fmt.Fprintf(errOut, "muster: the files of job %d are at the head; bring them here with: muster job fetch %d\n", id, id)
			}
			if status != 0 {
				return exitStatus(status)
			}
			return nil
		}),
		ValidArgsFunction: at.completeJobs,
		Annotations: map[string]string{"status": `Exit status: that of the job as muster run has it, 1 when muster itself failed,
2 for wrong use.`},
	}
}

func newJobLogsCommand(at *headFlag) *cobra.Command {
	var follow bool
	var task int
	c := &cobra.Command{
		Use:   "logs JOB",
		Short: "Print the output of a job",
		Long: `Print the output of a job: what the head keeps of it, or the file that it is
written to (-o, -e, or NAME-JOB.out of a detached job).`,
		Example: "  muster job logs 17\n  muster job logs -f --task 2 17",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			id, err := jobID(args[0])
			if err != nil {
				return err
			}
			j, err := call.client.Job(cmd.Context(), id)
			if err != nil {
				return err
			}
			out, errOut := cmd.OutOrStdout(), cmd.ErrOrStderr()
			return withFiles(cmd.Context(), writtenFiles(j, task, out, errOut), errOut, func() error {
				return call.client.Logs(cmd.Context(), id, task, follow, out, errOut)
			})
		}),
		ValidArgsFunction: at.completeJobs,
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the job ends")
	c.Flags().IntVar(&task, "task", -1, "only the task with this `number`, not all")
	c.Flags().Lookup("task").DefValue = "" // help shows none
	return c
}
