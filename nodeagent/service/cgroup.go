package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// group is the cgroup of a service; "": it has none.
type group string

// group makes the cgroup of that name: ROOT/muster-services/NAME.
func (r *Runner) group(name string) (group, error) {
	if r.cfg.CgroupRoot == "" {
		return "", nil
	}
	dir := filepath.Join(r.cfg.CgroupRoot, "muster-services")
	for _, d := range []string{dir, filepath.Join(dir, name)} {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("making cgroup: %w", err)
		}
	}
	return group(filepath.Join(dir, name)), nil
}

// populated says whether a process is in the group.
func (g group) populated() bool {
	if g == "" {
		return false
	}
	b, err := os.ReadFile(filepath.Join(string(g), "cgroup.events"))
	return err == nil && strings.Contains(string(b), "populated 1")
}

// groupPoll is how often a group is looked at for its end.
const groupPoll = time.Second

func (g group) waitEmpty(ctx context.Context) {
	for g.populated() && pause(ctx, groupPoll) {
	}
}

// kill ends every process of the group.
func (g group) kill() {
	if g != "" {
		_ = os.WriteFile(filepath.Join(string(g), "cgroup.kill"), []byte("1"), 0)
	}
}
