package loopmount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/internal/mountpoint"
)

// Mount attaches file to a loop device and mounts the ext4 file system in it
// at dir, read-only and without replaying its journal unless o says Writable. On an
// error nothing is left behind. It needs root.
func Mount(ctx context.Context, file, dir string, o Options) (*Mounted, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	l, err := Attach(ctx, file, o)
	if err != nil {
		return nil, err
	}
	m, err := MountDevice(l.Device, dir, o.Writable)
	// The mount keeps the device from here on; without one it detaches now.
	closeErr := l.Close()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, errors.Join(err, closeErr))
	}
	m.File, err = backingFile(l.number) // as the kernel spells it
	if err := errors.Join(err, closeErr); err != nil {
		return nil, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	}
	return m, nil
}

// MountDevice mounts the ext4 file system on a device that is there, as Mount does. What becomes of the
// device when it is unmounted is not this package's.
func MountDevice(device, dir string, writable bool) (*Mounted, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	flags, data := uintptr(unix.MS_RDONLY), "noload"
	if writable {
		flags, data = 0, "discard" // what is deleted gives its space back
	}
	if err := unix.Mount(device, dir, "ext4", flags, data); err != nil {
		return nil, fmt.Errorf("mount %s at %s: %w", device, dir, err)
	}
	return &Mounted{Dir: dir, Device: device, id: mountID(dir)}, nil
}

// resolve returns the path of a directory to mount at. What has lost its server is not covered: it has to be
// unmounted first.
func resolve(dir string) (string, error) {
	dir, err := mountpoint.Resolve(dir)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(dir); errors.Is(err, unix.ENOTCONN) {
		return "", fmt.Errorf("mount point %s: what is mounted there has lost its server, unmount it first: %w", dir, unix.ENOTCONN)
	}
	return dir, nil
}

// mountID returns the ID of the topmost mount at dir; 0 before Linux 5.8.
func mountID(dir string) int {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	if err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return 0
	}
	return int(st.Mnt_id)
}

// nbdDevice begins the names of the other devices that Find knows.
const nbdDevice = "/dev/nbd"

// Find tells which ext4 file system on a loop or NBD device is mounted at dir: from the kernel's tables, so that
// any process can take down what another has mounted. The error is
// ErrNotMounted if none is.
func Find(dir string) (*Mounted, error) {
	there, table, err := mountsAt(dir)
	if err != nil {
		return nil, err
	}
	return tell(there[len(there)-1], table)
}

// FindDevice is as Find, of the file system on a device, which other mounts at dir may cover.
func FindDevice(dir, device string) (*Mounted, error) {
	return findAmong(dir, func(m *Mounted) bool { return m.Device == device })
}

// FindFile is as FindDevice, of that on the loop device that reads file.
func FindFile(dir, file string) (*Mounted, error) {
	return findAmong(dir, func(m *Mounted) bool { return m.File == file })
}

func findAmong(dir string, is func(*Mounted) bool) (*Mounted, error) {
	there, table, err := mountsAt(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range there { // the lowest: what is bound over it has the same source
		m, err := tell(e, table)
		if errors.Is(err, ErrNotMounted) {
			continue
		}
		if err != nil || is(m) {
			return m, err
		}
	}
	return nil, fmt.Errorf("%s: %w", dir, ErrNotMounted)
}

// mountsAt returns the mounts at dir, the topmost last, and the table that has them; or ErrNotMounted.
func mountsAt(dir string) (there, table []*mountinfo.Info, err error) {
	if dir, err = mountpoint.Resolve(dir); err != nil {
		return nil, nil, err
	}
	if root, err := isMountPoint(dir); err == nil && !root { // the whole table may be long
		return nil, nil, fmt.Errorf("%s: %w", dir, ErrNotMounted)
	}
	if table, err = mountpoint.Table(nil); err != nil {
		return nil, nil, fmt.Errorf("find the mount at %s: %w", dir, err)
	}
	if there = at(table, dir); len(there) == 0 {
		return nil, nil, fmt.Errorf("%s: %w", dir, ErrNotMounted)
	}
	return there, table, nil
}

// tell tells of an entry of the table, or returns ErrNotMounted for one that Mount and MountDevice do not make.
func tell(e *mountinfo.Info, table []*mountinfo.Info) (*Mounted, error) {
	number, isLoop := loopNumber(e.Source)
	if !isLoop && !strings.HasPrefix(e.Source, nbdDevice) || e.FSType != "ext4" {
		return nil, fmt.Errorf("%s: %w", e.Mountpoint, ErrNotMounted)
	}
	m := &Mounted{Dir: e.Mountpoint, Device: e.Source, id: e.ID}
	if !isLoop {
		return m, nil
	}
	var err error
	if m.File, err = backingFile(number); err != nil {
		return nil, err
	}
	if h := holding(table, m.File); h != nil && m.File != "" {
		m.HolderDir, m.HolderType = h.Mountpoint, h.FSType
	}
	return m, nil
}

// isMountPoint reports whether something is mounted at dir. Before Linux 5.8 nobody
// knows, which is an error.
func isMountPoint(dir string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return false, err
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, errors.ErrUnsupported
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// loopNumber splits /dev/loopN.
func loopNumber(device string) (int, bool) {
	digits, ok := strings.CutPrefix(device, "/dev/loop")
	n, err := strconv.ParseUint(digits, 10, 20) // minor numbers have 20 bits
	return int(n), ok && err == nil
}

// Unmount unmounts and waits until the loop device, if it is on one, has let go of its file. It
// returns ErrBusy, with nothing changed, if the file system is in use or another mount covers it, and
// ctx's error if something else keeps the device.
func (m *Mounted) Unmount(ctx context.Context) error {
	if err := m.unmount(0); err != nil {
		return fmt.Errorf("unmount %s: %w", m.Dir, err)
	}
	if number, isLoop := loopNumber(m.Device); isLoop {
		return awaitDetach(ctx, number, m.File)
	}
	return nil
}

// Detach takes the file system out of the tree of mounts though it is in use.
// Whoever uses it goes on with it, and the loop device stays until they leave.
// It returns ErrBusy, with nothing changed, if another mount covers it.
func (m *Mounted) Detach() error {
	if err := m.unmount(unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach %s: %w", m.Dir, err)
	}
	return nil
}

// unmount takes down what is topmost at the mount point, if that is m. What is gone is no error.
func (m *Mounted) unmount(flags int) error {
	there, _, err := mountsAt(m.Dir)
	if errors.Is(err, ErrNotMounted) {
		return m.gone()
	}
	if err != nil {
		return err
	}
	if top := there[len(there)-1]; top.Source != m.Device || m.id != 0 && top.ID != m.id {
		return fmt.Errorf("%w: another mount covers it", ErrBusy)
	}
	err = unix.Unmount(m.Dir, unix.UMOUNT_NOFOLLOW|flags)
	if errors.Is(err, unix.EBUSY) {
		err = ErrBusy
	}
	return err
}

// gone returns ErrBusy if m is there still, where a mount of a folder above covers it.
func (m *Mounted) gone() error {
	table, err := mountpoint.Table(nil)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(table, func(e *mountinfo.Info) bool { return e.ID == m.id && e.Source == m.Device }) {
		return fmt.Errorf("%w: another mount covers it", ErrBusy)
	}
	return nil
}
