package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"muster/builder"
	"muster/images"
)

// lockRequest is what `muster lock` was asked for.
type lockRequest struct {
	name   string // shipped definition or file
	lock   string // file; "": where a build looks for it
	cache  string // "": the user's
	write  bool
	asJSON bool
	stdout io.Writer
	stderr io.Writer
}

func newLockCommand() *cobra.Command {
	var r lockRequest
	c := &cobra.Command{
		Use:   "lock DEFINITION",
		Short: "Show which packages of an image are newer, and pin them",
		Long: `Ask the archive for the newest packages that a definition needs and show what
differs from its lock, how old that is, and which of the changes are security
updates. Nothing is written without --write.`,
		Example: `  muster lock compute                 # what a build --update would bring
  muster lock ./mine.yaml --lock mine.lock.json --write
  muster lock compute --json | jq .security`,
		GroupID: "admin",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.name, r.stdout, r.stderr = args[0], cmd.OutOrStdout(), cmd.ErrOrStderr()
			return lockImage(cmd.Context(), r)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return images.Shipped(), cobra.ShellCompDirectiveDefault
		},
	}
	f := c.Flags()
	f.StringVar(&r.lock, "lock", "", "`file` of the lock (default: lock.json in the folder of the definition's name)")
	f.StringVar(&r.cache, "cache", os.Getenv("MUSTER_CACHE"), "`folder` of fetched packages (default: muster in the user's cache folder)")
	f.BoolVarP(&r.write, "write", "w", false, "write the new lock")
	f.BoolVar(&r.asJSON, "json", false, "print as JSON")
	return c
}

func lockImage(ctx context.Context, r lockRequest) error {
	d, err := images.Load(r.name)
	if err != nil {
		return usageError{err}
	}
	cfg, err := builderConfig(d, "", r.cache)
	if err != nil {
		return err
	}
	if cfg.LockFile = r.lock; cfg.LockFile == "" {
		cfg.LockFile = filepath.Join(cfg.Out, "lock.json")
	}
	cfg.Log = newLogger(r.stderr, false)
	p := newProgress(r.stderr)
	cfg.Progress = p.show
	re, err := builder.Relock(ctx, cfg, r.write)
	p.end()
	if err != nil {
		return inputIsUsage(err)
	}
	report := lockReport{
		Name: d.Name, Lock: cfg.LockFile, Changed: re.Changed(), Written: r.write && re.Changed(),
		Date: re.Lock.Date, Request: re.Request, Changes: re.Changes,
	}
	if re.Old != nil {
		report.OldDate, report.AgeSeconds = &re.Old.Date, int64(re.Age/time.Second)
	}
	for _, c := range re.Changes {
		if c.Security {
			report.Security++
		}
	}
	if r.asJSON {
		return writeJSON(r.stdout, report)
	}
	return report.write(r.stdout)
}

// lockReport is what muster lock --json prints.
type lockReport struct {
	Name       string              `json:"name"` // of the definition
	Lock       string              `json:"lock"` // file
	OldDate    *time.Time          `json:"old_date,omitempty"`
	AgeSeconds int64               `json:"age_seconds,omitempty"` // of the old lock
	Date       time.Time           `json:"date"`                  // of the new one
	Request    string              `json:"request,omitempty"`     // what the definition asks for beyond the old lock
	Changed    bool                `json:"changed"`
	Written    bool                `json:"written"`
	Security   int                 `json:"security"` // changes that are security updates
	Changes    []images.LockChange `json:"changes"`
}

func (r lockReport) write(w io.Writer) error {
	head := fmt.Sprintf("there is no lock %s yet", r.Lock)
	if r.OldDate != nil {
		head = fmt.Sprintf("lock %s is of %s, %s old", r.Lock, r.OldDate.Format(time.DateOnly), span(time.Duration(r.AgeSeconds)*time.Second))
	}
	if _, err := fmt.Fprintln(w, head); err != nil {
		return err
	}
	if r.Request != "" {
		fmt.Fprintf(w, "the definition asks for other packages now: %s\n", r.Request)
	}
	if len(r.Changes) > 0 {
		t := table{head: []string{"SECURITY", "PACKAGE", "OLD", "NEW"}, whole: true}
		for _, c := range r.Changes {
			security := ""
			if c.Security {
				security = "yes"
			}
			t.add(security, c.Package, orDash(c.Old), orDash(c.New))
		}
		if err := t.write(w); err != nil {
			return err
		}
	}
	tail := "nothing is newer"
	switch {
	case r.Written:
		tail = fmt.Sprintf("changes: %d, security updates: %d; written to %s", len(r.Changes), r.Security, r.Lock)
	case r.Changed:
		tail = fmt.Sprintf("changes: %d, security updates: %d; nothing was written (--write does)", len(r.Changes), r.Security)
	}
	_, err := fmt.Fprintln(w, tail)
	return err
}
