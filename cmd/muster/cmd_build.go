package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"muster/builder"
	"muster/builder/uki"
	"muster/images"
	"muster/initramfs"
)

// buildRequest is what `muster build` was asked for.
type buildRequest struct {
	name     string // shipped definition or file
	output   string // folder; "": the name of the definition
	cache    string // "": the user's
	lock     string // "": lock.json in output
	update   bool
	locked   bool
	offline  bool
	fast     bool
	asJSON   bool
	verbose  bool
	signKey  string // files; "": nothing is signed
	signCert string
	stdout   io.Writer
	stderr   io.Writer
}

func newBuildCommand() *cobra.Command {
	var r buildRequest
	c := &cobra.Command{
		Use:   "build DEFINITION",
		Short: "Build an image for network boot, CD and USB stick",
		Long: `Build an image from a definition: a YAML file, or the name of one that muster
brings (` + strings.Join(images.Shipped(), ", ") + `). The output folder gets the kernel, the
initramfs, the userland, the network boot programs, NAME.iso for CD and USB
stick, NAME.efi for UEFI, the bill of materials, the lock that pins every
package, and manifest.json. What only an earlier image in the folder had is
removed. muster verify checks it all, muster image publish gives it to a head,
muster personalize tells NAME.iso which head to join.

The same lock gives the same bytes, whoever builds it and where; the time of all
files is that of the lock, or SOURCE_DATE_EPOCH. It takes neither root nor other
programs.

With --sign-key and --sign-cert NAME.efi starts where Secure Boot is on and the
certificate is enrolled in the firmware.`,
		Example: `  muster build compute
  muster build ./mine.yaml --output mine
  muster build compute --update        # with the newest packages
  muster build ./mine.yaml --sign-key site.key --sign-cert site.crt
  muster build ./mine.yaml --lock mine.lock.json --locked --offline`,
		GroupID: "start",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.name, r.stdout, r.stderr = args[0], cmd.OutOrStdout(), cmd.ErrOrStderr()
			return buildImage(cmd.Context(), r)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return images.Shipped(), cobra.ShellCompDirectiveDefault
		},
	}
	f := c.Flags()
	f.StringVarP(&r.output, "output", "o", "", "`folder` to write to (default: the definition's name)")
	f.StringVar(&r.cache, "cache", os.Getenv("MUSTER_CACHE"), "`folder` of fetched packages (default: muster in the user's cache folder)")
	f.BoolVar(&r.update, "update", false, "take the newest packages and write a new lock")
	f.StringVar(&r.lock, "lock", "", "`file` of the lock (default: lock.json in the output folder)")
	f.BoolVar(&r.locked, "locked", false, "fail if there is no lock or it does not fit the definition")
	f.BoolVar(&r.offline, "offline", false, "take packages from the cache only")
	f.BoolVar(&r.fast, "fast", false, "compress less: a second sooner, a tenth larger")
	f.StringVar(&r.signKey, "sign-key", "", "`file` with the key (PEM, RSA) that signs NAME.efi for Secure Boot")
	f.StringVar(&r.signCert, "sign-cert", "", "`file` with the certificate of that key (PEM or DER)")
	f.BoolVar(&r.asJSON, "json", false, "print the manifest")
	f.BoolVarP(&r.verbose, "verbose", "v", false, "log every step")
	_ = c.RegisterFlagCompletionFunc("output", folders)
	_ = c.RegisterFlagCompletionFunc("cache", folders)
	return c
}

func buildImage(ctx context.Context, r buildRequest) error {
	d, err := images.Load(r.name)
	if err != nil {
		return usageError{err}
	}
	cfg, err := builderConfig(d, r.output, r.cache)
	if err != nil {
		return err
	}
	cfg.LockFile, cfg.Update, cfg.Locked, cfg.Offline, cfg.Fast = r.lock, r.update, r.locked, r.offline, r.fast
	if cfg.Signer, err = readSigner(r.signKey, r.signCert); err != nil {
		return err
	}
	if err := addPayload(&cfg); err != nil {
		return err
	}
	cfg.Log = newLogger(r.stderr, r.verbose)
	if cfg.Signer != nil {
		warnSigner(cfg)
	}
	start := time.Now()
	p := newProgress(r.stderr)
	cfg.Progress = p.show
	m, err := builder.Build(ctx, cfg)
	p.end()
	if err != nil {
		return inputIsUsage(err)
	}
	if r.asJSON {
		return writeJSON(r.stdout, m)
	}
	return writeBuilt(r.stdout, cfg.Out, m, time.Since(start))
}

// builderConfig is what builds and locks of d have in common. Folders may be "": then they
// are the definition's name and the user's cache.
func builderConfig(d *images.Definition, output, cache string) (builder.Config, error) {
	cfg := builder.Config{Definition: d, Out: output, Cache: cache, Host: os.DirFS("/")}
	if cfg.Out == "" {
		cfg.Out = d.Name
	}
	var err error
	if cfg.Cache == "" {
		if cfg.Cache, err = builder.CacheDir(os.Getenv); err != nil {
			return cfg, err
		}
	}
	cfg.Time, err = sourceDate(os.Getenv("SOURCE_DATE_EPOCH"))
	return cfg, err
}

// readSigner reads key and certificate; nil where neither is given.
func readSigner(keyFile, certFile string) (*uki.Signer, error) {
	switch {
	case keyFile == "" && certFile == "":
		return nil, nil
	case keyFile == "" || certFile == "":
		return nil, usagef("--sign-key and --sign-cert belong together: a signature needs a key and its certificate")
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, usagef("reading the key to sign with: %w", err)
	}
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, usagef("reading the certificate to sign with: %w", err)
	}
	s, err := uki.NewSigner(keyFile, key, certFile, cert)
	if err != nil {
		return nil, usageError{err}
	}
	return s, nil
}

// warnSigner warns of what will be signed and will not do what people want.
func warnSigner(cfg builder.Config) {
	if w := cfg.Signer.Warning(time.Now()); w != "" {
		cfg.Log.Warn(w)
	}
	if cfg.Definition.Site.Head == "" {
		cfg.Log.Warn("the signed UKI will name no head, and cannot be personalized; put head and pin under site: in the definition", "image", cfg.Definition.Name)
	}
}

// inputIsUsage makes what a definition or a lock has wrong wrong use.
func inputIsUsage(err error) error {
	if errors.Is(err, builder.ErrInput) {
		return usageError{err}
	}
	return err
}

// addPayload adds the programs that muster carries.
func addPayload(cfg *builder.Config) error {
	for name, to := range map[string]*[]byte{"muster-agent": &cfg.Agent, "muster-init": &cfg.Init, "bb": &cfg.Busybox} {
		raw, err := payload(name)
		if err != nil {
			return err
		}
		*to = raw
	}
	meta, err := payloadFiles.ReadFile("payload/bb.json")
	if err != nil {
		return fmt.Errorf("reading the list of embedded tools: %w; run make in muster's source folder", err)
	}
	cfg.BusyboxInfo = &initramfs.Busybox{}
	if err := json.Unmarshal(meta, cfg.BusyboxInfo); err != nil {
		return fmt.Errorf("reading the list of embedded tools: %w", err)
	}
	return nil
}

// sourceDate reads SOURCE_DATE_EPOCH (reproducible-builds.org/specs).
func sourceDate(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseUint(s, 10, 32) // what squashfs has room for
	if err != nil {
		return time.Time{}, usagef("SOURCE_DATE_EPOCH=%s: it is seconds since 1970, before 2106", s)
	}
	return time.Unix(int64(n), 0).UTC(), nil
}

func writeBuilt(w io.Writer, dir string, m *images.Manifest, took time.Duration) error {
	if _, err := fmt.Fprintf(w, "image %s in %s, kernel %s, id %s (%.1f s)\n", m.Name, dir, m.Kernel, short(m.ID), took.Seconds()); err != nil {
		return err
	}
	t := table{head: []string{"FILE", "SIZE", "FROM"}}
	for _, a := range m.Artifacts {
		t.add(filepath.FromSlash(a.Name), size(a.Size), a.Package)
	}
	return t.write(w)
}

// progress shows how a build goes on: on a terminal a line that changes, else
// a line for every step, and for a long transfer one now and then.
type progress struct {
	w        io.Writer
	terminal bool
	now      func() time.Time
	last     time.Time // of the last line of a transfer
	open     bool      // a line without end stands on the terminal
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd())), now: time.Now}
}

// Intervals between lines about a transfer.
const (
	terminalEvery = 100 * time.Millisecond
	plainEvery    = 5 * time.Second
)

func (p *progress) show(e builder.Event) {
	if e.End {
		text := e.Detail
		if e.Cached {
			text = strings.TrimSpace(text + " (unchanged)")
		}
		p.line(fmt.Sprintf("%-10s %s", e.Step, text), true)
		return
	}
	every := plainEvery
	if p.terminal {
		every = terminalEvery
	}
	if p.now().Sub(p.last) < every {
		return
	}
	p.last = p.now()
	text := fmt.Sprintf("%-10s %s", e.Step, e.Detail)
	if e.Total > 0 {
		text += fmt.Sprintf(" %d %% of %s", 100*e.Done/e.Total, size(e.Total))
	}
	p.line(text, false)
}

func (p *progress) line(text string, done bool) {
	text = strings.TrimRight(text, " ")
	if p.terminal {
		text = strings.TrimRight(cut(text, textWidth-1), " ")
	}
	switch {
	case !p.terminal:
		fmt.Fprintln(p.w, text)
	case done:
		fmt.Fprintf(p.w, "\r\x1b[K%s\n", text)
		p.open = false
	default:
		fmt.Fprintf(p.w, "\r\x1b[K%s", text)
		p.open = true
	}
}

// end leaves the terminal with a clean line.
func (p *progress) end() {
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.open = false
	}
}
