package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/kmod"
	"muster/nodeagent/loop"
)

// runDir is where PID 1 and the agent leave what each other may read.
const runDir = "/run/muster"

// problemsFile holds what PID 1 found wrong, a line each, for the screen.
const problemsFile = runDir + "/problems"

// InitConfig is what [Init] needs.
type InitConfig struct {
	Agent []string // argument vector of the agent; its first element is the program's path. Required
}

// Init is PID 1. It boots the machine, keeps the agent running, and returns
// only when the kernel refuses to end the machine. A step that goes wrong is
// logged and told on the screen; the others go on, since a machine that is
// half there can still say what it lacks.
//
// The signals that PID 1 takes: TERM, and INT (which the kernel sends for
// Ctrl-Alt-Del), start the machine again; USR1 halts it, USR2 and the power
// button switch it off; SIGRTMIN+6, as systemd has it, starts the kernel that was loaded by kexec.
func Init(cfg InitConfig) error {
	// What is mounted below the old root would be left behind: first of all
	// the new root.
	rootErr := leaveRootfs("/mnt")
	errs := mountPseudo(kernelMounter{}, "/")
	log := NewLog("muster-init")
	begin := Uptime()
	in := &initProcess{log: log, params: ReadParams("/")}
	in.problem(rootErr)
	for _, err := range append(errs, linkDev("/")...) {
		in.problem(err)
	}
	log.Info("init started", "up", begin, "root_up", Uptime())
	in.settings()
	return in.run(cfg)
}

// initProcess is PID 1 after its first mounts.
type initProcess struct {
	log    *slog.Logger
	params Params
	reaper reaper
	// sysctls are settings that the kernel does not know without its modules.
	sysctls []api.NodeSysctl

	mu       sync.Mutex
	problems []string // guarded by mu
}

// problem notes what went wrong. nil is nothing.
func (in *initProcess) problem(err error) {
	if err != nil {
		in.tell(err.Error())
	}
}

func (in *initProcess) tell(text string) {
	text = clean(text, 400)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.problems = append(in.problems, text)
	in.log.Warn("problem", "text", text)
	// On the console at once: the agent, which has the screen, may never
	// start.
	fmt.Fprintf(os.Stderr, "muster: problem: %s\r\n", text)
	if err := writeFile(problemsFile, []byte(strings.Join(in.problems, "\n")+"\n")); err != nil {
		in.log.Warn("problems not kept for the screen", "err", err)
	}
}

// settings makes the settings of the kernel that the machine wants.
func (in *initProcess) settings() {
	in.problem(os.MkdirAll(runDir, 0o755))
	for _, s := range [...]struct{ name, value string }{
		{"panic", "10"},            // seconds after which a dead kernel starts again
		{"printk_devkmsg", "on\n"}, // our own lines are not rate-limited; without the newline it is refused
	} {
		if err := os.WriteFile("/proc/sys/kernel/"+s.name, []byte(s.value), 0); err != nil {
			in.problem(fmt.Errorf("setting kernel.%s: %w", s.name, err))
		}
	}
	setup, err := ReadSetup("/")
	in.problem(err)
	unknown, errs := applySysctls("/proc/sys", setup.Sysctls)
	for _, err := range errs {
		in.problem(err)
	}
	in.sysctls = unknown
	if !in.params.Verbose {
		const consoleLevel = 8 // SYSLOG_ACTION_CONSOLE_LEVEL of syslog(2)
		// Errors and worse stay; the rest would draw over the screen.
		syscall.Syscall(unix.SYS_SYSLOG, consoleLevel, 0, 4) //nolint:errcheck
	}
	in.problem(delegateControllers("/sys/fs/cgroup"))
	// Ctrl-Alt-Del becomes SIGINT to PID 1 instead of a hard reset.
	in.problem(unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF))
	// Before any file system of the network is mounted; the node's own
	// name comes with its approval.
	in.problem(SetHostName(provisionalName("/", in.params.BootMAC)))
	os.Setenv("PATH", "/bbin:/bin:/sbin:/usr/bin:/usr/sbin")
	os.Setenv("HOME", "/root")
}

// run starts everything that goes on side by side, and ends with the machine.
func (in *initProcess) run(cfg InitConfig) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1, unix.SIGUSR2, signalKexec)

	// The kernel gathers entropy while somebody waits for it; so wait at
	// once, in a goroutine: without it the first key would.
	go unix.Getrandom(make([]byte, 16), 0) //nolint:errcheck

	agentLog, err := in.agentOutput()
	if err != nil {
		in.problem(err)
		agentLog = os.Stderr
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		in.problem(err)
		null = os.Stdin
	}
	go in.devices(ctx)
	go func() {
		in.problem(watchButton(ctx, func() { signals <- unix.SIGUSR2 }))
	}()
	agent := program{
		path: cfg.Agent[0],
		argv: cfg.Agent,
		attr: &syscall.ProcAttr{
			Dir:   "/",
			Env:   os.Environ(),
			Files: []uintptr{null.Fd(), agentLog.Fd(), agentLog.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		},
	}
	if err := writeFile(initMark, nil); err != nil {
		in.problem(err)
	}
	go in.reaper.keep(ctx, agent, in.log)

	for sig := range signals {
		cmd := 0
		switch sig {
		case unix.SIGCHLD:
			in.reaper.reap()
			continue
		case signalKexec:
			if !kexecLoaded("/") {
				in.tell("asked to start another kernel, but none is loaded")
				continue
			}
			cmd = unix.LINUX_REBOOT_CMD_KEXEC
		case unix.SIGUSR1:
			cmd = unix.LINUX_REBOOT_CMD_HALT
		case unix.SIGUSR2:
			cmd = unix.LINUX_REBOOT_CMD_POWER_OFF
		default:
			cmd = unix.LINUX_REBOOT_CMD_RESTART
		}
		in.log.Info("machine goes down", "signal", sig.String())
		// A console that stands still must not keep the machine.
		go fmt.Fprint(os.Stderr, "muster: state stopping\r\n")
		stop()
		if err := shutdown(&in.reaper, cmd, in.log); err != nil {
			return fmt.Errorf("ending the machine: %w", err)
		}
	}
	return nil
}

// devices loads the drivers of the devices that are there and of those that
// come later, until ctx is done.
func (in *initProcess) devices(ctx context.Context) {
	begin := Uptime()
	if err := loadEarly(); err != nil {
		in.problem(err)
	}
	// Before the mount, which hides the early modules.
	for _, text := range wholeProblems("/") {
		in.tell(text)
	}
	early := Uptime()
	dir := filepath.Join("/lib/modules", kernelRelease())
	if err := loop.Mount(moduleImage, dir); err != nil {
		in.problem(err)
	}
	mounted := Uptime()
	conf, err := ModuleConf("/")
	in.problem(err)
	loader, err := kmod.NewLoader(kmod.LoaderConfig{Dir: dir, Conf: conf, Log: in.log})
	if err != nil {
		in.problem(err)
		return
	}
	indexed := Uptime()
	plug := newPlugger(func(alias string) error { return loadAlias(loader, alias) }, in.log)
	plug.networkOnly = in.params.Probe == "network"
	scan := func() { deviceAliases("/sys", plug.add) }
	var work sync.WaitGroup
	work.Go(func() { plug.run(ctx) })
	socket, err := openUevents()
	if err != nil {
		in.problem(err)
	} else {
		work.Go(func() {
			in.problem(socket.read(ctx, func(b []byte) {
				if e, err := parseUevent(b); err == nil {
					in.appeared(ctx, plug, e)
				}
			}, scan))
		})
	}
	scan()
	in.log.Info("devices found", "begin", begin, "early", early, "mounted", mounted, "indexed", indexed, "scanned", Uptime())
	in.watchdog(ctx)
	for _, text := range imageProblems("/", in.params.Image) {
		in.tell(text)
	}
	log, err := readKernelLog()
	in.problem(err)
	for _, text := range kernelProblems(log) {
		in.tell(text)
	}
	in.lateSysctls(ctx)
	work.Wait()
}

// sysctlGrace is how long drivers may take to bring the settings that the kernel does not
// know without them.
const sysctlGrace = 10 * time.Second

// lateSysctls makes the settings that modules bring.
func (in *initProcess) lateSysctls(ctx context.Context) {
	for end := time.Now().Add(sysctlGrace); len(in.sysctls) > 0 && time.Now().Before(end) && wait(ctx, time.Second/2); {
		unknown, errs := applySysctls("/proc/sys", in.sysctls)
		for _, err := range errs {
			in.problem(err)
		}
		in.sysctls = unknown
	}
	for _, s := range in.sysctls {
		in.tell(fmt.Sprintf("setting %s: this kernel has no such setting, nor has a module that was loaded", s.Name))
	}
}

// appeared is called for each uevent.
func (in *initProcess) appeared(ctx context.Context, plug *plugger, e uevent) {
	if e.Action != "add" {
		return
	}
	plug.add(e.Modalias)
	if e.Subsystem == "watchdog" {
		in.watchdog(ctx)
	}
}

// loadAlias loads what an alias stands for. Most devices have a driver that is
// built in or not in the image; that is no error.
func loadAlias(l *kmod.Loader, alias string) error {
	if len(l.Index().Match(alias)) == 0 {
		return nil
	}
	return l.Load(alias)
}

// watchdog starts feeding the watchdog if there is one. To call it again is
// fine: a second opener of the device is refused.
func (in *initProcess) watchdog(ctx context.Context) {
	go func() {
		if err := feedWatchdog(ctx, "/dev/watchdog", in.log); err != nil {
			in.log.Info("watchdog not fed", "err", err)
		}
	}()
}

// agentOutput returns the file for an agent's standard error. A crash is
// written in pieces; they are put together to lines of the kernel's log, which
// survives the agent.
func (in *initProcess) agentOutput() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe for the agent: %w", err)
	}
	// It ends with the machine: PID 1 keeps w for the next agent.
	go copyLines(r, func(line string) { in.log.Warn("agent said", "text", line) })
	return w, nil
}

// Uptime is the time since the kernel started.
func Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano()).Round(time.Millisecond)
}

// Problems returns what PID 1 found wrong with this boot, a sentence each.
func Problems() []string {
	b, err := os.ReadFile(problemsFile)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}
