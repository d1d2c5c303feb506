package service

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// rootSize bounds what all services of the userland together write into their root.
const rootSize = "size=10%,mode=0755"

// serviceRoot returns the folder that services of the userland see as their root: the
// userland with room to write on top, which is theirs together and ends with the boot. It
// is mounted when it is first asked for.
func (r *Runner) serviceRoot() (string, error) {
	lower := r.userland()
	if lower == "" {
		return "", errors.New("this node has no userland")
	}
	dir := filepath.Join(r.cfg.RunDir, "fs")
	root := filepath.Join(dir, "root")
	r.mounting.Lock()
	defer r.mounting.Unlock()
	if !isMounted(root, unix.OVERLAYFS_SUPER_MAGIC) {
		if err := mountRoot(dir, root, lower); err != nil {
			return "", fmt.Errorf("making the root of services: %w", err)
		}
	}
	r.copyResolvConf(root)
	return root, nil
}

func isMounted(dir string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && int64(st.Type) == magic
}

// mountRoot mounts a tmpfs on dir, the userland and a layer of that tmpfs on root, and what
// programs need beside files.
func mountRoot(dir, root, lower string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("muster-services", dir, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, rootSize); err != nil {
		return fmt.Errorf("mounting tmpfs on %s: %w", dir, err)
	}
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{upper, work, root} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // the next start mounts over it
		return fmt.Errorf("mounting overlay on %s: %w (the kernel module overlay is in the group base)", root, err)
	}
	for _, name := range []string{"proc", "sys", "dev"} {
		target := filepath.Join(root, name)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("/"+name, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mounting /%s: %w", name, err)
		}
	}
	return nil
}

// copyResolvConf gives services the name servers of the node. Without them names are not found,
// which is no reason to start nothing.
func (r *Runner) copyResolvConf(root string) {
	name := r.cfg.ResolvConf
	if name == "" {
		name = "/etc/resolv.conf"
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return
	}
	etc, err := os.OpenRoot(root)
	if err != nil {
		return
	}
	defer etc.Close()
	if err := etc.WriteFile("etc/resolv.conf", text, 0o644); err != nil {
		r.log.Debug("services have no name servers", "err", err)
	}
}
