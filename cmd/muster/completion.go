package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"muster/api"
)

// describeCompletion says in our words what the completion command of cobra
// does.
func describeCompletion(root *cobra.Command) {
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Short = "Print what makes a shell complete the words of muster"
		c.Long = c.Short + "."
		c.Example = "  source <(muster completion bash)"
		for _, shell := range c.Commands() {
			shell.Short = "Print the completion script of " + shell.Name()
			shell.Long = shell.Short + "."
			shell.Example = "  muster completion " + shell.Name()
			if shell.Name() == "bash" {
				shell.Long += " It needs the package\nbash-completion."
				shell.Example = "  source <(muster completion bash)\n" +
					"  muster completion bash | sudo tee /etc/bash_completion.d/muster > /dev/null"
			}
		}
	}
}

// words completes one of a few words.
func words(list ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp)
}

// folders completes names of folders.
func folders(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completeSettings completes the keys of settings, and then the values that
// one may have.
func (h *headFlag) completeSettings(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	const nothing = cobra.ShellCompDirectiveNoFileComp
	call, err := h.connect()
	if err != nil {
		return nil, nothing
	}
	list, err := call.client.Settings(contextOf(cmd))
	if err != nil {
		return nil, nothing
	}
	byKey := map[string]api.Setting{}
	for _, s := range list.Items {
		byKey[s.Key] = s
	}
	choices := slices.Sorted(maps.Keys(byKey))
	switch {
	case len(args) == 1 && cmd.Name() == "set":
		choices = byKey[args[0]].Choices
	case len(args) > 0:
		return nil, nothing
	}
	return slices.DeleteFunc(slices.Clone(choices), func(c string) bool { return !strings.HasPrefix(c, prefix) }), nothing
}
