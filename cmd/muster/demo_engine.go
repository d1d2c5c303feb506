package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"muster/builder"
	"muster/headnode"
	"muster/headnode/shares"
	"muster/images"
)

// The demo shares a folder without an NFS server on the computer that it runs on: to install Debian's nfs-ganesha would start
// it, and rpcbind and rpc.statd with it, on ports of all networks. So its packages are unpacked into the demo's folder, with the
// C library that they were made for, which makes one version do on every distribution, and it runs in the demo's own network.
//
// nfs-ganesha has to be root of the computer, for files by their handles; the rest of the demo belongs to who began it. The first
// process of the demo's namespaces (demoFirst) stays root for it, and the head asks it as it asks its keeper elsewhere.

// ganeshaProgram is nfs-ganesha in the folder that it was unpacked into.
const ganeshaProgram = "usr/bin/ganesha.nfsd"

// unpackGanesha fetches nfs-ganesha and unpacks it into a folder, if it is not there. What it asks for and does not use here is left out.
func unpackGanesha(ctx context.Context, dir string, stderr io.Writer) error {
	if _, err := os.Stat(filepath.Join(dir, ganeshaProgram)); err == nil {
		return nil
	}
	d, err := images.Load("compute-vm")
	if err != nil {
		return err
	}
	cfg, err := builderConfig(d, "", "")
	if err != nil {
		return err
	}
	cfg.Log = newLogger(stderr, false)
	if err := builder.Unpack(ctx, cfg, []string{"nfs-ganesha-vfs"}, []string{"dbus", "nfs-common", "rpcbind"}, dir); err != nil {
		return fmt.Errorf("fetching nfs-ganesha: %w", err)
	}
	return nil
}

// findEngine finds the NFS server, or says why the demo goes without.
func (o *demoOptions) findEngine(ctx context.Context, stderr io.Writer) {
	if os.Geteuid() != 0 && usableSudo() == "" {
		return // runInNamespaces says it
	}
	dir := o.Engine
	if dir == "" {
		dir = filepath.Join(o.Dir, "nfs-ganesha")
		if err := unpackGanesha(ctx, dir, stderr); err != nil {
			o.NoShare = err.Error()
			return
		}
	}
	var err error
	if o.Engine, err = filepath.Abs(dir); err != nil {
		o.Engine, o.NoShare = "", err.Error()
	}
}

// ganeshaIn finds what the program in a folder takes to run: the loader and libraries that it was made for, and its parts.
func ganeshaIn(dir string) (loader, libraries, plugins string, err error) {
	one := func(pattern string) string {
		names, globErr := filepath.Glob(filepath.Join(dir, pattern))
		if globErr != nil || len(names) == 0 {
			err = errors.Join(err, fmt.Errorf("%s has no %s", dir, pattern))
			return ""
		}
		return names[0]
	}
	loader = one("usr/lib/*/ld-linux-*.so.*")
	plugins = filepath.Dir(one("usr/lib/*/ganesha/libfsalvfs.so"))
	libraries = filepath.Dir(loader) + ":" + filepath.Dir(one("usr/lib/ganesha/libganesha_nfsd.so.*"))
	return loader, libraries, plugins, err
}

// demoNFS is where the demo's NFS server has what it remembers: a file system in memory that only the demo's namespace has.
func demoNFS(dir string) string { return filepath.Join(dir, "nfs") }

func demoEngineSocket(dir string) string { return filepath.Join(demoNFS(dir), "nfs.sock") }

// demoFirst is the first process of the demo's namespaces: all that was started there ends with it. It prepares what takes root,
// and has the demo shown by who the demo's folder belongs to.
func demoFirst(ctx context.Context, o demoOptions) (status int, err error) {
	if o.Engine != "" {
		if err := o.prepareShare(ctx); err != nil {
			o.Engine, o.NoShare = "", err.Error()
		}
	}
	arg, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, "demo-show", string(arg))
	o.asOwner(cmd)
	return wait(ctx, cmd)
}

// prepareShare makes the folder that is shared and starts who serves it.
func (o *demoOptions) prepareShare(ctx context.Context) error {
	// What is mounted here is nobody else's, and what is in /proc is of this namespace: the server is known by its process.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	for _, dir := range []string{demoNFS(o.Dir), filepath.Join(o.Dir, "share")} {
		if err := makeDemoDir(dir); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", demoNFS(o.Dir), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711,size=16m"); err != nil {
		return fmt.Errorf("mounting a file system in memory: %w", err)
	}
	if err := o.placeShare(); err != nil {
		return err
	}
	return o.startEngine(ctx)
}

// placeShare gives the folder that is shared a path that nodes can mount it at: its own where that is one, so that it
// is the same outside of the demo's namespaces, else another in the demo's own view of this computer.
func (o *demoOptions) placeShare() error {
	real, err := filepath.EvalSymlinks(filepath.Join(o.Dir, "share"))
	if err != nil {
		return err
	}
	if o.User != nil {
		if err := os.Chown(real, int(o.User.UID), int(o.User.GID)); err != nil {
			return err
		}
	}
	o.Share = real
	if headnode.CheckSharePath(real) == nil {
		return nil
	}
	from, err := os.Open(real)
	if err != nil {
		return err
	}
	defer from.Close()
	o.Share = "/srv/muster-demo"
	if err := unix.Mount("tmpfs", "/srv", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("making a place for the share: %w", err)
	}
	if err := os.Mkdir(o.Share, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", from.Fd()), o.Share, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("showing the share at %s: %w", o.Share, err)
	}
	return nil
}

// startEngine serves folders for the demo's head until this process ends.
func (o *demoOptions) startEngine(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	loader, libraries, plugins, err := ganeshaIn(o.Engine)
	if err != nil {
		return err
	}
	cred := o.Owner
	if cred == nil {
		if cred, err = childUser(); err != nil {
			return err
		}
	}
	f, err := listenUnix(demoEngineSocket(o.Dir), 0o600, cred)
	if err != nil {
		return err
	}
	defer f.Close()
	listener, err := net.FileListener(f)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(o.Dir, "nfs.log"))
	if err != nil {
		return err
	}
	if cred != nil {
		if err := log.Chown(int(cred.Uid), int(cred.Gid)); err != nil {
			return err
		}
	}
	server, err := shares.NewServer(shares.Config{
		State: demoNFS(o.Dir), Listener: listener, Log: newLogger(log, false), NoKernel: true,
		Ganesha: filepath.Join(o.Engine, ganeshaProgram), GaneshaPlugins: plugins,
		Command: func(name string, args ...string) *exec.Cmd {
			cmd := exec.Command(self, append([]string{"head-engine", fmt.Sprint(os.Getpid()), loader, "--library-path", libraries, name}, args...)...)
			// It would call at this computer's message bus, and write /run/blkid.
			cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/dev/null", "BLKID_FILE="+filepath.Join(demoNFS(o.Dir), "blkid.tab"))
			return cmd
		},
	})
	if err != nil {
		return err
	}
	go func() { _ = server.Run(context.WithoutCancel(ctx)) }() // it ends with this process
	return nil
}
