package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Machine is a machine that was started. Its methods may be called from any
// goroutine.
type Machine struct {
	cfg     Config
	console *console
	monitor *monitor
	input   io.WriteCloser // what is typed on the console; its end would be the end of the console
	kill    func() error
	done    chan struct{} // closed when QEMU and everything around it has ended
	err     error         // why it ended; valid after done
}

// Start starts a machine. It runs until the guest switches it off, [Machine.Quit]
// or [Machine.Kill] is called, or the process that started it ends in whatever
// way. Errors are about the machine not starting; a *Missing names what has to
// be installed.
func Start(cfg Config) (*Machine, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	m, err := start(cfg)
	if err != nil {
		return nil, fmt.Errorf("starting machine %s: %w", cfg.Name, err)
	}
	return m, nil
}

func start(cfg Config) (_ *Machine, err error) {
	qemu, err := findQEMU()
	if err != nil {
		return nil, err
	}
	var opened closers
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	f, err := cfg.firmwareFiles()
	if err != nil {
		return nil, err
	}
	raw, err := os.Create(cfg.path("console"))
	if err != nil {
		return nil, err
	}
	opened.add(raw)
	messages, err := os.Create(cfg.path("qemu"))
	if err != nil {
		return nil, err
	}
	defer messages.Close() // QEMU has its own copy

	cmd := exec.Command(qemu)
	var given closers // descriptors that QEMU gets, closed here once it has them
	defer given.close()
	give := func(file *os.File) int {
		given.add(file)
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
		return 2 + len(cmd.ExtraFiles)
	}
	ours, theirs, err := socketPair("QMP")
	if err != nil {
		return nil, err
	}
	opened.add(ours)
	f.qmp = give(theirs)
	var relays []*relay
	for _, n := range cfg.NICs {
		l, r, err := n.connect(give)
		if err != nil {
			return nil, err
		}
		if r != nil {
			opened.add(r)
			relays = append(relays, r)
		}
		f.nics = append(f.nics, l)
	}
	cmd.Args = append(cmd.Args, arguments(cfg, f)...)
	cmd.Stderr = messages
	// Its own process group: an interrupt from the terminal is for us, we end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	wait, err := startLocked(cmd)
	if err != nil {
		return nil, err
	}
	m := &Machine{
		cfg: cfg, console: newConsole(raw, cfg.Line), monitor: newMonitor(ours), input: input,
		kill: cmd.Process.Kill, done: make(chan struct{}),
	}
	m.log().Info("machine started", "part", "vm", "machine", cfg.Name, "firmware", cfg.Firmware, "kvm", cfg.Accel.KVM)
	go m.supervise(output, wait, relays, opened)
	return m, nil
}

// startLocked starts cmd from a thread that lives until it has ended, because the
// death signal comes when the starting thread ends. The returned function
// waits for the end of cmd; its pipes have to be read to the end before.
func startLocked(cmd *exec.Cmd) (wait func() error, err error) {
	started, waitNow, ended := make(chan error), make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-waitNow
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return func() error { close(waitNow); return <-ended }, nil
}

// supervise runs everything around QEMU until it ends.
func (m *Machine) supervise(output io.Reader, wait func() error, relays []*relay, opened closers) {
	var running sync.WaitGroup
	for _, r := range relays {
		running.Go(r.run)
	}
	began := time.Now()
	readErr := m.console.read(output)
	if readErr != nil {
		_ = m.kill() // its output is not taken any more, so it would hang
	}
	err := wait()
	opened.close() // ends the relays
	running.Wait()
	m.err = m.explain(err, readErr)
	m.log().Info("machine ended", "part", "vm", "machine", m.cfg.Name, "dur", time.Since(began), "err", m.err)
	close(m.done)
}

// explain turns QEMU's exit into an error that says what QEMU said.
func (m *Machine) explain(err, readErr error) error {
	if err == nil {
		return readErr
	}
	said, readMessages := os.ReadFile(m.cfg.path("qemu"))
	if readMessages != nil {
		return errors.Join(err, readMessages)
	}
	text := strings.TrimSpace(string(said[:min(len(said), 2000)]))
	if text == "" {
		return fmt.Errorf("QEMU of machine %s ended: %w", m.cfg.Name, errors.Join(err, readErr))
	}
	return fmt.Errorf("QEMU of machine %s ended: %w: %s", m.cfg.Name, errors.Join(err, readErr), text)
}

// Done is closed when the machine has ended and nothing of it is left running.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Wait waits for the end of the machine. It returns nil when the guest switched
// it off or [Machine.Quit] ended it, else how QEMU ended and what it said.
func (m *Machine) Wait() error {
	<-m.done
	return m.err
}

// Kill ends the machine at once, like pulling its plug, and waits until
// nothing of it is left. It may be called again, and after the end.
func (m *Machine) Kill() {
	_ = m.kill() // it may have ended already
	<-m.done
}

// Quit lets QEMU end the machine, like pulling its plug, and waits for it.
func (m *Machine) Quit() error {
	if err := m.monitor.command("quit"); err != nil {
		return err
	}
	return m.Wait()
}

// Reset restarts the machine, like its reset button.
func (m *Machine) Reset() error { return m.monitor.command("system_reset") }

// PowerButton presses the power button; what the guest does is its decision.
func (m *Machine) PowerButton() error { return m.monitor.command("system_powerdown") }

// Type sends text to the machine's serial console, as a person at a terminal types it: "\r" is Enter, "\x1b[B" the arrow down.
func (m *Machine) Type(text string) error {
	if _, err := io.WriteString(m.input, text); err != nil {
		return fmt.Errorf("typing on the console of machine %s: %w", m.cfg.Name, err)
	}
	return nil
}

// TakeOut takes the CD out of its drive, or pulls the USB stick.
func (m *Machine) TakeOut() error {
	if m.cfg.CDROM != "" {
		return m.monitor.commandWith("eject", map[string]any{"device": "cd", "force": true})
	}
	return m.monitor.commandWith("device_del", map[string]any{"id": stickID})
}

// Pause stops the machine's processors, and Resume lets them go on: a
// machine that is not heard although nothing happened to it.
func (m *Machine) Pause() error { return m.monitor.command("stop") }

// Resume undoes [Machine.Pause].
func (m *Machine) Resume() error { return m.monitor.command("cont") }

// WaitFor returns the first line of the serial console that re matches, among
// the last 5,000 and those to come; the last line may be unfinished. Lines
// are without control sequences. The error has the last lines in it.
func (m *Machine) WaitFor(ctx context.Context, re *regexp.Regexp) (string, error) {
	line, err := m.console.waitFor(ctx, re)
	if err != nil {
		return "", fmt.Errorf("machine %s: %w", m.cfg.Name, err)
	}
	return line, nil
}

// ConsoleTail returns the last n lines of the serial console.
func (m *Machine) ConsoleTail(n int) string { return m.console.tail(n) }

// ConsoleFile is the file that has all that the serial console said.
func (m *Machine) ConsoleFile() string { return m.cfg.path("console") }

func (m *Machine) log() *slog.Logger {
	if m.cfg.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return m.cfg.Log
}

func (cfg Config) path(kind string) string { return filepath.Join(cfg.Dir, cfg.Name+"."+kind) }

// firmwareFiles finds the firmware and makes the machine's own variables.
func (cfg Config) firmwareFiles() (files, error) {
	if cfg.Firmware == BIOS {
		for _, n := range cfg.NICs {
			if err := findROM(os.Stat, n.Model); err != nil {
				return files{}, err
			}
		}
		return files{}, nil
	}
	places := ovmfPlaces
	switch {
	case cfg.Cert != nil:
		places = ownKeyOVMFPlaces
	case cfg.SecureBoot:
		places = secureOVMFPlaces
	}
	fw, err := findOVMF(os.Stat, places)
	if err != nil {
		return files{}, err
	}
	vars, err := os.ReadFile(fw.vars)
	if err != nil {
		return files{}, fmt.Errorf("reading the firmware's variables: %w", err)
	}
	if cfg.Cert != nil {
		if vars, err = enroll(vars, cfg.Cert); err != nil {
			return files{}, fmt.Errorf("enrolling a certificate in the firmware's variables %s: %w", fw.vars, err)
		}
	}
	fw.vars = cfg.path("vars")
	if err := os.WriteFile(fw.vars, vars, 0o600); err != nil {
		return files{}, fmt.Errorf("writing the machine's variables: %w", err)
	}
	return files{fw: fw}, nil
}

// closers closes what was opened, once.
type closers struct{ all []io.Closer }

func (c *closers) add(x io.Closer) { c.all = append(c.all, x) }

func (c *closers) close() {
	for _, x := range c.all {
		_ = x.Close() // nothing is written through them that could be lost
	}
	c.all = nil
}
