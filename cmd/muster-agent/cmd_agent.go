package main

import (
	"context"
	"flag"
	"io"
	"net"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"muster/nodeagent/boot"
)

func agentMain(args []string, stderr io.Writer) error {
	f := flag.NewFlagSet("agent", flag.ContinueOnError)
	f.SetOutput(stderr)
	if err := f.Parse(args); err != nil {
		return errUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := boot.NewLog("muster-agent")
	params := boot.ReadParams("/")
	screen := boot.NewScreen(boot.ScreenConfig{Consoles: params.Consoles, Log: log})
	go screen.Run(ctx)
	var mu sync.Mutex
	st := boot.Status{State: boot.StateBooting, Head: params.Head}
	show := func(change func()) {
		mu.Lock()
		defer mu.Unlock()
		change()
		st.Problems = boot.Problems()
		screen.Show(st)
	}
	show(func() {})
	hw := boot.ReadHardware("/", params.BootMAC)
	network, err := boot.NewNetwork(boot.NetworkConfig{
		BootMAC:  params.BootMAC,
		UUID:     hw.UUID,
		HostName: boot.HostName,
		Changed: func(l *boot.Lease) {
			show(func() {
				st.Address = ""
				st.State = boot.StateBooting
				if l != nil {
					st.Address = l.Addr.String() + " on " + l.Link
					st.State = boot.StateConnecting
				}
			})
		},
		Waiting: func(why string) { show(func() { st.Why = why }) },
		Log:     log,
	})
	if err != nil {
		return err
	}
	return network.Run(ctx)
}

// headAddress adds the agents' port where the address has none.
func headAddress(s string) string {
	const port = "7421"
	if s == "" {
		return ""
	}
	if _, _, err := net.SplitHostPort(s); err == nil {
		return s
	}
	return net.JoinHostPort(strings.Trim(s, "[]"), port)
}
