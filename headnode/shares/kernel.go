package shares

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// kernel is the head's nfs-kernel-server. A file of our own in its exports folder is what is served after its next start;
// exportfs adds and removes single entries now. "exportfs -r" would remove what administrators exported by hand.
type kernel struct {
	file     string // /etc/exports.d/muster.exports
	etab     string // /var/lib/nfs/etab: what is exported now
	exportfs string // the program
	run      func(ctx context.Context, name string, args ...string) ([]byte, error)
	log      *slog.Logger
}

// entry is an export to one client.
type entry struct{ dir, client string }

// kernelEntries are exports as single entries, with their options.
func kernelEntries(list []Export) map[entry]string {
	all := map[entry]string{}
	for _, e := range list {
		for _, a := range e.addrs() {
			all[entry{e.Dir, a.String()}] = e.kernelOptions()
		}
	}
	return all
}

// kernelOptions are the options of an export: what is acknowledged is on the disk, requests come from
// privileged ports, and file systems mounted below are exported with it.
func (e Export) kernelOptions() string {
	access := "rw"
	if e.ReadOnly {
		access = "ro"
	}
	_, squash := e.squash()
	return strings.Join([]string{access, "sync", "secure", "no_subtree_check", "crossmnt", squash, "anonuid=65534", "anongid=65534", "fsid=" + e.fsid()}, ",")
}

// exportsFile is our file in the exports folder (exports(5)). A folder without clients is left out: it
// would be exported to everybody.
func exportsFile(list []Export) string {
	var b strings.Builder
	b.WriteString("# Shares of muster; it writes this file. See: muster share list\n")
	for _, e := range list {
		addrs := e.addrs()
		if len(addrs) == 0 {
			continue
		}
		b.WriteString(escape(e.Dir))
		for _, a := range addrs {
			fmt.Fprintf(&b, " \\\n\t%s(%s)", a, e.kernelOptions())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// escape writes by octal numbers all that exports(5) could take for something else.
func escape(dir string) string {
	var b strings.Builder
	for i := range len(dir) {
		if c := dir[i]; wordByte(c) && c != ':' || c == '/' || c == '+' || c == ',' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "\\%03o", c)
		}
	}
	return b.String()
}

// exported is an entry of the table of exports.
type exported struct {
	entry
	options string
}

func (e exported) ours() bool { return strings.Contains(e.options, "="+fsidMark) }

// parseEtab reads the table of what the kernel's server exports.
func parseEtab(text string) []exported {
	var list []exported
	for line := range strings.Lines(text) {
		dir, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			continue
		}
		client, options, _ := strings.Cut(rest, "(")
		list = append(list, exported{entry{unescape(dir), client}, strings.TrimSuffix(strings.TrimSpace(options), ")")})
	}
	return list
}

func (k *kernel) table() ([]exported, error) {
	text, err := os.ReadFile(k.etab)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading what the kernel's NFS server exports: %w", err)
	}
	return parseEtab(string(text)), nil
}

// foreign tells whether the kernel's server exports a folder by somebody else's word.
func (k *kernel) foreign(dir string) bool {
	table, err := k.table()
	return err == nil && slices.ContainsFunc(table, func(e exported) bool { return e.dir == dir && !e.ours() })
}

// serve makes list what is exported by us.
func (k *kernel) serve(ctx context.Context, list []Export) (failed map[uint16]string, err error) {
	table, err := k.table()
	if err != nil {
		return nil, err
	}
	failed = map[uint16]string{}
	for _, e := range list {
		if slices.ContainsFunc(table, func(t exported) bool { return t.dir == e.Dir && !t.ours() }) {
			failed[e.ID] = fmt.Sprintf("the head's own exports have %s too; remove it there, in /etc/exports", e.Dir)
		}
	}
	list = slices.DeleteFunc(slices.Clone(list), func(e Export) bool { return failed[e.ID] != "" })
	text := exportsFile(list)
	if old, err := os.ReadFile(k.file); len(list) > 0 && (err != nil || string(old) != text) {
		if err := os.MkdirAll(filepath.Dir(k.file), 0o755); err != nil {
			return failed, fmt.Errorf("making the exports folder: %w", err)
		}
		if err := writeFile(k.file, text); err != nil {
			return failed, err
		}
	} else if len(list) == 0 {
		if err := removeFile(k.file); err != nil {
			return failed, fmt.Errorf("removing our exports: %w", err)
		}
	}
	want := kernelEntries(list)
	var gone []string
	for _, t := range table {
		options, wanted := want[t.entry]
		if t.ours() && (!wanted || !strings.Contains(t.options, options[strings.LastIndexByte(options, '='):])) {
			gone = append(gone, target(t.entry))
		} else if t.ours() {
			delete(want, t.entry)
		}
	}
	err = k.call(ctx, gone, "-u")
	byOptions := map[string][]string{}
	for e, options := range want {
		byOptions[options] = append(byOptions[options], target(e))
	}
	for _, options := range slices.Sorted(maps.Keys(byOptions)) {
		slices.Sort(byOptions[options])
		err = errors.Join(err, k.call(ctx, byOptions[options], "-o", options))
	}
	// exportfs also fails for what is not ours, as where there is no /etc/exports: the table decides.
	if err != nil && k.holds(list) {
		k.log.Debug("exportfs did it and said", "err", err)
		err = nil
	}
	return failed, err
}

// holds tells whether the table has the entries of list, and no other ones of ours.
func (k *kernel) holds(list []Export) bool {
	table, err := k.table()
	want := kernelEntries(list)
	for _, t := range table {
		if _, ok := want[t.entry]; t.ours() && !ok {
			return false
		}
		delete(want, t.entry)
	}
	return err == nil && len(want) == 0
}

// target is an entry as exportfs(8) takes it.
func target(e entry) string {
	if strings.Contains(e.client, ":") {
		return "[" + e.client + "]:" + e.dir
	}
	return e.client + ":" + e.dir
}

// call runs exportfs for some entries at a time.
func (k *kernel) call(ctx context.Context, targets []string, args ...string) error {
	for part := range slices.Chunk(targets, 64) {
		if out, err := k.run(ctx, k.exportfs, slices.Concat(args, part)...); err != nil {
			return fmt.Errorf("exportfs %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

func runProgram(ctx context.Context, name string, args ...string) ([]byte, error) {
	return exec.CommandContext(ctx, name, args...).CombinedOutput()
}
