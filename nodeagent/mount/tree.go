package mount

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"muster/nodeagent/task"
)

// View is what a task that starts now sees: root, "" for the node's own, with a folder for each
// share, and the shares.
func (m *Mounter) View(root string) (task.View, error) {
	v := task.View{Shares: m.Shares()}
	var err error
	v.Root, err = m.tree(root, v.Shares)
	return v, err
}

// tree returns a root that has a folder for each share: root itself where it has them all, else an
// overlay, which is made once for each set of missing folders and stays for the tasks that
// began with it.
func (m *Mounter) tree(root string, shares []task.Share) (string, error) {
	var missing []string
	for _, s := range shares {
		ok, err := hasFolder(filepath.Join("/", root), s.To)
		if err != nil {
			return "", err
		}
		// A folder that a share lies over is made in that share, by its owner.
		if !ok && !belowAnother(s.To, shares) {
			missing = append(missing, s.To)
		}
	}
	if len(missing) == 0 {
		return root, nil
	}
	if root == "" {
		// The node's own root can be written to, and shows tasks the folder.
		for _, dir := range missing {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return "", fmt.Errorf("making a folder for the share: %w", err)
			}
		}
		return root, nil
	}
	sum := sha256.Sum256([]byte(root + "\x00" + strings.Join(missing, "\x00")))
	name := hex.EncodeToString(sum[:8])
	folders, at := filepath.Join(m.cfg.Dir, "folders-"+name), filepath.Join(m.cfg.Dir, "root-"+name)
	points, err := mountPoints(m.cfg.Dir)
	if err != nil {
		return "", err
	}
	if _, ok := points[at]; ok {
		return at, nil
	}
	for _, dir := range append([]string{at}, missing...) {
		if dir != at {
			dir = filepath.Join(folders, dir)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("making a folder for the share: %w", err)
		}
	}
	if err := m.cfg.Modprobe("overlay"); err != nil {
		return "", fmt.Errorf("laying folders for shares over the userland: %w", err)
	}
	// Two lower layers and no upper one: it cannot be written to.
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY|unix.MS_NODEV, "lowerdir="+folders+":"+root); err != nil {
		return "", fmt.Errorf("laying folders for shares over the userland: %w", err)
	}
	return at, nil
}

// belowAnother tells whether a share is mounted inside of another one.
func belowAnother(path string, shares []task.Share) bool {
	for _, s := range shares {
		if s.To != path && strings.HasPrefix(path, s.To+"/") {
			return true
		}
	}
	return false
}

// hasFolder tells whether root has a folder at path. What is something else there, or is reached through a
// link, cannot carry a share.
func hasFolder(root, path string) (bool, error) {
	at := root
	for part := range strings.SplitSeq(strings.Trim(filepath.Clean(path), "/"), "/") {
		at = filepath.Join(at, part)
		fi, err := os.Lstat(at)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("looking for a folder for the share %s: %w", path, err)
		case !fi.IsDir():
			return false, fmt.Errorf("the share %s cannot be shown to tasks: %s of their root is no folder; mount it elsewhere with --at", path, strings.TrimPrefix(at, root))
		}
	}
	return true, nil
}
