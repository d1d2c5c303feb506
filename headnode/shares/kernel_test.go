package shares

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeExportfs is exportfs(8) as far as it changes the table of exports, and a record of its calls.
type fakeExportfs struct {
	etab    string
	calls   []string
	fail    error
	grumble error // said although it was done
}

func (f *fakeExportfs) run(_ context.Context, name string, args ...string) ([]byte, error) {
	f.calls = append(f.calls, strings.Join(args, " "))
	if f.fail != nil {
		return []byte("exportfs: no\n"), f.fail
	}
	raw, err := os.ReadFile(f.etab)
	if err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(raw), "\n")
	var options string
	targets := args[1:]
	if args[0] == "-o" {
		options, targets = args[1], args[2:]
	}
	for _, to := range targets {
		i := strings.LastIndex(to, ":/")
		line := fmt.Sprintf("%s\t%s(", escape(to[i+1:]), strings.Trim(to[:i], "[]"))
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, line) })
		if options != "" {
			// As the program writes it, with all defaults.
			lines = append(lines, line+strings.Replace(options, "sync", "sync,wdelay,hide", 1)+",sec=sys)\n")
		}
	}
	if err := os.WriteFile(f.etab, []byte(strings.Join(lines, "")), 0o644); err != nil {
		return nil, err
	}
	return []byte("exportfs: can't open /etc/exports for reading\n"), f.grumble
}

func newTestKernel(t *testing.T, table string) (*kernel, *fakeExportfs) {
	dir := t.TempDir()
	f := &fakeExportfs{etab: filepath.Join(dir, "etab")}
	if err := os.WriteFile(f.etab, []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
	return &kernel{file: filepath.Join(dir, "exports.d", "muster.exports"), etab: f.etab, exportfs: "exportfs", run: f.run, log: slog.New(slog.DiscardHandler)}, f
}

// The table as exportfs of nfs-utils 2.6.2 writes it.
func TestParseEtab(t *testing.T) {
	const rest = "rw,sync,wdelay,hide,crossmnt,secure,root_squash,no_all_squash,no_subtree_check,secure_locks,acl,no_pnfs,fsid=6d757374-6572-8c64-a170-1f773c8aea91,anonuid=65534,anongid=65534,sec=sys,rw,root_squash,no_all_squash"
	got := parseEtab("/srv/engk/a\\040b\\043ü\tfd00::2(" + rest + ")\n/srv/$HOME\t*(ro,sec=sys)\nbroken\n")
	if len(got) != 2 || got[0].entry != (entry{"/srv/engk/a b#ü", "fd00::2"}) || !got[0].ours() || got[1].entry != (entry{"/srv/$HOME", "*"}) || got[1].ours() {
		t.Errorf("%+v", got)
	}
}

func TestKernel(t *testing.T) {
	const others = "/home\t192.168.1.0/24(rw,sync,fsid=0)\n/srv/old\t10.1.0.2(ro,fsid=12345678-0000-8000-8000-000000000000)\n"
	k, f := newTestKernel(t, others)
	a := Export{ID: 1, Dir: "/srv/a b", Clients: clients("10.1.0.2", "fd00::2")}
	b := Export{ID: 2, Dir: "/srv/b", ReadOnly: true, Clients: clients("10.1.0.2")}
	serve := func(want []string, list ...Export) {
		t.Helper()
		f.calls = nil
		if failed, err := k.serve(t.Context(), list); err != nil || len(failed) > 0 {
			t.Fatalf("%v, %v", failed, err)
		}
		if diff := cmp.Diff(want, f.calls); diff != "" {
			t.Errorf("calls of exportfs (-want +got):\n%s", diff)
		}
		raw, err := os.ReadFile(f.etab)
		if err != nil || !strings.HasPrefix(string(raw), others) {
			t.Errorf("the exports of others were touched: %s, %v", raw, err)
		}
		if text, err := os.ReadFile(k.file); len(list) > 0 && string(text) != exportsFile(list) || len(list) == 0 && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("our file is %q, %v", text, err)
		}
	}
	serve([]string{"-o " + a.kernelOptions() + " 10.1.0.2:/srv/a b [fd00::2]:/srv/a b"}, a)
	serve(nil, a)
	serve([]string{"-o " + b.kernelOptions() + " 10.1.0.2:/srv/b"}, a, b)
	a.Clients = clients("10.1.0.3", "fd00::2")
	serve([]string{"-u 10.1.0.2:/srv/a b", "-o " + a.kernelOptions() + " 10.1.0.3:/srv/a b"}, a, b)
	// Somebody called exportfs -ua, or the service was started again without our file.
	if err := os.WriteFile(f.etab, []byte(others), 0o644); err != nil {
		t.Fatal(err)
	}
	serve([]string{"-o " + b.kernelOptions() + " 10.1.0.2:/srv/b", "-o " + a.kernelOptions() + " 10.1.0.3:/srv/a b [fd00::2]:/srv/a b"}, a, b)
	// A number is new, the folder is not: clients of the old one find it gone.
	b.ID = 3
	serve([]string{"-u 10.1.0.2:/srv/b", "-o " + b.kernelOptions() + " 10.1.0.2:/srv/b"}, a, b)
	serve([]string{"-u 10.1.0.3:/srv/a b [fd00::2]:/srv/a b 10.1.0.2:/srv/b"})
	serve(nil)

	if !k.foreign("/home") || !k.foreign("/srv/old") || k.foreign("/srv/a b") {
		t.Error("exports of others are not told from ours")
	}
	c := Export{ID: 4, Dir: "/home", Clients: clients("10.1.0.2")}
	failed, err := k.serve(t.Context(), []Export{c, a})
	if err != nil || !strings.Contains(failed[4], "/etc/exports") || failed[1] != "" {
		t.Errorf("a folder that others export: %v, %v", failed, err)
	}
	f.grumble = errors.New("exit status 1")
	a.Clients = clients("10.1.0.6")
	if failed, err := k.serve(t.Context(), []Export{a}); err != nil || len(failed) > 0 {
		t.Errorf("exportfs does it and fails: %v, %v", failed, err)
	}
	f.fail = errors.New("exit status 1")
	a.Clients = clients("10.1.0.7")
	if _, err := k.serve(t.Context(), []Export{a}); !errors.Is(err, f.fail) || !strings.Contains(err.Error(), "exportfs: no") {
		t.Errorf("exportfs fails: %v", err)
	}
}
