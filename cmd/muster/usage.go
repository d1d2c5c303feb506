package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// textWidth is what help and listings fit into.
const textWidth = 80

// usageText is the template of help: examples before flags, since they are what
// people look for, and how the program exits.
const usageText = `Usage:{{if and .Runnable (not (index .Annotations "group"))}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{$cmds := .Commands}}{{range $group := .Groups}}

{{.Title}}{{range $cmds}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if and .HasAvailableSubCommands (not .Groups)}}

Commands:{{range $cmds}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{(.LocalFlags.FlagUsagesWrapped 80) | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of {{.Parent.CommandPath}}:
{{(.InheritedFlags.FlagUsagesWrapped 80) | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

See "{{.CommandPath}} COMMAND --help" for more of a command.{{end}}

{{with index .Annotations "status"}}{{.}}{{else}}Exit status: 0 done, 1 failed, 2 wrong use or wrong input.{{end}}
`

// finishCommand gives c and its subcommands what all have: a word about what
// is wrong with arguments, flags and names of subcommands, in one line.
func finishCommand(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		asGroup(c)
	}
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			switch {
			case check(cmd, args) == nil:
				return nil
			case cmd.HasSubCommands():
				return unknownCommand(cmd, args[0])
			}
			return usagef("%s; see: %s --help", argumentsText(cmd, args), cmd.CommandPath())
		}
	}
	for _, sub := range c.Commands() {
		finishCommand(sub)
	}
}

// asGroup makes a command that has only subcommands refuse those it does not
// have.
func asGroup(c *cobra.Command) {
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations["group"] = "yes"
	c.Args = cobra.ArbitraryArgs
	c.ValidArgsFunction = cobra.NoFileCompletions
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknownCommand(cmd, args[0])
	}
}

// unknownCommand is the error for a subcommand that c does not have.
func unknownCommand(c *cobra.Command, name string) error {
	const near = 2 // letters of difference
	c.SuggestionsMinimumDistance = near
	mean := ""
	if names := c.SuggestionsFor(name); len(names) > 0 {
		mean = "; did you mean " + strings.Join(names, " or ") + "?"
	}
	return usagef("%s has no command %q%s see: %s --help", c.CommandPath(), name, orWord(mean, ";"), c.CommandPath())
}

// argumentsText says which argument is missing or one too many.
func argumentsText(cmd *cobra.Command, args []string) string {
	_, words, _ := strings.Cut(cmd.Use, " ")
	operands := strings.Fields(words)
	if len(args) < len(operands) {
		return fmt.Sprintf("%s: %s is missing", cmd.CommandPath(), strings.Trim(operands[len(args)], "[]."))
	}
	return fmt.Sprintf("%s: %q is one argument too many", cmd.CommandPath(), args[len(operands)])
}

// flagError is what is wrong with a flag, as wrong use.
func flagError(cmd *cobra.Command, err error) error {
	text := err.Error()
	var bad *pflag.InvalidValueError
	if errors.As(err, &bad) {
		f := bad.GetFlag()
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand
		}
		want := "it cannot be that"
		switch f.Value.Type() {
		case "int":
			want = "it takes a whole number"
		case "bool":
			want = "it takes true or false"
		}
		text = fmt.Sprintf("%s %s: %s", name, bad.GetValue(), want)
	}
	return usagef("%s; see: %s --help", text, cmd.CommandPath())
}
