package shares

import (
	"bufio"
	"bytes"
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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Times of a ganesha. One that ended is started again at once, then after waits that double.
const (
	ganeshaStart  = 20 * time.Second // to serve, on a busy machine
	ganeshaReload = 10 * time.Second
	ganeshaSettle = 150 * time.Millisecond // what a reload did not like is said after its end
	ganeshaEnd    = 8 * time.Second        // from SIGTERM to SIGKILL
	againFirst    = 200 * time.Millisecond
	againMost     = 10 * time.Second
	stableAfter   = 30 * time.Second
)

// ganesha is nfs-ganesha as a child. It runs while there is something to serve.
type ganesha struct {
	program string
	plugins string // folder of its parts for file systems; "": the one that it knows
	dir     string // for its configuration, log and what it has to remember
	port    int
	command func(name string, args ...string) *exec.Cmd
	log     *slog.Logger

	version int // its major version, as it said when it was started last; used by serve alone

	mu      sync.Mutex
	text    string // its configuration; "": nothing is to be served
	proc    *ganeshaProc
	stop    context.CancelFunc // ends keep
	done    chan struct{}      // closed when keep has ended
	lastErr error              // why it does not run
	failed  map[uint16]string  // exports that it did not take, by what it said
}

// ganeshaProc is one run of it.
type ganeshaProc struct {
	cmd     *exec.Cmd
	serving chan struct{} // closed when it serves
	ended   chan struct{} // closed when it has ended; err says how
	err     error

	mu    sync.Mutex
	heard chan string // lines of its log, while somebody waits for one; nil: nobody
}

func (g *ganesha) config() string   { return filepath.Join(g.dir, "ganesha.conf") }
func (g *ganesha) recovery() string { return filepath.Join(g.dir, "recovery") }

// pid is our process; 0: there is none.
func (g *ganesha) pid() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proc == nil {
		return 0
	}
	return g.proc.cmd.Process.Pid
}

// serve makes list what is exported. It is called by one goroutine at a time.
func (g *ganesha) serve(ctx context.Context, list []Export) (failed map[uint16]string, err error) {
	if len(list) == 0 {
		g.end()
		return nil, removeFile(g.config())
	}
	g.mu.Lock()
	running := g.done != nil
	g.mu.Unlock()
	if !running {
		g.version = g.askVersion(ctx)
	}
	basics := ganeshaBasics{g.recovery(), g.plugins, g.port, g.version}
	text := ganeshaConfig(basics, list)
	for _, dir := range []string{g.recovery(), g.plugins} {
		if err := checkDir(dir); err != nil && dir != "" {
			return nil, fmt.Errorf("a folder of nfs-ganesha: %w", err)
		}
	}
	if err := checkGanesha(text, basics, list); err != nil {
		return nil, fmt.Errorf("checking the configuration of nfs-ganesha: %w", err)
	}
	if err := os.MkdirAll(g.recovery(), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of nfs-ganesha: %w", err)
	}
	g.mu.Lock()
	old, proc, lost := g.text, g.proc, g.failed
	g.mu.Unlock()
	if text != old {
		if err := writeFile(g.config(), text); err != nil {
			return nil, err
		}
		g.mu.Lock()
		g.text = text
		g.mu.Unlock()
	}
	switch {
	case !running:
		g.begin()
		return g.wait(ctx)
	case proc == nil || !closed(proc.serving):
		return g.wait(ctx)
	case text == old && len(lost) == 0:
		return nil, nil
	}
	failed, err = g.reload(ctx, proc)
	if err != nil && !closed(proc.ended) {
		// What it could not read took nothing from the nodes yet, or all: the file that it had is right.
		g.log.Error("nfs-ganesha did not take its exports", "err", err)
		if back := writeFile(g.config(), old); back == nil {
			g.mu.Lock()
			g.text = old
			g.mu.Unlock()
			_, back = g.reload(ctx, proc)
			return nil, errors.Join(err, back)
		}
	}
	return failed, err
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

var versionPattern = regexp.MustCompile(`Release = V(\d+)\.`)

// askVersion is its major version, 0 when it does not say.
func (g *ganesha) askVersion(ctx context.Context) int {
	program, err := exec.LookPath(g.program)
	if err != nil {
		return 0 // said when it is started
	}
	cmd := g.command(program, "-v")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return 0
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	_ = cmd.Wait() // what it said counts
	n := 0
	if m := versionPattern.FindSubmatch(out.Bytes()); m != nil {
		n, _ = strconv.Atoi(string(m[1]))
	}
	return n
}

// begin starts it, again and again.
func (g *ganesha) begin() {
	ctx, stop := context.WithCancel(context.Background())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stop, g.done, g.lastErr = stop, make(chan struct{}), nil
	go g.keep(ctx, g.done)
}

// end ends it.
func (g *ganesha) end() {
	g.mu.Lock()
	stop, done := g.stop, g.done
	g.mu.Unlock()
	if done == nil {
		return
	}
	stop()
	<-done
	g.mu.Lock()
	g.stop, g.done, g.text, g.failed = nil, nil, "", nil
	g.mu.Unlock()
}

// wait waits until it serves, or has failed to.
func (g *ganesha) wait(ctx context.Context) (map[uint16]string, error) {
	ctx, cancel := context.WithTimeout(ctx, ganeshaStart)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		g.mu.Lock()
		proc, err, failed := g.proc, g.lastErr, g.failed
		g.mu.Unlock()
		if proc != nil && closed(proc.serving) {
			return failed, nil
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("nfs-ganesha is starting, and does not serve yet")
		case <-tick.C:
		}
	}
}

// keep runs it until ctx is done.
func (g *ganesha) keep(ctx context.Context, done chan struct{}) {
	defer close(done)
	again := againFirst
	for ctx.Err() == nil {
		begin := time.Now()
		err := g.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > stableAfter {
			again = againFirst
		}
		g.mu.Lock()
		g.lastErr = fmt.Errorf("nfs-ganesha ended and is started again (%v); its log is %s", err, g.logName())
		g.mu.Unlock()
		g.log.Error("nfs-ganesha ended and is started again", "err", err, "wait", again, "log", g.logName())
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
		again = min(2*again, againMost)
	}
}

func (g *ganesha) logName() string { return filepath.Join(g.dir, "ganesha.log") }

// run runs it once, to its end.
func (g *ganesha) run(ctx context.Context) error {
	if owner := portOwner(g.port, 0); owner != "" {
		return fmt.Errorf("port %d is taken by %s", g.port, owner)
	}
	program, err := exec.LookPath(g.program)
	if err != nil {
		return fmt.Errorf("finding nfs-ganesha: %w", err)
	}
	logFile, err := openLog(g.logName())
	if err != nil {
		return err
	}
	defer logFile.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := g.command(program, "-F", "-f", g.config(), "-L", "STDERR", "-p", filepath.Join(g.dir, "ganesha.pid"))
	cmd.Stdout, cmd.Stderr = in, in
	cmd.Dir = "/"
	// The kernel sends the signal when the thread that started it ends, so this goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	err = cmd.Start()
	in.Close()
	if err != nil {
		return fmt.Errorf("starting nfs-ganesha: %w", err)
	}
	p := &ganeshaProc{cmd: cmd, serving: make(chan struct{}), ended: make(chan struct{})}
	failed := map[uint16]string{}
	g.mu.Lock()
	g.proc = p
	g.mu.Unlock()
	g.log.Info("nfs-ganesha started", "process", cmd.Process.Pid)
	read := make(chan struct{})
	go func() {
		defer close(read)
		g.read(out, logFile, p, failed)
	}()
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	select {
	case <-p.ended:
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(ganeshaEnd):
			_ = cmd.Process.Kill()
			<-p.ended
		}
	}
	out.SetReadDeadline(time.Now().Add(time.Second)) // a child of it may still have the other end
	<-read
	g.mu.Lock()
	g.proc = nil
	g.mu.Unlock()
	if p.err == nil {
		return errors.New("it ended by itself")
	}
	return p.err
}

// read follows the log of a run.
func (g *ganesha) read(from io.Reader, to io.Writer, p *ganeshaProc, failed map[uint16]string) {
	lines := bufio.NewReaderSize(from, 16<<10)
	for {
		raw, err := lines.ReadSlice('\n')
		if len(raw) > 0 {
			_, _ = to.Write(raw)
			line := strings.TrimSpace(string(raw))
			if id, ok := refusedExport(line); ok && !closed(p.serving) {
				failed[id] = refusedText
			}
			if strings.Contains(line, "NFS SERVER INITIALIZED") && !closed(p.serving) {
				g.mu.Lock()
				g.failed, g.lastErr = failed, nil
				g.mu.Unlock()
				close(p.serving)
			}
			p.tell(line)
			if worthSaying(line) {
				g.log.Warn("nfs-ganesha", "says", ganeshaText(line))
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (p *ganeshaProc) tell(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.heard <- line:
	default:
	}
}

func (p *ganeshaProc) listen(c chan string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = c
}

// reload has it read its exports again, and waits for what it says to them.
func (g *ganesha) reload(ctx context.Context, p *ganeshaProc) (map[uint16]string, error) {
	lines := make(chan string, 4096)
	p.listen(lines)
	defer p.listen(nil)
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return nil, fmt.Errorf("telling nfs-ganesha of its exports: %w", err)
	}
	failed := map[uint16]string{}
	late := time.NewTimer(ganeshaReload)
	defer late.Stop()
	var settled <-chan time.Time
	for {
		select {
		case <-settled:
			g.mu.Lock()
			g.failed = failed
			g.mu.Unlock()
			return failed, nil
		case <-late.C:
			return nil, errors.New("nfs-ganesha did not read its exports again")
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.ended:
			return nil, errors.New("nfs-ganesha ended when it read its exports again")
		case line := <-lines:
			if id, ok := refusedExport(line); ok {
				failed[id] = refusedText
			}
			switch {
			case strings.Contains(line, "Error while parsing"), strings.Contains(line, "syntax error"):
				return nil, fmt.Errorf("nfs-ganesha cannot read its exports: %s", ganeshaText(line))
			case strings.Contains(line, "Reread exports complete"):
				settled = time.After(ganeshaSettle)
			}
		}
	}
}

var refusedPattern = regexp.MustCompile(`Could not create export for \(/share-(\d+)\)`)

// refusedExport finds the export that a line says was not taken.
func refusedExport(line string) (uint16, bool) {
	m := refusedPattern.FindStringSubmatch(line)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1], 10, 16)
	return uint16(n), err == nil
}

const refusedText = "nfs-ganesha does not export it; its log says why"

// ganeshaText is a line without its time and place.
func ganeshaText(line string) string {
	f := strings.SplitN(line, " :", 5)
	return strings.TrimPrefix(f[len(f)-1], ":")
}

// noise is what every start says where there is no D-Bus, Kerberos or RADOS, none of which is needed.
var noise = regexp.MustCompile(`:DBUS :|principal nfs|keytab|gssd_refresh|Kerberos|realm name|RADOS|Cannot register NFS V4|IO_FLUSHER|DIRECTORY_SERVICES|unhook failed|Extra references`)

func worthSaying(line string) bool {
	return (strings.Contains(line, ":CRIT :") || strings.Contains(line, ":WARN :") || strings.Contains(line, ":MAJ :") || strings.Contains(line, ":FATAL :")) && !noise.MatchString(line)
}

const maxLog = 4 << 20

// openLog opens the log, and puts a long one aside.
func openLog(name string) (*os.File, error) {
	if info, err := os.Stat(name); err == nil && info.Size() > maxLog {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, fmt.Errorf("putting the log of nfs-ganesha aside: %w", err)
		}
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of nfs-ganesha: %w", err)
	}
	return f, nil
}

// writeFile replaces a file so that it is there, old or new, whatever happens.
func writeFile(name, text string) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err == nil {
		err = syncDir(filepath.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func removeFile(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
