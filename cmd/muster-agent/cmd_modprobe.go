package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"muster/internal/kmod"
	"muster/nodeagent/boot"
	"muster/nodeagent/userland"
)

// errQuiet is a failure of which nothing is to be said.
var errQuiet = errors.New("module not loaded")

// modprobeTimeout bounds how long the kernel waits for a module that has to be fetched.
const modprobeTimeout = time.Minute

// moduleDir has the modules of the initramfs.
const moduleDir = "/lib/modules"

// modprobeMain loads modules as modprobe(8) does. The kernel calls it with
// -q -- NAME, where NAME is often an alias that no module has: that is
// then a failure without words.
func modprobeMain(args []string, stderr io.Writer) error {
	f := flag.NewFlagSet("modprobe", flag.ContinueOnError)
	f.SetOutput(stderr)
	quiet := f.Bool("q", false, "say nothing about modules that do not exist")
	all := f.Bool("a", false, "load every NAME; there are no parameters")
	dir := f.String("d", moduleDir, "folder with the modules of each kernel release")
	more := f.String("m", boot.UserlandModules, "folder with more of them, looked at where the first knows none")
	runDir := f.String("r", agentRunDir, "folder of the agent, which knows where the head has modules")
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
	ctx, cancel := context.WithTimeout(context.Background(), modprobeTimeout)
	defer cancel()
	conf, err := boot.ModuleConf("/")
	if err != nil { // a module without its parameters is better than none
		fmt.Fprintf(stderr, "modprobe: %v\n", err)
	}
	loaders, err := moduleLoaders(ctx, conf, *dir, *more, *runDir)
	if err != nil {
		return err
	}
	names, params := f.Args()[:1], f.Args()[1:]
	if *all {
		names, params = f.Args(), nil
	}
	var errs []error
	for _, name := range names {
		err := loadFirst(loaders, name, params)
		if *quiet && notFound(err) {
			err = errQuiet
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// moduleLoaders returns a loader for the first folder, and one for the second if
// it is there: the userland has the index of all modules, once it is mounted, and the head
// has the modules.
func moduleLoaders(ctx context.Context, conf kmod.Conf, dir, more, runDir string) ([]func() (*kmod.Loader, error), error) {
	first := filepath.Join(dir, kernelRelease())
	base, err := kmod.NewLoader(kmod.LoaderConfig{Dir: first, Conf: conf})
	if err != nil {
		return nil, err
	}
	loaders := []func() (*kmod.Loader, error){func() (*kmod.Loader, error) { return base, nil }}
	second := filepath.Join(more, kernelRelease())
	if _, err := os.Stat(filepath.Join(second, "modules.dep")); err != nil {
		return loaders, nil
	}
	kernel := &userland.FetchKernel{Dir: second, Base: first, Kernel: kmod.LinuxKernel{}, Fetch: func() (userland.Fetch, error) {
		files, err := userland.Files(runDir)
		if err != nil {
			return nil, err
		}
		return userland.FetchFrom(ctx, second, files)
	}}
	return append(loaders, sync.OnceValues(func() (*kmod.Loader, error) {
		return kmod.NewLoader(kmod.LoaderConfig{Dir: second, Conf: conf, Kernel: kernel})
	})), nil
}

// loadFirst loads a module from the first folder that knows it.
func loadFirst(loaders []func() (*kmod.Loader, error), name string, params []string) error {
	var err error
	for _, get := range loaders {
		var l *kmod.Loader
		if l, err = get(); err != nil {
			return err
		}
		if err = l.Load(name, params...); !notFound(err) {
			return err
		}
	}
	return err
}

func notFound(err error) bool {
	nf := (*kmod.NotFoundError)(nil)
	return errors.As(err, &nf)
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
