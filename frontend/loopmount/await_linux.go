package loopmount

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// pollStep bounds how long AwaitUnmount takes to see that its context ended.
const pollStep = 500 * time.Millisecond

// AwaitUnmount returns nil when the file system is no longer mounted, whoever
// unmounted it, or ctx's error. It sleeps until the kernel says that the mount
// table has changed (proc(5)).
func (m *Mounted) AwaitUnmount(ctx context.Context) error {
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watch the mount at %s: %w", m.Dir, err)
	}
	defer func() { _ = unix.Close(fd) }()
	for {
		now, err := Find(m.Dir)
		if errors.Is(err, ErrNotMounted) || (err == nil && now.Device != m.Device) {
			return nil
		}
		if err != nil {
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
