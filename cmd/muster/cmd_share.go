package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"muster/api"
)

func newShareCommand(at *headFlag) *cobra.Command {
	c := &cobra.Command{
		Use:     "share",
		Short:   "Choose the directories that all nodes mount",
		GroupID: "admin",
		Long: `Choose the directories that all nodes mount, each at one path. A command that is
run in a folder of a share works in that folder on its node, with its user's
rights. The directories are folders of the head or on NFS servers;
docs/shares.md says what those need.`,
		Example: "  muster share add nas1:/tank/home --at /home\n  muster share add /srv/data\n  muster share list",
	}
	c.AddCommand(newShareAddCommand(at), newShareListCommand(at), newShareShowCommand(at), newShareRemoveCommand(at))
	return c
}

func newShareAddCommand(at *headFlag) *cobra.Command {
	var req api.ShareRequest
	c := &cobra.Command{
		Use:   "add HOST:/EXPORT|FOLDER",
		Short: "Have nodes mount a directory of a server, or a folder of the head",
		Long: `Have nodes mount a directory of an NFS server, or a folder of the head, at its
path there or at another one. An NFS server has to let the nodes in: their
addresses are printed. A folder of the head is served by the head itself, to
approved nodes only, with nfs-kernel-server or nfs-ganesha, whichever it has.`,
		Example: "  muster share add nas1:/tank/home --at /home\n  muster share add 10.1.0.9:/data --ro --to n[1-4]\n  muster share add /srv/data",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			req.Source = folderSource(args[0])
			s, err := call.client.AddShare(cmd.Context(), req)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if s.Driver != api.ShareExternal || s.Reason == "" {
				fmt.Fprintf(out, "%s is mounted at %s by %s\n", s.Source, s.Path, countText(len(s.Mounts), "node"))
			} else {
				fmt.Fprintf(out, "%s will be mounted at %s by %s as soon as its server serves: %s\n", s.Source, s.Path, countText(len(s.Mounts), "node"), harmless(s.Reason))
			}
			if s.Driver != api.ShareExternal {
				writeServed(out, s, req)
			}
			if len(s.Allow) > 0 {
				fmt.Fprintf(out, "the server has to let in: %s\n", strings.Join(s.Allow, " "))
			}
			fmt.Fprintf(out, "see how far the nodes are with: muster share show %s\n", s.Path)
			return nil
		}),
	}
	c.Flags().BoolVar(&req.NoRootSquash, "no-root-squash", false, "root of a node is root in this folder of the head, not nobody")
	c.Flags().StringVar(&req.At, "at", "", "`path` on the nodes (default: that of the export)")
	c.Flags().BoolVar(&req.ReadOnly, "ro", false, "for reading only")
	c.Flags().StringSliceVar(&req.To, "to", nil, "only for these `nodes` (n1, n[1-4] or label:gpu) or networks (10.1.0.0/16)")
	_ = c.RegisterFlagCompletionFunc("to", at.completeNodeItems)
	return c
}

// folderSource is what a share is of: a folder is named from /.
func folderSource(arg string) string {
	if host, _, ok := strings.Cut(arg, ":/"); ok && host != "" && !strings.Contains(host, "/") {
		return arg
	}
	if abs, err := filepath.Abs(arg); err == nil && (strings.Contains(arg, "/") || arg == "." || arg == ".." || isFolder(abs)) {
		return abs
	}
	return arg
}

func isFolder(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// writeServed says how the head serves a folder that was added.
func writeServed(w io.Writer, s api.Share, req api.ShareRequest) {
	if s.Source != req.Source {
		fmt.Fprintf(w, "%s is %s\n", req.Source, s.Source)
	}
	if s.Reason != "" {
		fmt.Fprintf(w, "it is not served yet: %s\n", s.Reason)
	}
	engine := map[api.ShareDriver]string{api.ShareKernel: "nfs-kernel-server", api.ShareGanesha: "nfs-ganesha"}[s.Driver]
	fmt.Fprintf(w, "the head serves it with %s, to approved nodes only\n", engine)
	for _, l := range s.Limits {
		if strings.HasPrefix(l, "file systems mounted") {
			fmt.Fprintln(w, l)
		}
	}
}

func newShareListCommand(at *headFlag) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List shares",
		Example: "  muster share list",
		Args:    cobra.NoArgs,
		RunE: at.run(func(cmd *cobra.Command, _ []string, call *caller) error {
			list, err := call.client.Shares(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), list)
			}
			return writeShares(cmd.OutOrStdout(), list.Items)
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func writeShares(w io.Writer, list []api.Share) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no shares; jobs work in private folders; add one with: muster share add HOST:/EXPORT or FOLDER")
		return err
	}
	t := table{head: []string{"PATH", "FROM", "RIGHTS", "STATE", "MOUNTED", "WHY"}}
	for _, s := range list {
		rights := "rw"
		if s.ReadOnly {
			rights = "ro"
		}
		mounted := 0
		for _, m := range s.Mounts {
			if m.State == "mounted" {
				mounted++
			}
		}
		t.add(s.Path, s.Source, rights, s.State, fmt.Sprintf("%d of %d", mounted, len(s.Mounts)), s.Reason)
	}
	return t.write(w)
}

func newShareShowCommand(at *headFlag) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "show PATH",
		Short:   "Show a share: who mounts it, what it can do, its limits",
		Example: "  muster share show /home",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			s, err := call.client.Share(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), s)
			}
			return writeShare(cmd.OutOrStdout(), s)
		}),
		ValidArgsFunction: at.completeShares,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return c
}

func writeShare(w io.Writer, s api.Share) error {
	rights := "reading and writing"
	if s.ReadOnly {
		rights = "reading"
	}
	if s.NoRootSquash {
		rights += ", root of nodes too"
	}
	for _, r := range [][2]string{
		{"path", s.Path},
		{"from", s.Source},
		{"driver", string(s.Driver)},
		{"rights", rights},
		{"for", orWord(strings.Join(s.To, " "), "all nodes")},
		{"state", s.State},
		{"why", s.Reason},
		{"lets in", strings.Join(s.Allow, " ")},
	} {
		if r[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-8s %s\n", r[0], r[1]); err != nil {
			return err
		}
	}
	for i, l := range s.Limits {
		name := "limits"
		if i > 0 {
			name = ""
		}
		fmt.Fprintf(w, "%-8s %s\n", name, l)
	}
	if len(s.Mounts) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := table{head: []string{"NODE", "STATE", "WHY"}}
	for _, m := range s.Mounts {
		t.add(m.Node, m.State, m.Reason)
	}
	return t.write(w)
}

func newShareRemoveCommand(at *headFlag) *cobra.Command {
	return &cobra.Command{
		Use:     "remove PATH",
		Aliases: []string{"rm"},
		Short:   "Have nodes unmount a share; its files stay where they are",
		Example: "  muster share remove /home",
		Args:    cobra.ExactArgs(1),
		RunE: at.run(func(cmd *cobra.Command, args []string, call *caller) error {
			if err := call.client.RemoveShare(cmd.Context(), args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is no share any more\n", args[0])
			return err
		}),
		ValidArgsFunction: at.completeShares,
	}
}

// completeShares completes the paths of shares.
func (h *headFlag) completeShares(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	call, err := h.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := call.client.Shares(contextOf(cmd))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var paths []string
	for _, s := range list.Items {
		if strings.HasPrefix(s.Path, prefix) {
			paths = append(paths, s.Path)
		}
	}
	return paths, cobra.ShellCompDirectiveNoFileComp
}

// countText is "1 node" or "3 nodes".
func countText(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
