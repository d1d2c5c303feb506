package main

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"muster/api"
	"muster/api/client"
)

// headFlag is where the head is said to be.
type headFlag struct{ addr string }

// add gives a command the flag.
func (h *headFlag) add(c *cobra.Command) {
	c.PersistentFlags().StringVar(&h.addr, "head", os.Getenv("MUSTER_HEAD"), "the head: `path` of its socket or https address (MUSTER_HEAD)")
}

// caller is a command's connection with the head.
type caller struct {
	client *client.Client
}

// run makes a command's body of a function that needs the head.
func (h *headFlag) run(body func(cmd *cobra.Command, args []string, call *caller) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		call, err := h.connect()
		if err != nil {
			return err
		}
		return body(cmd, args, call)
	}
}

func (h *headFlag) connect() (*caller, error) {
	addr, err := client.Find(h.addr)
	if err != nil {
		return nil, err
	}
	c, err := client.New(addr)
	if err != nil {
		return nil, err
	}
	return &caller{client: c}, nil
}

// completeNodes completes the names of nodes, and the fingerprints of
// machines that have no name yet.
func (h *headFlag) completeNodes(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	call, err := h.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := call.client.Nodes(contextOf(cmd))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, n := range list.Items {
		if name := orWord(n.Name, orWord(n.Fingerprint, n.MAC)); strings.HasPrefix(name, prefix) {
			names = append(names, name+"\t"+string(n.State))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeNodeItems completes what a node list may hold: names of nodes and label:LABEL.
func (h *headFlag) completeNodeItems(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	names, directive := h.completeNodes(cmd, args, prefix)
	labels, _ := h.completeLabels(cmd, api.LabelItem(""), prefix)
	return append(names, labels...), directive
}

// contextOf is the context of a command; completion runs without one.
func contextOf(cmd *cobra.Command) context.Context {
	if ctx := cmd.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}
