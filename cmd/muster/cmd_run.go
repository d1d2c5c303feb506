package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"muster/api"
	"muster/api/client"
)

// exitMuster is the status of `muster run` when muster itself failed, as ssh
// has it.
const exitMuster = 255

// allowContainers is what --allow may say.
const allowContainers = "containers"

// runFlags are the flags of `muster run`.
type runFlags struct {
	tasks  int
	spread bool
	on     string
	cores  int
	mem    string
	send   []string
	fetch  []string
	name   string
	detach bool
	prefix bool
	tty    bool
	time   string // catches Slurm's --time
	output string
	errors string
	stdin  string
	alone  bool
	allow  []string
}

func newRunCommand(at *headFlag) *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run [flags] [--] COMMAND [ARG...]",
		Short: "Run a command on the node that suits best, as if it ran here",
		Long: `Run a command on the node that suits best. Its input comes from here, its output
and errors are written here, signals are passed on, and the exit status is the
command's. With -d it goes on without you; see muster job list and muster job
logs.`,
		Example: `  muster run hostname
  muster run -n 8 --spread -- uname -n
  sort words | muster run uniq -c > counts
  muster run --send ./tool --send in.dat --fetch out.dat -- ./tool in.dat
  muster run -t python3
  muster run -d -o sim.log ./long; muster job logs -f 17`,
		GroupID: "use",
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := runJob(cmd, at, f, args)
			if err != nil {
				var usage usageError
				if errors.As(err, &usage) {
					return err
				}
				if errors.Is(err, client.ErrInterrupted) {
					fmt.Fprintf(cmd.ErrOrStderr(), "muster: %v\n", err)
					return exitStatus(128 + int(syscall.SIGINT))
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "muster: error: %s\n", harmless(err.Error()))
				return exitStatus(exitMuster)
			}
			if status != 0 {
				return exitStatus(status)
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.SetInterspersed(false)
	flags.IntVarP(&f.tasks, "tasks", "n", 1, "this `number` of tasks")
	flags.BoolVar(&f.spread, "spread", false, "no two tasks on one node")
	flags.StringVar(&f.on, "on", "", "only on these `nodes`, as n1, n[1-4,7] or label:gpu")
	flags.IntVarP(&f.cores, "cores", "c", 1, "`cores` of each task")
	flags.IntVar(&f.cores, "cpus", 1, "`cores`: the same as --cores")
	flags.StringVar(&f.mem, "mem", "", "`memory` of each task, as 512M or 2G")
	flags.StringArrayVar(&f.send, "send", nil, "`file` or folder to send along; it is in the command's working directory under the same relative path")
	flags.StringArrayVar(&f.fetch, "fetch", nil, "`file` to bring back when the command has ended, from its working directory to the same relative path here")
	flags.StringVar(&f.name, "name", "", "`name` of the job (default: its command)")
	flags.BoolVarP(&f.detach, "detach", "d", false, "print the job's number and return; without -o the output goes to NAME-JOB.out here, where that is on a share")
	flags.BoolVar(&f.prefix, "prefix", false, "begin each line with its task")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal, as for an editor or a shell")
	flags.StringVarP(&f.output, "output", "o", "", "`file` on a share that the node writes output and errors to; %j is the job's number, %t the task's")
	flags.StringVarP(&f.errors, "error", "e", "", "`file` on a share for errors alone")
	flags.StringVar(&f.stdin, "stdin", "all", "`who` reads the input: all tasks, the first or none")
	flags.BoolVar(&f.alone, "private", false, "work in an empty private folder, not in this one")
	flags.StringSliceVar(&f.allow, "allow", nil, "`containers`: let the command make user namespaces, mounts in them and FUSE file systems, as Apptainer and bubblewrap do; the cluster has to allow it, and such a task cannot move")
	flags.StringVar(&f.time, "time", "", "")
	flags.Lookup("time").Hidden = true
	c.Annotations = map[string]string{"status": `Exit status: the command's (128 + signal, 126 and 127 as a shell says them; the
highest of several tasks), 255 when muster itself failed, 2 for wrong use.`}
	_ = c.RegisterFlagCompletionFunc("on", at.completeNodeItems)
	_ = c.RegisterFlagCompletionFunc("allow", words(allowContainers))
	_ = c.RegisterFlagCompletionFunc("stdin", words("all", "first", "none"))
	for _, name := range []string{"tasks", "cores", "cpus", "mem", "name"} {
		_ = c.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return c
}

// runJob submits a job and stays with it to its end. It returns the exit
// status of the job.
func runJob(cmd *cobra.Command, at *headFlag, f runFlags, args []string) (int, error) {
	for name, what := range map[string]string{"output": "-o is given no name of a file", "error": "-e is given no name of a file", "on": "--on is given no nodes; leave it out for any"} {
		if l := cmd.Flags().Lookup(name); l.Changed && l.Value.String() == "" {
			return 0, usagef("%s", what)
		}
	}
	spec, err := f.spec(args)
	if err != nil {
		return 0, err
	}
	call, err := at.connect()
	if err != nil {
		return 0, err
	}
	if err := fetchPlaces(f.fetch); err != nil {
		return 0, err
	}
	// Signals belong to the job from here on: the command's own context,
	// which the first Ctrl-C ends, is of no use.
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	signals, stop := passSignals(ctx, f.tty)
	defer stop()
	// A reader of our output that goes away, as head -1 does, is an error of
	// the write, which the job gets as SIGPIPE, and not our own end.
	defer catchPipe()()

	if err := untilSignal(ctx, signals.passed, func(ctx context.Context) error {
		inShare(ctx, call.client, &spec)
		return sendFiles(ctx, call.client, spec.Files)
	}); err != nil {
		return 0, err
	}
	if f.detach {
		var j api.Job
		if err := untilSignal(ctx, signals.passed, func(ctx context.Context) (err error) {
			j, err = call.client.Submit(ctx, spec)
			return err
		}); err != nil {
			return 0, err
		}
		return 0, sayDetached(cmd, j)
	}
	out, errOut := cmd.OutOrStdout(), cmd.ErrOrStderr()
	spec.OneOutput = sameFile(out, errOut)
	run := client.RunOptions{Signals: signals.passed, Notice: func(text string) { fmt.Fprintf(errOut, "muster: %s\n", harmless(text)) }}
	waits := &waitNotice{say: run.Notice}
	defer waits.stop()
	run.Changed = waits.changed
	wrote := func() {}
	if spec.Stdin {
		run.Stdin = inForeground(cmd.InOrStdin())
	}
	if f.tty {
		screen := openScreen(cmd.InOrStdin(), cmd.OutOrStdout())
		defer screen.close()
		spec.Terminal, run.Windows = screen.window, screen.sizes(ctx)
		suspender := newSuspender(screen, signals)
		defer suspender.close()
		wrote = suspender.wrote
		run.Changed = func(j api.Job) {
			waits.changed(j)
			suspender.changed(j)
		}
	}
	run.Output = func(task int, stream api.Stream, data []byte) error {
		w := out
		if stream == api.Stderr {
			w = errOut
		}
		_, err := w.Write(data)
		wrote()
		return err
	}
	flush := func() {}
	if f.prefix {
		p := newPrefixer(out, errOut, spec.Tasks)
		run.Output, flush = p.write, p.flush
	}
	j, err := call.client.Run(ctx, spec, run)
	if err != nil {
		return 0, err // output may still be being written
	}
	flush()
	return fetchBack(cmd, call.client, j, jobStatus(errOut, j))
}

// sayDetached prints the number of a job that goes on alone and, beside it, where its output is.
func sayDetached(cmd *cobra.Command, j api.Job) error {
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), j.ID); err != nil {
		return err
	}
	_, err := fmt.Fprintf(cmd.ErrOrStderr(), "muster: output of job %d: %s\n", j.ID, harmless(outputOf(j)))
	return err
}

// jobStatus is the exit status of an ended job. What the job could not say
// itself is written to w.
func jobStatus(w io.Writer, j api.Job) int {
	for _, t := range j.Tasks {
		if t.Error != "" {
			fmt.Fprintf(w, "muster: task %d on %s: %s\n", t.Index, orWord(t.Node, "no node"), harmless(t.Error))
		}
	}
	if j.State == api.JobCanceled && j.Reason != "" {
		fmt.Fprintf(w, "muster: job %d: %s\n", j.ID, harmless(j.Reason))
	}
	switch {
	case j.ExitCode != 0:
		return j.ExitCode
	case j.State == api.JobFinished:
		return 0
	}
	if j.State != api.JobCanceled {
		fmt.Fprintf(w, "muster: job %d %s: %s\n", j.ID, j.State, orWord(harmless(j.Reason), "no reason is known"))
	}
	return exitMuster
}

// spec checks the flags and makes the job's specification of them. The
// hashes of files are still missing.
func (f runFlags) spec(args []string) (api.JobSpec, error) {
	switch {
	case f.time != "":
		return api.JobSpec{}, timeError("--time", f.time, args)
	case f.tty && len(args) > 0 && args[0] != "" && strings.Trim(args[0], "0123456789:-") == "":
		return api.JobSpec{}, timeError("-t", args[0], args[1:])
	case f.tty && f.detach:
		return api.JobSpec{}, usagef("-t -d: a detached job has nobody at its terminal; leave one out, and look at it later with: muster job attach")
	case f.stdin != "all" && f.stdin != "first" && f.stdin != "none":
		return api.JobSpec{}, usagef("--stdin %s: it is all, first or none", f.stdin)
	case len(args) == 0:
		return api.JobSpec{}, usagef("no command to run; as in: muster run hostname")
	case f.tasks < 1:
		return api.JobSpec{}, usagef("-n %d: a job has at least one task", f.tasks)
	case f.cores < 1:
		return api.JobSpec{}, usagef("-c %d: a task has at least one core", f.cores)
	}
	for _, what := range f.allow {
		if what != allowContainers {
			return api.JobSpec{}, usagef("--allow %s: what can be allowed is %s", what, allowContainers)
		}
	}
	mem, err := parseMemory(f.mem)
	if err != nil {
		return api.JobSpec{}, err
	}
	if f.on != "" {
		if _, err := api.ParseNodeList(f.on); err != nil {
			return api.JobSpec{}, usagef("--on: %w", err)
		}
	}
	spec := api.JobSpec{
		Argv: args, Name: f.name, Tasks: f.tasks, Spread: f.spread, On: f.on, Cores: f.cores, MemMiB: mem,
		Detached: f.detach, Stdin: !f.detach && f.stdin != "none", StdinFirst: f.stdin == "first",
		Label: f.prefix, Env: passedEnvironment(os.Environ()), RequestID: rand.Text(),
		Private: f.alone || len(f.send) > 0 || len(f.fetch) > 0, Limits: ownLimits(), Containers: slices.Contains(f.allow, allowContainers),
	}
	umask := ownUmask()
	spec.Umask = &umask
	if err := f.places(&spec); err != nil {
		return api.JobSpec{}, err
	}
	for i, a := range spec.Argv {
		spec.Argv[i] = api.EncodeText(a)
	}
	if spec.Files, err = sentPaths(f.send); err != nil {
		return api.JobSpec{}, err
	}
	spec.Fetch, err = fetchPaths(f.fetch)
	return spec, err
}

// places fills in the working directory and the files for output.
func (f runFlags) places(spec *api.JobSpec) error {
	dir, err := workingDir()
	switch {
	case err != nil && !spec.Private:
		return err
	case err == nil:
		spec.Dir = api.EncodeText(dir)
	}
	const write, search = 2, 1
	spec.AutoOutput = dir != "" && f.detach && f.output == "" && syscall.Access(dir, write|search) == nil
	for _, p := range []struct {
		flag, file string
		to         *string
	}{{"-o", f.output, &spec.Output}, {"-e", f.errors, &spec.Errors}} {
		if p.file == "" {
			continue
		}
		if strings.HasSuffix(p.file, "/") {
			return usagef("%s %s: it is a folder; name a file in it", p.flag, p.file)
		}
		if spec.Private && !filepath.IsAbs(p.file) {
			return usagef("%s %s: the command works in a private folder that ends with it; name a file on a share from / on", p.flag, p.file)
		}
		if !filepath.IsAbs(p.file) {
			p.file = filepath.Join(dir, p.file)
		}
		*p.to = api.EncodeText(filepath.Clean(p.file))
	}
	return nil
}

// workingDir is the folder of the caller, by the name that the shell has for it where that
// is right: a share may be reached by a link.
func workingDir() (string, error) {
	dir, err := os.Getwd()
	if errors.Is(err, fs.ErrPermission) {
		dir, err = unix.Getwd() // whoever may not enter it may be in it
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", errors.New("this folder was removed: the command would not find it; cd to another one, or do without: --private")
		}
		return "", fmt.Errorf("finding the working directory: %w; cd to another one, or do without: --private", cause(err))
	}
	return filepath.Clean(dir), nil
}

// inShare names the working directory, and the files for output in it, by their way without links where only
// that leads into a share.
func inShare(ctx context.Context, c *client.Client, spec *api.JobSpec) {
	dir := api.DecodeText(spec.Dir)
	real, err := filepath.EvalSymlinks(dir)
	if spec.Private || dir == "" || err != nil || real == dir {
		return
	}
	list, err := c.Shares(ctx)
	if err != nil {
		return // submitting will say why
	}
	within := func(at string) bool {
		return slices.ContainsFunc(list.Items, func(s api.Share) bool { return at == s.Path || strings.HasPrefix(at, s.Path+"/") })
	}
	if within(dir) || !within(real) {
		return
	}
	for _, p := range []*string{&spec.Dir, &spec.Output, &spec.Errors} {
		if rest, ok := strings.CutPrefix(api.DecodeText(*p), dir); *p != "" && ok && (rest == "" || rest[0] == '/') {
			*p = api.EncodeText(real + rest)
		}
	}
}

// timeError says what to use in place of Slurm's time limit.
func timeError(flag, limit string, args []string) error {
	end := "10m"
	if _, err := strconv.Atoi(limit); err == nil {
		end = limit + "m"
	}
	return usagef("%s %s is how Slurm limits the time; tasks of muster run until they end, and timeout(1) ends them earlier: muster run timeout %s %s",
		flag, limit, end, orWord(strings.Join(args, " "), "COMMAND"))
}

// parseMemory reads 512M or 2G as mebibytes; "" is 0.
func parseMemory(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	num, unit := s[:len(s)-1], s[len(s)-1]
	n, err := strconv.ParseInt(num, 10, 40)
	if err == nil && n > 0 {
		switch unit {
		case 'M', 'm':
			return n, nil
		case 'G', 'g':
			return n << 10, nil
		case 'T', 't':
			return n << 20, nil
		}
	}
	return 0, usagef("--mem %s: write memory as 512M or 2G", s)
}

// cause is what the operating system said, without the operation and the
// path around it, for messages that name both already.
func cause(err error) error {
	var path *fs.PathError
	var call *os.SyscallError
	var op *net.OpError
	switch {
	case errors.As(err, &op):
		return cause(op.Err)
	case errors.As(err, &path):
		return cause(path.Err)
	case errors.As(err, &call):
		return call.Err
	}
	return err
}
