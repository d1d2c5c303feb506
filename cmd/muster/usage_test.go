package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// TestHelp: every verb has an example and says how it exits, in lines that a
// terminal of 80 columns shows whole.
func TestHelp(t *testing.T) {
	root := newRoot()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		var b bytes.Buffer
		c.SetOut(&b)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		if c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, word := range []string{"Usage:\n", "Exit status: "} {
			if !strings.Contains(b.String(), word) {
				t.Errorf("help of %s does not say %q", c.CommandPath(), word)
			}
		}
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > textWidth {
				t.Errorf("help of %s has a line of %d columns, want at most %d: %s", c.CommandPath(), n, textWidth, line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// TestWrongUse: what is wrong with a command line is said in one line, with
// the next step, and is status 2.
func TestWrongUse(t *testing.T) {
	for args, want := range map[string]string{
		"bogus":               `muster has no command "bogus"; see: muster --help`,
		"nod":                 `muster has no command "nod"; did you mean job or node? see: muster --help`,
		"job cancle":          `muster job has no command "cancle"; did you mean cancel? see: muster job --help`,
		"head bogus":          `muster head has no command "bogus"; see: muster head --help`,
		"node show":           `muster node show: NODE is missing; see: muster node show --help`,
		"node show a b":       `muster node show: "b" is one argument too many; see: muster node show --help`,
		"config set rejoin":   `muster config set: VALUE is missing; see: muster config set --help`,
		"job cancel":          `muster job cancel: JOB is missing; see: muster job cancel --help`,
		"run -n x y":          `-n x: it takes a whole number; see: muster run --help`,
		"run --nosuch y":      `unknown flag: --nosuch; see: muster run --help`,
		"run":                 `no command to run; as in: muster run hostname`,
		"run -t -d y":         `-t -d: a detached job has nobody at its terminal; leave one out, and look at it later with: muster job attach`,
		"run --time=1:00 y":   `--time 1:00 is how Slurm limits the time; tasks of muster run until they end, and timeout(1) ends them earlier: muster run timeout 10m y`,
		"run --send nosuch y": `--send nosuch: no such file or directory`,
		"run --send /etc/a y": `--send /etc/a: it would not be below the working directory; cd to its folder and name it from there`,
		"head --api-port -1":  `--api-port=-1: ports go from 1 to 65535, and 0 is none`,
		"head --dhcp no":      `--dhcp=no: say auto, full, proxy or off`,
	} {
		t.Run(args, func(t *testing.T) {
			t.Setenv("MUSTER_HEAD", "/nosuch/head.sock")
			var out, errOut bytes.Buffer
			status := execute(t.Context(), strings.Fields(args), strings.NewReader(""), &out, &errOut)
			if got := errOut.String(); got != "muster: error: "+want+"\n" {
				t.Errorf("muster %s says\n%swant\nmuster: error: %s", args, got, want)
			}
			if status != exitUsage {
				t.Errorf("muster %s exits with %d, want %d", args, status, exitUsage)
			}
			if out.Len() > 0 {
				t.Errorf("muster %s writes %q to its output", args, out.String())
			}
		})
	}
}
