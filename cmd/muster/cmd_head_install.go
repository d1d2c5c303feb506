package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const unitPath = "/etc/systemd/system/muster-head.service"

func newHeadInstallCommand(o *headOptions) *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "install",
		Short: "Run the head as a service of systemd, now and at every boot",
		Long: `Make the user muster that the head's processes run as and the group muster-admin
of those who may operate the cluster, write
` + unitPath + ` with the flags given here, and start it.`,
		Example: "  sudo muster head install --interface eth1 --image compute",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			unit := headUnit(self, headFlags(cmd))
			if dryRun {
				_, err := fmt.Fprint(cmd.OutOrStdout(), unit)
				return err
			}
			if err := o.complete("on", "on", "on"); err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("installing a service takes root: run it with sudo")
			}
			if _, err := os.Stat("/run/systemd/system"); err != nil {
				return errors.New("this machine does not run systemd; start muster head from whatever starts services here (--dry-run prints the unit as a model)")
			}
			if err := makeUser(cmd); err != nil {
				return err
			}
			if err := os.WriteFile(unitPath, []byte(unit), 0o644); err != nil {
				return err
			}
			if err := command(cmd, "systemctl", "daemon-reload"); err != nil {
				return err
			}
			if err := command(cmd, "systemctl", "enable", "--now", "muster-head.service"); err != nil {
				return fmt.Errorf("%w; see: journalctl -u muster-head", err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "the head runs; see: muster status, journalctl -u muster-head")
			return err
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print the unit and do nothing")
	return c
}

func newHeadUninstallCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "uninstall",
		Short:   "Stop the service and remove it; the state folder stays",
		Example: "  sudo muster head uninstall",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("removing a service takes root: run it with sudo")
			}
			if _, err := os.Stat(unitPath); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("no service is installed: there is no %s", unitPath)
			}
			if err := command(cmd, "systemctl", "disable", "--now", "muster-head.service"); err != nil {
				return err
			}
			if err := os.Remove(unitPath); err != nil {
				return err
			}
			if err := command(cmd, "systemctl", "daemon-reload"); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "the service is removed; its state stays in %s\n", systemState)
			return err
		},
	}
}

// headFlags are the flags of a head as they were given, for its unit.
func headFlags(cmd *cobra.Command) []string {
	var args []string
	flags := cmd.InheritedFlags()
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Changed {
			return
		}
		// The service starts in another folder.
		word := func(v string) string {
			if abs, err := filepath.Abs(v); err == nil && (f.Name == "image" || f.Name == "state") {
				v = abs
			}
			return "--" + f.Name + "=" + v
		}
		if list, ok := f.Value.(interface{ GetSlice() []string }); ok {
			for _, v := range list.GetSlice() {
				args = append(args, word(v))
			}
			return
		}
		args = append(args, word(f.Value.String()))
	})
	return args
}

// headUnit is the systemd unit of a head that is started as self with args.
func headUnit(self string, args []string) string {
	words := append([]string{self, "head"}, args...)
	for i, w := range words {
		words[i] = unitQuote(w)
	}
	return `[Unit]
Description=Head of a muster cluster
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=` + strings.Join(words, " ") + `
Restart=on-failure
StateDirectory=muster
RuntimeDirectory=muster
RuntimeDirectoryMode=0755
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
`
}

// unitQuote quotes a word as systemd.service(5) reads it.
func unitQuote(w string) string {
	w = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(w)
	if strings.ContainsAny(w, " \t\"'") {
		return `"` + w + `"`
	}
	return w
}

// makeUser makes the user muster and the group muster-admin where they are
// missing.
func makeUser(cmd *cobra.Command) error {
	if _, err := user.LookupGroup("muster-admin"); err != nil {
		if err := command(cmd, "groupadd", "--system", "muster-admin"); err != nil {
			return err
		}
	}
	if _, err := user.Lookup("muster"); err == nil {
		return nil
	}
	return command(cmd, "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", systemState, "--shell", "/usr/sbin/nologin", "muster")
}

// command runs a program of the host; its output is part of the error.
func command(cmd *cobra.Command, name string, args ...string) error {
	out, err := exec.CommandContext(cmd.Context(), name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
