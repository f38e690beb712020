package loopmount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxTries bounds the attempts to get a free device while others take
	// devices too.
	maxTries = 64
	// pollEvery is the pause between looks at a device that should detach.
	pollEvery = 5 * time.Millisecond

	loopFlags = unix.LO_FLAGS_DIRECT_IO | unix.LO_FLAGS_AUTOCLEAR
)

// A Loop is an attached loop device, held open. It detaches when it is closed
// and nothing else, such as a mount, uses it; after Stay, by Clear or Abandon.
type Loop struct {
	// Device is its path, /dev/loopN.
	Device string
	// DirectIO says whether the kernel agreed to direct I/O; it refuses where
	// the file's file system cannot do it.
	DirectIO bool

	number int
	fd     int
}

// Attach makes a loop device of a file, read-only unless o says so. It needs root. The caller
// closes the result. Cancelling ctx ends the wait for a free device.
func Attach(ctx context.Context, file string, o Options) (*Loop, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	file, err = filepath.Abs(file)
	if err != nil {
		return nil, fmt.Errorf("loop: %w", err)
	}
	backing, err := unix.Open(file, o.access()|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("loop: open %s: %w", file, err)
	}
	defer func() { _ = unix.Close(backing) }()
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("loop: open /dev/loop-control (%s): %w", advice(err), err)
	}
	defer func() { _ = unix.Close(control) }()
	l, err := attachFree(ctx, control, backing, file, o)
	if err != nil {
		return nil, err
	}
	if err := l.setUp(o); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// access is how file and device are opened: the kernel makes a device read-only of
// which either is.
func (o Options) access() int {
	if o.Writable {
		return unix.O_RDWR
	}
	return unix.O_RDONLY
}

// advice says what an error of a loop device usually means.
func advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "needs root with CAP_SYS_ADMIN"
	case errors.Is(err, fs.ErrNotExist):
		return "no loop device: the kernel lacks them, or this container's /dev does not show them"
	}
	return "loop device not usable"
}

// attachFree asks for a free device until it gets one that is still free when
// it is configured.
func attachFree(ctx context.Context, control, backing int, file string, o Options) (*Loop, error) {
	for range maxTries {
		number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("loop: ask for a free device (%s): %w", advice(err), err)
		}
		device := "/dev/loop" + strconv.Itoa(number)
		fd, err := unix.Open(device, o.access()|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("loop: open %s (%s): %w", device, advice(err), err)
		}
		err = configure(fd, backing, file, o)
		if err == nil {
			return &Loop{Device: device, number: number, fd: fd}, nil
		}
		_ = unix.Close(fd)
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("loop: attach %s to %s (%s): %w", file, device, advice(err), err)
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("loop: wait for a free device: %w", err)
		}
	}
	return nil, fmt.Errorf("loop: no free device in %d tries: others take them faster", maxTries)
}

func pause(ctx context.Context) error {
	t := time.NewTimer(pollEvery)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// configure attaches in one step, or before Linux 5.8 in several.
func configure(fd, backing int, file string, o Options) error {
	c := unix.LoopConfig{Fd: uint32(backing), Size: uint32(o.BlockSize)}
	c.Info.Flags = loopFlags
	if !o.Writable {
		c.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(c.Info.File_name[:len(c.Info.File_name)-1], file)
	err := unix.IoctlLoopConfigure(fd, &c)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.LOOP_SET_FD, backing); err != nil {
		return err
	}
	c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR // from here on closing fd undoes all
	if err := unix.IoctlLoopSetStatus64(fd, &c.Info); err != nil {
		_ = unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.LOOP_SET_BLOCK_SIZE, o.BlockSize); err != nil {
		return err
	}
	// Whether it took is read back by setUp.
	_ = unix.IoctlSetInt(fd, unix.LOOP_SET_DIRECT_IO, 1)
	return nil
}

// setUp reads back what the kernel made of the flags, and sets readahead.
func (l *Loop) setUp(o Options) error {
	info, err := unix.IoctlLoopGetStatus64(l.fd)
	if err != nil {
		return fmt.Errorf("loop: status of %s: %w", l.Device, err)
	}
	l.DirectIO = info.Flags&unix.LO_FLAGS_DIRECT_IO != 0
	if o.ReadAhead == 0 {
		return nil
	}
	name := fmt.Sprintf("/sys/block/loop%d/queue/read_ahead_kb", l.number)
	kib := strconv.Itoa(max(o.ReadAhead, 0) >> 10)
	if err := os.WriteFile(name, []byte(kib), 0); err != nil {
		return fmt.Errorf("loop: set readahead of %s to %s KiB: %w", l.Device, kib, err)
	}
	return nil
}

// Stay keeps the device after Close and the death of this process. It is called when the device
// has been noted: until then none is left behind.
func (l *Loop) Stay() error {
	info, err := unix.IoctlLoopGetStatus64(l.fd)
	if err == nil {
		info.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		err = unix.IoctlLoopSetStatus64(l.fd, info)
	}
	if err != nil {
		return fmt.Errorf("loop: keep %s: %w", l.Device, err)
	}
	return nil
}

// Clear detaches a device that stays. The error is ErrBusy, with nothing changed, if it is
// mounted, in whatever mount namespace. One that is open goes when it is closed.
func Clear(device string) error { return letGo(device, unix.O_EXCL) }

// Abandon is Clear of a device that may be in use: it goes with its last user.
func Abandon(device string) error { return letGo(device, 0) }

func letGo(device string, how int) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC|how, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("loop: detach %s: %w", device, ErrBusy)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
		_ = unix.Close(fd)
	}
	if err != nil && !errors.Is(err, unix.ENXIO) { // nothing is attached
		return fmt.Errorf("loop: detach %s: %w", device, err)
	}
	return nil
}

// BackingFile says what a device reads, "" if nothing.
func BackingFile(device string) (string, error) {
	number, ok := loopNumber(device)
	if !ok {
		return "", fmt.Errorf("loop: %s is no loop device", device)
	}
	return backingFile(number)
}

// Close lets go of the device, which detaches once nothing else uses it.
func (l *Loop) Close() error {
	if err := unix.Close(l.fd); err != nil {
		return fmt.Errorf("loop: close %s: %w", l.Device, err)
	}
	return nil
}

// backingFile says what a device reads, or "" if it is detached.
func backingFile(number int) (string, error) {
	f, err := os.Open(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", number))
	if err != nil {
		return answered(number, nil, err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(f)
	return answered(number, b, err)
}

// answered tells what opening or reading the kernel's answer came to. It is taken away when the device is
// detached, also from who has it open.
func answered(number int, b []byte, err error) (string, error) {
	for _, detached := range []error{fs.ErrNotExist, unix.ENODEV, unix.ENXIO} {
		if errors.Is(err, detached) {
			return "", nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("loop: backing file of /dev/loop%d: %w", number, err)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// awaitDetach waits until a device no longer reads file, or reads another.
func awaitDetach(ctx context.Context, number int, file string) error {
	for {
		now, err := backingFile(number)
		if err != nil {
			return err
		}
		if now == "" || now != file {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("loop: wait for /dev/loop%d to let go of %s (does something else use it?): %w", number, file, err)
		}
	}
}
