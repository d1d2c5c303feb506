package main

import (
	"errors"

	"muster/nodeagent/boot"
)

// agentPath is this program in an initramfs.
const agentPath = "/init"

func initMain(pid int) error {
	if pid != 1 {
		return errors.New("init is for the kernel to start, as PID 1; to run an agent use: muster-agent agent")
	}
	return boot.Init(boot.InitConfig{Agent: []string{agentPath, "agent"}})
}
