package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"muster/api"
)

// The working directory of each task is a file system of its own in memory, so that what a user puts there takes
// no room of the agent or of others: it is full by itself. What the task writes counts as the memory of its
// group. What is sent along the agent writes, so that is bounded for all tasks together.

// roomAt is how many bytes each working directory, and the files that are sent along with all tasks together, may
// take: as many as the file system has that they are in, and not more than half of the memory.
func roomAt(tasks string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(tasks, &fs); err != nil {
		return 0, fmt.Errorf("looking for room for tasks in %s: %w", tasks, err)
	}
	room := int64(fs.Blocks) * fs.Bsize
	if half := memTotal() / 2; half > 0 && (room == 0 || room > half) { // 0: it has no bound
		room = half
	}
	return room, nil
}

// makeWork makes an empty working directory for a user.
func makeWork(work string, uid, gid int) error {
	if err := removeWork(work); err != nil {
		return fmt.Errorf("clearing working directory: %w", err)
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return fmt.Errorf("making working directory: %w", err)
	}
	room, err := roomAt(filepath.Dir(work))
	if err != nil {
		return err
	}
	opts := fmt.Sprintf("mode=0700,uid=%d,gid=%d,size=%d", uint32(uid), uint32(gid), room)
	err = unix.Mount("muster-work", work, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts)
	if errors.Is(err, unix.EPERM) { // an agent that may not mount starts no tasks of others either
		if err := os.Chown(work, uid, gid); err != nil {
			return fmt.Errorf("giving the working directory to uid %d: %w", uid, err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("mounting working directory: %w", err)
	}
	return nil
}

// removeWork removes a working directory and all that is in it.
func removeWork(work string) error {
	// More than one lies there when an agent ended between two lines of makeWork.
	for unix.Unmount(work, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
	}
	return os.RemoveAll(work)
}

// roomForSent refuses files that are sent along when those of all tasks have more than most bytes.
func roomForSent(tasks []api.TaskStart, most int64) error {
	var sum int64
	for _, t := range tasks {
		for _, f := range t.Files {
			sum += f.Size
		}
	}
	if sum > most {
		return fmt.Errorf("the node has no memory left for the files that are sent along: with those of its other tasks they have %d MiB, and %d have room; put them on a share, or run the task later or elsewhere", sum>>20, most>>20)
	}
	return nil
}
