package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"muster/api"
	"muster/api/client"
)

func newJobFetchCommand(at *headFlag) *cobra.Command {
	return &cobra.Command{
		Use:   "fetch JOB [FILE...]",
		Short: "Bring back the files that a job was started with --fetch for",
		Long: `Bring back the files that a job was started with --fetch for, all or those that
are named, into this folder under their own relative paths. Files of several
tasks get the task's number behind their name, where that is not in it. The head
keeps them until newer jobs need the room.`,
		Example: "  muster job fetch 17\n  muster job fetch 17 out.dat",
		Args:    cobra.MinimumNArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			j, err := jobByArg(cmd.Context(), call, args[0])
			if err != nil {
				return err
			}
			switch {
			case len(j.Spec.Fetch) == 0:
				return fmt.Errorf("job %d brings no files back: it was not started with --fetch", j.ID)
			case !j.State.Ended():
				return fmt.Errorf("job %d is %s; its files come back when it has ended: muster job attach %d", j.ID, j.State, j.ID)
			}
			files, err := call.client.JobFiles(cmd.Context(), j.ID)
			if err != nil {
				return err
			}
			if names := args[1:]; len(names) > 0 {
				if files, err = chosen(files, j, names); err != nil {
					return err
				}
			}
			missing, err := fetchFiles(cmd.Context(), call.client, j, files, func(f api.FetchedFile) {
				fmt.Fprintf(cmd.ErrOrStderr(), "muster: %s\n", notFetched(f))
			})
			if err == nil && missing {
				err = exitStatus(exitFailed)
			}
			return err
		}),
		ValidArgsFunction: at.completeJobs,
	}
}

// fetchPaths are the paths of --fetch as a job has them.
func fetchPaths(names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		path := filepath.Clean(name)
		if name == "" || !filepath.IsLocal(path) || path == "." {
			return nil, usagef("--fetch %s: it would not be below the working directory; name it from there", name)
		}
		if path = api.EncodeText(path); slices.Contains(out, path) {
			return nil, usagef("--fetch %s: it is named twice", name)
		}
		out = append(out, path)
	}
	return out, nil
}

// fetchPlaces tries, before anything runs, whether files can be put where they will come.
func fetchPlaces(names []string) error {
	for _, name := range names {
		dir := filepath.Dir(name)
		st, err := os.Stat(dir)
		for errors.Is(err, fs.ErrNotExist) && dir != "." {
			dir = filepath.Dir(dir)
			st, err = os.Stat(dir)
		}
		if err == nil && !st.IsDir() {
			err = syscall.ENOTDIR
		}
		if err == nil {
			const write, search = 2, 1
			err = syscall.Access(dir, write|search)
		}
		if err != nil {
			return usagef("--fetch %s: it could not be put into %s: %w", name, dir, cause(err))
		}
		if st, err := os.Stat(name); err == nil && st.IsDir() {
			return usagef("--fetch %s: a folder of that name is here", name)
		}
	}
	return nil
}

// fetchBack brings the files of an ended job back. status is the job's; where that is 0 and a file
// is missing it becomes 1.
func fetchBack(cmd *cobra.Command, c *client.Client, j api.Job, status int) (int, error) {
	if len(j.Spec.Fetch) == 0 {
		return status, nil
	}
	// The job has ended: signals are for this process again.
	ctx, stop := signal.NotifyContext(context.WithoutCancel(cmd.Context()), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	failed := func(err error) (int, error) {
		if status == 0 {
			return 0, err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "muster: error: %v\n", err)
		return status, nil
	}
	files, err := c.JobFiles(ctx, j.ID)
	if err != nil {
		return failed(fmt.Errorf("fetching files of job %d: %w", j.ID, err))
	}
	missing, err := fetchFiles(ctx, c, j, files, func(f api.FetchedFile) {
		if f.Task < len(j.Tasks) && j.Tasks[f.Task].Error != "" {
			return // why it could not start says more
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "muster: %s\n", notFetched(f))
	})
	if err != nil {
		return failed(err)
	}
	if missing && status == 0 {
		status = exitFailed
	}
	return status, nil
}

func notFetched(f api.FetchedFile) string {
	return fmt.Sprintf("%s of task %d was not fetched: %s", api.DecodeText(f.Path), f.Task, f.Error)
}

// chosen are those of files that are named, by the path of the job or that here.
func chosen(files []api.FetchedFile, j api.Job, names []string) ([]api.FetchedFile, error) {
	var out []api.FetchedFile
	for _, name := range names {
		n := len(out)
		for _, f := range files {
			if name == api.DecodeText(f.Path) || name == fetchedName(f, j) || f.File < len(j.Spec.Fetch) && name == api.DecodeText(j.Spec.Fetch[f.File]) {
				out = append(out, f)
			}
		}
		if len(out) == n {
			return nil, usagef("job %d brings no file %s back", j.ID, name)
		}
	}
	return out, nil
}

// fetchedName is the path that a fetched file gets here: its own, with the task's number behind it where
// several tasks would else have one name.
func fetchedName(f api.FetchedFile, j api.Job) string {
	path := api.DecodeText(f.Path)
	if j.Spec.Tasks > 1 && f.File < len(j.Spec.Fetch) && !namesTask(api.DecodeText(j.Spec.Fetch[f.File])) {
		path += "." + strconv.Itoa(f.Task)
	}
	return path
}

// namesTask tells whether a name has %t, which stands for the task's number, and not as a part of %%t.
func namesTask(name string) bool {
	for i := 0; i+1 < len(name); i++ {
		if name[i] == '%' {
			if name[i+1] == 't' {
				return true
			}
			if name[i+1] == '%' {
				i++
			}
		}
	}
	return false
}

// fetchFiles puts files of a job into this folder. It calls tell with those that are not there, and
// returns whether there were such.
func fetchFiles(ctx context.Context, c *client.Client, j api.Job, files []api.FetchedFile, tell func(api.FetchedFile)) (missing bool, err error) {
	for _, f := range files {
		if f.Error != "" {
			missing = true
			tell(f)
			continue
		}
		if err := fetchFile(ctx, c, j.ID, f, fetchedName(f, j)); err != nil {
			return missing, fmt.Errorf("fetching %s: %w; get it with: muster job fetch %d", fetchedName(f, j), err, j.ID)
		}
	}
	return missing, nil
}

// fetchFile puts one file in its place, as a whole.
func fetchFile(ctx context.Context, c *client.Client, job uint64, f api.FetchedFile, path string) error {
	if !filepath.IsLocal(path) {
		return fmt.Errorf("%q is not below this folder", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".muster-fetch-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone after the rename
	defer tmp.Close()
	if err := c.JobFile(ctx, job, f, tmp); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(fs.FileMode(f.Mode).Perm()), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
