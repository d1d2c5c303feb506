package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"muster/api"
)

// The exit statuses beside 0. `muster run` has its own, those of its job.
const (
	exitFailed = 1 // it could not be done
	exitUsage  = 2 // wrong use or wrong input: flag, definition, lock, job file
)

// exitStatus ends the program with a status and without a message, as a job
// that failed does.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError marks an error as wrong use.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func main() { os.Exit(mainStatus()) }

// mainStatus is main for tests: the program's exit status.
func mainStatus() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer func() { go stop() }() // the program's end does as well
	return execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// execute runs one command line.
func execute(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	text := err.Error()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) { // by Ctrl-C or TERM
		text = strings.ReplaceAll(text, context.Canceled.Error(), "interrupted")
	}
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = harmless(lines[i])
	}
	fmt.Fprintf(stderr, "muster: error: %s\n", strings.Join(lines, "\n"))
	var usage usageError
	if errors.As(err, &usage) || api.CodeOf(err) == api.CodeInvalid {
		return exitUsage
	}
	return exitFailed
}

// newRoot returns the command tree.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "muster",
		Short: "Turn a room of machines into a compute cluster, without installing anything on them",
		Long: `muster builds a live image from one definition, boots machines with it over
the network, and runs jobs on them.`,
		Example: `  muster demo                        see it all on this machine
  muster build compute               build the image of commodity machines
  sudo muster head --interface eth1 --image compute
  muster node list                   who has booted
  muster run hostname                run a command on the node that suits best`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetFlagErrorFunc(flagError)
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start here:"},
		&cobra.Group{ID: "use", Title: "Use the cluster:"},
		&cobra.Group{ID: "admin", Title: "Run the cluster:"},
	)
	root.AddCommand(commands()...)
	root.SetHelpCommandGroupID("start")
	root.SetCompletionCommandGroupID("start")
	root.SetUsageTemplate(usageText)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	describeCompletion(root)
	finishCommand(root)
	return root
}
