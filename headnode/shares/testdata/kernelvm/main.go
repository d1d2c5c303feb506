// Command kernelvm is a machine that runs a test of the kernel's NFS server in itself.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"muster/internal/powercut/guest"
)

func main() { guest.Main(run) }

func run(ctx context.Context, _ []string) error {
	test := exec.CommandContext(ctx, "/shares.test", "-test.run=^TestKernelInside$", "-test.v")
	test.Env = append(os.Environ(), "MUSTER_KERNEL_VM=1", "PATH=/sbin")
	test.Stdout, test.Stderr = os.Stdout, os.Stdout
	if err := test.Run(); err != nil {
		return fmt.Errorf("the test: %w", err)
	}
	guest.Started()
	guest.Acknowledged("passed")
	<-ctx.Done()
	return nil
}
