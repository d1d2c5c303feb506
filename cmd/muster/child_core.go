package main

import (
	"context"
	"net"
	"path/filepath"

	"muster/headnode"
	"muster/headnode/shares"
)

// runCore is the process that knows the cluster: agents, users, records.
func runCore(ctx context.Context, env childEnv) error {
	cfg := headnode.Config{
		State: env.opts.State, AgentsPort: env.opts.AgentsPort, FilesPort: env.opts.FilesPort, HeadUID: uint32(env.opts.StartedBy),
		Desk: shares.Dial(env.opts.engineSocket()), NFSPort: env.opts.NFSPort,
		Tokens: filepath.Join(env.opts.State, "tokens"), Version: programVersion(), NoSync: env.opts.NoSync, Log: env.log,
	}
	for name, to := range map[string]*net.Listener{
		"agents": &cfg.Agents, "api": &cfg.Users, "api-tls": &cfg.UsersTCP, "internal": &cfg.Internal,
	} {
		if _, ok := env.files[name]; !ok {
			continue
		}
		l, err := env.listener(name)
		if err != nil {
			return err
		}
		*to = l
	}
	head, err := headnode.New(ctx, cfg)
	if err != nil {
		return err
	}
	return head.Run(ctx, env.ready)
}
