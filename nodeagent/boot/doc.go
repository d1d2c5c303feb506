// Package boot turns a kernel that has just started into a machine with an
// address, and keeps it that way.
//
// It has two halves, in two processes of one program. PID 1 is [Init]
// (init.go): it mounts the pseudo file systems (mounts.go), leaves the
// kernel's first root (root.go), loads modules (early.go, coldplug.go,
// uevent.go), starts the agent and starts it again (supervise.go), feeds the
// watchdog and ends the machine in order (power.go, button.go). PID 1 never talks to the
// network. The agent uses the rest: [Network] (net.go) gets and keeps an
// address, [Screen] (screen.go) says on the consoles what the machine is and
// waits for, [Clock] follows the head's time, [KernelLog] (kmsg.go) reads
// what the kernel says, [ReadParams] (cmdline.go) what the machine was told,
// and [ReadHardware] (facts.go) what it is.
//
// Read init.go first, then net.go. What an initramfs holds, and under which
// paths, is in docs/initramfs.md.
//
// [Screen.Show] may be called from any goroutine. All else belongs to one
// goroutine, unless it says otherwise. Callbacks in a Config are called
// from the goroutines of Run and may not block.
package boot
