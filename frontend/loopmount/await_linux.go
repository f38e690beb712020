package loopmount

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// pollStep bounds how long AwaitUnmount takes to see that its context ended.
const pollStep = 500 * time.Millisecond

// AwaitUnmount returns nil when the file system is no longer mounted, whoever
// unmounted it, or ctx's error. While it is bound to another place too, or the
// mount point's path was changed by renaming, it is mounted. AwaitUnmount
// sleeps until the kernel says that the mount table has changed (proc(5)).
func (m *Mounted) AwaitUnmount(ctx context.Context) error {
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watch the mount at %s: %w", m.Dir, err)
	}
	defer func() { _ = unix.Close(fd) }()
	for {
		if there, err := m.mounted(); err != nil || !there {
			return err
		}
		for changed := false; !changed; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, int(pollStep.Milliseconds()))
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("watch the mount at %s: %w", m.Dir, err)
			}
			changed = n > 0
		}
	}
}

// mounted reports whether m's device, still with m's file, is mounted anywhere
// that this process sees. It asks nothing of the paths in m, which may be gone.
func (m *Mounted) mounted() (bool, error) {
	all, err := mounts()
	if err != nil {
		return false, fmt.Errorf("watch the mount at %s: %w", m.Dir, err)
	}
	number, ok := loopNumber(m.Device)
	if !ok || !slices.ContainsFunc(all, func(e entry) bool { return e.source == m.Device }) {
		return false, nil
	}
	file, err := backingFile(number)
	return file == m.File, err
}
