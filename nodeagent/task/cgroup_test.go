package task

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"muster/api"
	"muster/internal/need"
)

// Tasks of a job that end while others of it begin do not take the job's group away from these.
func TestGroupsOfAJobAtOnce(t *testing.T) {
	need.Root(t)
	var root string
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			root = dir
		}
	}
	dir, err := os.MkdirTemp(root, "muster-test-")
	if root == "" || err != nil {
		need.Missing(t, "no groups can be made: %v; mount cgroup v2: mount -t cgroup2 cgroup2 /sys/fs/cgroup", err)
	}
	t.Cleanup(func() {
		os.Remove(filepath.Join(dir, "muster-jobs"))
		if err := os.Remove(dir); err != nil {
			t.Errorf("a group is left: %v", err)
		}
	})
	groups, err := newCgroups(dir)
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for range 100 {
				group, err := groups.make(api.TaskStart{TaskRef: api.TaskRef{Job: 7, Index: i, Epoch: 1}})
				if err != nil {
					t.Error(err)
					return
				}
				groups.remove(group)
			}
		})
	}
	g.Wait()
}
