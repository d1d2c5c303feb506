package main

import (
	"bufio"
	"context"
	"errors"
	"io"

	"muster/nodeagent/boot"
	"muster/nodeagent/userland"
)

// exitAgain is the exit status of driversMain when some drivers could not be got from
// the head.
const exitAgain = 75

// errAgain says that some drivers could not be got from the head.
var errAgain = errors.New("the head did not give some drivers")

// driversMain loads the drivers for the device aliases in stdin, a line each, from
// all modules of the kernel. The agent starts it.
func driversMain(stdin io.Reader) error {
	ctx, cancel := context.WithTimeout(context.Background(), modprobeTimeout)
	defer cancel()
	conf, confErr := boot.ModuleConf("/") // drivers without their parameters are better than none
	loaders, err := moduleLoaders(ctx, conf, moduleDir, boot.UserlandModules, agentRunDir)
	if err != nil {
		return err
	}
	all, err := loaders[len(loaders)-1]() // the index that has most
	if err != nil {
		return err
	}
	errs := []error{confErr}
	for lines := bufio.NewScanner(stdin); lines.Scan(); {
		if alias := lines.Text(); len(all.Index().Match(alias)) > 0 {
			errs = append(errs, all.Load(alias))
		}
	}
	err = errors.Join(errs...)
	if fetch := (*userland.FetchError)(nil); errors.As(err, &fetch) {
		return errors.Join(errAgain, err)
	}
	return err
}
