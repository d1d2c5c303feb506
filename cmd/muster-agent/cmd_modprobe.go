package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"muster/internal/kmod"
)

// errQuiet is a failure of which nothing is to be said.
var errQuiet = errors.New("module not loaded")

// modprobeMain loads modules as modprobe(8) does. The kernel calls it with
// -q -- NAME, where NAME is often an alias that no module has: that is
// then a failure without words.
func modprobeMain(args []string, stderr io.Writer) error {
	f := flag.NewFlagSet("modprobe", flag.ContinueOnError)
	f.SetOutput(stderr)
	quiet := f.Bool("q", false, "say nothing about modules that do not exist")
	all := f.Bool("a", false, "load every NAME; there are no parameters")
	dir := f.String("d", "/lib/modules", "folder with the modules of each kernel release")
	f.Usage = func() {
		fmt.Fprintf(stderr, "usage: modprobe [-q] NAME [PARAMETER=VALUE...]\n       modprobe [-q] -a NAME...\n")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if f.NArg() == 0 {
		f.Usage()
		return errUsage
	}
	cmdline, _ := os.ReadFile("/proc/cmdline") // without it there are no parameters
	loader, err := kmod.NewLoader(kmod.LoaderConfig{
		Dir:  filepath.Join(*dir, kernelRelease()),
		Conf: kmod.ParseCmdline(string(cmdline)),
	})
	if err != nil {
		return err
	}
	names, params := f.Args()[:1], f.Args()[1:]
	if *all {
		names, params = f.Args(), nil
	}
	var errs []error
	for _, name := range names {
		err := loader.Load(name, params...)
		if nf := (*kmod.NotFoundError)(nil); *quiet && errors.As(err, &nf) {
			err = errQuiet
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
