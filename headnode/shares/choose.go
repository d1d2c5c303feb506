package shares

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"muster/api"
)

// found is what this machine has to serve folders with.
type found struct {
	root        bool
	exportfs    string // path of the program, of Debian's nfs-kernel-server
	kernelRuns  bool   // its threads do
	kernelHas   bool   // the kernel has or can load a server
	ganesha     string // path of the program
	ganeshaVFS  bool   // and of its part for local file systems
	ganeshaUnit bool   // Debian's unit for it is installed
	mtab        bool   // /etc/mtab, which ganesha reads
	port        int    // of ganesha
	owner       string // who has that port, when it is not our child; "": nobody
}

// choose says which engine serves folders: the kernel's server where it runs, which is better with locks and at power cuts,
// else ganesha. inUse serves some already and stays, since handles are of one engine.
func choose(f found, inUse api.ShareDriver) (api.ShareDriver, error) {
	unavailable := func(hint, format string, args ...any) (api.ShareDriver, error) {
		return "", &api.Error{Code: api.CodeUnavailable, Msg: fmt.Sprintf(format, args...), Hint: hint}
	}
	const external = "a server that exists needs nothing of it: muster share add HOST:/EXPORT"
	kernel := f.exportfs != "" && f.kernelRuns
	switch {
	case !f.root:
		return unavailable("start it with sudo; "+external, "this head does not run as root, so it cannot serve folders of its own")
	case inUse == api.ShareKernel && !kernel, inUse != api.ShareGanesha && f.exportfs != "" && !f.kernelRuns && f.kernelHas && f.ganesha == "":
		if f.exportfs == "" {
			return unavailable("install it again: apt install nfs-kernel-server", "nfs-kernel-server, which serves the other shares, is not installed any more")
		}
		return unavailable("start it with: systemctl enable --now nfs-kernel-server", "nfs-kernel-server is installed and does not run")
	case kernel && inUse != api.ShareGanesha:
		return api.ShareKernel, nil
	case f.ganesha == "" && inUse == api.ShareGanesha:
		return unavailable("install it again: apt install nfs-ganesha nfs-ganesha-vfs", "nfs-ganesha, which serves the other shares, is not installed any more")
	case f.ganesha == "" && f.kernelHas:
		return unavailable("apt install nfs-kernel-server; "+external, "this head has no NFS server to serve its folders with")
	case f.ganesha == "":
		return unavailable("apt install nfs-ganesha nfs-ganesha-vfs && systemctl disable --now nfs-ganesha; "+external, "this head has no NFS server to serve its folders with, and its kernel has none")
	case !f.ganeshaVFS:
		return unavailable("apt install nfs-ganesha-vfs", "nfs-ganesha is installed without its part for folders")
	case !f.mtab:
		return unavailable("make it: ln -s ../proc/self/mounts /etc/mtab", "nfs-ganesha cannot start: there is no /etc/mtab")
	case strings.HasPrefix(f.owner, "ganesha") && f.ganeshaUnit:
		return unavailable("muster starts one of its own; end that of the system: systemctl disable --now nfs-ganesha", "port %d is taken by the system's own nfs-ganesha (%s)", f.port, f.owner)
	case f.owner == kernelOwner:
		return unavailable("install what drives it: apt install nfs-kernel-server; or end it: systemctl disable --now nfs-server", "port %d is taken by the kernel's NFS server", f.port)
	case f.owner != "":
		return unavailable("end it, or have the head serve on another port: muster head --nfs-port", "port %d is taken by %s", f.port, f.owner)
	}
	return api.ShareGanesha, nil
}

// kernelOwner is who has a port that no process has.
const kernelOwner = "the kernel"

// look finds out what this machine has. own is the process of our ganesha, 0 when there is none.
func (s *Server) look(own int) found {
	f := found{root: os.Geteuid() == 0, port: s.cfg.Port}
	if !s.cfg.NoKernel {
		f.exportfs, _ = exec.LookPath(s.cfg.Exportfs)
	}
	f.ganesha, _ = exec.LookPath(s.cfg.Ganesha)
	globs := []string{"/usr/lib/*/ganesha/libfsalvfs.so", "/usr/lib/ganesha/libfsalvfs.so", "/usr/lib64/ganesha/libfsalvfs.so"}
	if s.cfg.GaneshaPlugins != "" {
		globs = []string{filepath.Join(s.cfg.GaneshaPlugins, "libfsalvfs.so")}
	}
	for _, glob := range globs {
		if names, err := filepath.Glob(glob); err == nil && len(names) > 0 {
			f.ganeshaVFS = true
		}
	}
	f.ganeshaUnit = exists("/lib/systemd/system/nfs-ganesha.service") || exists("/usr/lib/systemd/system/nfs-ganesha.service")
	f.mtab = exists("/etc/mtab")
	threads, err := os.ReadFile(s.cfg.Threads)
	n, _ := strconv.Atoi(strings.TrimSpace(string(threads)))
	f.kernelRuns = err == nil && n > 0
	f.kernelHas = f.kernelRuns || kernelHasNFSD()
	f.owner = portOwner(s.cfg.Port, own)
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// kernelHasNFSD tells whether the kernel has a server, built in, loaded or as a module.
func kernelHasNFSD() bool {
	if text, err := os.ReadFile("/proc/filesystems"); err == nil && bytes.Contains(text, []byte("\tnfsd\n")) {
		return true
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return false
	}
	names, err := filepath.Glob("/lib/modules/" + strings.TrimSpace(string(release)) + "/kernel/fs/nfsd/nfsd.ko*")
	return err == nil && len(names) > 0
}

// portOwner is who listens on a port, as "ganesha.nfsd (process 17)"; "" when nobody does or our
// own process.
func portOwner(port, own int) string {
	sockets := map[string]bool{}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if text, err := os.ReadFile(name); err == nil {
			for _, inode := range listeners(string(text), port) {
				sockets["socket:["+inode+"]"] = true
			}
		}
	}
	if len(sockets) == 0 {
		return ""
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return ""
	}
	for _, proc := range procs {
		fds, err := os.ReadDir(proc + "/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			to, err := os.Readlink(proc + "/fd/" + fd.Name())
			if err != nil || !sockets[to] {
				continue
			}
			if proc == fmt.Sprintf("/proc/%d", own) {
				return ""
			}
			comm, err := os.ReadFile(proc + "/comm")
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(comm)), filepath.Base(proc))
		}
	}
	return kernelOwner
}

// listeners are the sockets that listen on a port, by inode, of /proc/net/tcp (proc_net_tcp(5)).
func listeners(text string, port int) []string {
	var list []string
	want := fmt.Sprintf("%X", binary.BigEndian.AppendUint16(nil, uint16(port)))
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], ":"+want) {
			list = append(list, f[9])
		}
	}
	return list
}
