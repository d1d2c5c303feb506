// Command powercut is a machine that is a head, and submits jobs to itself
// until its power is cut. At the start it says which jobs the head knows.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"

	"muster/api"
	"muster/api/client"
	"muster/internal/powercut/guest"
)

const (
	state  = guest.Disk + "/state"
	socket = state + "/run/head.sock"

	submitters = 4 // jobs that are submitted at a time
)

func main() { guest.Main(run) }

func run(ctx context.Context, args []string) error {
	ended, err := startHead(slices.Contains(args, "nosync"))
	if err != nil {
		return err
	}
	c, err := client.New(socket)
	if err != nil {
		return err
	}
	serving := make(chan error, 1)
	go func() {
		serving <- guest.Retry(ctx, func() error { _, err := c.Status(ctx); return err })
	}()
	select {
	case err = <-serving:
	case err = <-ended:
	}
	if err != nil {
		return fmt.Errorf("waiting for the head: %w", err)
	}
	if _, err := c.SetSetting(ctx, "root-jobs", "on"); err != nil {
		return fmt.Errorf("allowing jobs of root, as whom this runs: %w", err)
	}
	return work(ctx, c)
}

// startHead starts the head. The returned channel gets why it has ended.
func startHead(noSync bool) (<-chan error, error) {
	args := []string{"head", "--state", state, "--dhcp", "off", "--api-port", "0"}
	if noSync {
		args = append(args, "--no-sync")
	}
	head := exec.Command("/muster", args...)
	head.Env = []string{"PATH=/", "HOME=/"}
	out, err := head.StdoutPipe()
	if err != nil {
		return nil, err
	}
	head.Stderr = head.Stdout
	if err := head.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			fmt.Println("head:", lines.Text())
		}
		ended <- errors.Join(errors.New("muster head ended"), head.Wait())
	}()
	return ended, nil
}

// work says which jobs are there, and submits more for ever.
func work(ctx context.Context, c *client.Client) error {
	list, err := c.Jobs(ctx, true)
	if err != nil {
		return fmt.Errorf("listing jobs: %w", err)
	}
	for _, j := range list.Items {
		guest.Kept(fmt.Sprint(j.ID))
	}
	guest.Started()
	failed := make(chan error)
	for range submitters {
		go func() {
			for {
				j, err := c.Submit(ctx, api.JobSpec{Argv: []string{"true"}, Tasks: 1, Detached: true})
				if err != nil {
					failed <- fmt.Errorf("submitting: %w", err)
					return
				}
				guest.Acknowledged(fmt.Sprint(j.ID))
			}
		}()
	}
	return <-failed
}
