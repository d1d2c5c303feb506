package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"muster/api"
)

// A machine that was started from a medium can go on with another image: the agent fetches kernel and
// initramfs into memory, adds a segment with what must outlive the change, has the kernel load both, and asks
// PID 1 to end everything and start them.

// Paths of the segment, below the root of the next initramfs.
const (
	kexecDir   = "etc/muster/kexec"
	kexecKey   = kexecDir + "/key"
	kexecState = kexecDir + "/state.json"
	// keptState is where the state stays for the next agents of the same boot, below the run directory.
	keptState = "kexec.json"
)

// signalKexec asks PID 1 to start the kernel that is loaded: SIGRTMIN+6, as the C library counts.
const signalKexec = unix.Signal(34 + 6)

// maxKexecFile bounds what is read of the segment.
const maxKexecFile = 64 << 10

// KexecState is what a machine takes along when it starts another image.
type KexecState struct {
	ImageID string `json:"image_id"`         // that was to be started
	From    string `json:"from"`             // image that ran before
	Medium  string `json:"medium,omitempty"` // that the machine was booted from
	Label   string `json:"label,omitempty"`  // of the medium
}

// kexecSegment is an initramfs segment with the session key and the state.
func kexecSegment(key []byte, st KexecState) ([]byte, error) {
	state, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	var b newc
	b.add(kexecDir, unix.S_IFDIR|0o700, nil)
	b.add(kexecKey, unix.S_IFREG|0o600, key)
	b.add(kexecState, unix.S_IFREG|0o600, state)
	b.add("TRAILER!!!", 0, nil)
	return b.buf, nil
}

// newc is a cpio archive as the kernel reads it (Documentation/driver-api/early-userspace/buffer-format.rst).
type newc struct {
	buf   []byte
	inode int
}

func (c *newc) add(name string, mode uint32, data []byte) {
	c.inode++
	links := 1
	if mode&unix.S_IFMT == unix.S_IFDIR {
		links = 2
	}
	fields := []int{c.inode, int(mode), 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0}
	c.buf = append(c.buf, "070701"...)
	for _, f := range fields {
		c.buf = fmt.Appendf(c.buf, "%08X", f)
	}
	c.buf = append(append(c.buf, name...), 0)
	c.pad()
	c.buf = append(c.buf, data...)
	c.pad()
}

func (c *newc) pad() {
	for len(c.buf)%4 != 0 {
		c.buf = append(c.buf, 0)
	}
}

// TakeKexec moves what came along from the image before out of the initramfs below root into runDir, and returns
// it; nil: the machine was not started by kexec. Agents that are started later in the same boot get it too. The key is
// where the agent looks for its own.
func TakeKexec(root, runDir string) (*KexecState, error) {
	if err := moveKey(filepath.Join(root, kexecKey), filepath.Join(runDir, "key")); err != nil {
		return nil, err
	}
	kept := filepath.Join(runDir, keptState)
	from := filepath.Join(root, kexecState)
	text, err := readLimited(from, maxKexecFile)
	if errors.Is(err, os.ErrNotExist) {
		text, err = readLimited(kept, maxKexecFile)
	} else if err == nil {
		err = writeFile(kept, text)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what the image before left: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(root, kexecDir)); err != nil {
		return nil, fmt.Errorf("removing what the image before left: %w", err)
	}
	var st KexecState
	if err := json.Unmarshal(text, &st); err != nil {
		return nil, fmt.Errorf("reading what the image before left: %w", err)
	}
	return &st, nil
}

// moveKey moves the session key. One that is there already stays: it is the one in use.
func moveKey(from, to string) error {
	key, err := readLimited(from, maxKexecFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the session key that the image before left: %w", err)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, os.ErrExist):
	case err != nil:
		return fmt.Errorf("keeping the session key: %w", err)
	default:
		_, err = f.Write(key)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("keeping the session key: %w", err)
		}
	}
	// What is deleted stays in memory until it is used anew.
	if err := os.WriteFile(from, make([]byte, len(key)), 0o600); err != nil {
		return fmt.Errorf("removing the session key from the initramfs: %w", err)
	}
	return os.Remove(from)
}

// KexecConfig is what [Kexec] needs. All is required but Stage.
type KexecConfig struct {
	Boot   api.BootImage
	Params Params // of this boot
	RunDir string // has the session key
	// Fetch writes content of the head to w and tells how much is there.
	Fetch func(ctx context.Context, ref api.BlobRef, w io.Writer, got func(have int64)) error
	Stage func(text string) // is told how far it is
}

// Kexec starts another image in the place of the one that runs. It returns nil when PID 1 is about to do it,
// and an error that says why it cannot be, for people; the machine is then as it was.
func Kexec(ctx context.Context, cfg KexecConfig) error {
	b := cfg.Boot
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading the kernel command line: %w", err)
	}
	available, err := memAvailable("/")
	if err != nil {
		return err
	}
	if need := kexecMemory(b.Kernel.Size + b.Initramfs.Size); available < need {
		return fmt.Errorf("not enough memory: starting it takes %d MiB, %d MiB are free", need>>20, available>>20)
	}
	key, err := os.ReadFile(filepath.Join(cfg.RunDir, "key"))
	if err != nil {
		return fmt.Errorf("reading the session key: %w", err)
	}
	segment, err := kexecSegment(key, KexecState{
		ImageID: b.ImageID, From: readWord("/", imageFile), Medium: cfg.Params.Medium, Label: cfg.Params.Label,
	})
	if err != nil {
		return err
	}
	kernel, err := cfg.fetch(ctx, b.Kernel, 0, b.Kernel.Size+b.Initramfs.Size)
	if err != nil {
		return err
	}
	defer kernel.Close()
	initramfs, err := cfg.fetch(ctx, b.Initramfs, b.Kernel.Size, b.Kernel.Size+b.Initramfs.Size)
	if err != nil {
		return err
	}
	defer initramfs.Close()
	// Segments begin at a multiple of four; the kernel skips zero bytes between them.
	if _, err := initramfs.Write(append(make([]byte, -b.Initramfs.Size&3), segment...)); err != nil {
		return fmt.Errorf("adding the session key to %s: %w", b.Initramfs.Name, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	cfg.stage("loading")
	if err := unix.KexecFileLoad(int(kernel.Fd()), int(initramfs.Fd()), kexecCmdline(b.Cmdline, cfg.Params, string(cmdline)), 0); err != nil {
		return kexecError(err, "/")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	cfg.stage("starting")
	return askInit(signalKexec)
}

func (cfg KexecConfig) stage(text string) {
	if cfg.Stage != nil {
		cfg.Stage(text)
	}
}

// fetch gets content into a file that is in memory alone. before bytes of all were there.
func (cfg KexecConfig) fetch(ctx context.Context, ref api.BlobRef, before, all int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("muster-"+ref.Name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making room for %s: %w", ref.Name, err)
	}
	f := os.NewFile(uintptr(fd), ref.Name)
	last := int64(-1)
	err = cfg.Fetch(ctx, ref, f, func(have int64) {
		if percent := (before + have) * 100 / all; percent != last {
			last = percent
			cfg.stage(fmt.Sprintf("%d %%", percent))
		}
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("fetching its %s: %w", ref.Name, err)
	}
	return f, nil
}

// kexecMemory is what must be free to start kernel and initramfs of that size together: they are fetched, read into the kernel, and
// copied to where the next kernel finds them.
func kexecMemory(size int64) int64 { return 3*size + 32<<20 }

// memAvailable is what the kernel could give away, in bytes.
func memAvailable(root string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return 0, fmt.Errorf("asking for free memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("asking for free memory: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("asking for free memory: the kernel does not say")
}

// kexecCmdline is the command line of the next kernel: that of the image, and what a person chose for
// this machine, at its boot menu or for its medium. now is the present one.
func kexecCmdline(image string, p Params, now string) string {
	words := []string{image}
	add := func(key, value string) {
		if value != "" {
			words = append(words, key+"="+value)
		}
	}
	add("muster.medium", p.Medium)
	add("muster.probe", p.Probe)
	if p.Consoles != nil {
		add("muster.console", strings.Join(append([]string{}, p.Consoles...), ","))
		if len(p.Consoles) == 0 {
			add("muster.console", "none")
		}
	}
	if p.BootMAC != nil {
		add("BOOTIF", "01-"+strings.ReplaceAll(p.BootMAC.String(), ":", "-"))
	}
	for _, w := range splitCmdline(now) {
		if key, _, _ := strings.Cut(w, "="); key == "debug" || key == "ignore_loglevel" || key == "loglevel" {
			words = append(words, w)
		}
	}
	return strings.Join(words, " ")
}

// kexecError says for people why the kernel did not take another one.
func kexecError(err error, root string) error {
	lockdown := strings.Contains(readWord(root, "sys/kernel/security/lockdown"), "[none]")
	locked := readWord(root, "sys/kernel/security/lockdown") != "" && !lockdown
	switch {
	case errors.Is(err, unix.ENOSYS):
		return errors.New("the kernel that runs cannot start another one (it has no kexec_file_load)")
	case errors.Is(err, unix.EPERM) && readWord(root, "proc/sys/kernel/kexec_load_disabled") == "1":
		return errors.New("starting another kernel is switched off (kernel.kexec_load_disabled)")
	case errors.Is(err, unix.EKEYREJECTED), errors.Is(err, unix.ENOKEY), errors.Is(err, unix.ENODATA), errors.Is(err, unix.EBADMSG),
		errors.Is(err, unix.EPERM) && locked:
		return fmt.Errorf("its kernel is not signed by a key that this machine trusts, which Secure Boot asks for (%w)", err)
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.ELIBBAD), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("its kernel is none that can be started, or is damaged (%w)", err)
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("not enough memory to load it (%w)", err)
	}
	return fmt.Errorf("the kernel refuses to load it: %w", err)
}

// kexecLoaded tells whether a kernel is loaded that can be started.
func kexecLoaded(root string) bool { return readWord(root, "sys/kernel/kexec_loaded") == "1" }
