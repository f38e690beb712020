package fuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// initWait bounds the wait for the kernel's first request, which it sends as
// part of mounting.
const initWait = 10 * time.Second

// Mount mounts an empty directory of disks at dir and serves it: directly as
// root, else through fusermount3 or fusermount. It returns once the kernel has
// sent its first request, so that State is complete.
func Mount(dir string, o Options) (*Session, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("mount point: %w", err)
	}
	st := State{
		Version:    stateVersion,
		Dir:        dir,
		UID:        uint32(os.Geteuid()),
		GID:        uint32(os.Getegid()),
		AllowOther: o.AllowOther,
		Writable:   o.Writable,
	}
	var fd int
	if st.UID == 0 {
		fd, err = mountDirect(st)
	} else {
		fd, st.Helper, err = mountHelper(st)
	}
	if err != nil {
		return nil, err
	}
	s, err := newSession(fd, st, o)
	if err != nil {
		return nil, errors.Join(err, unmount(dir, st.Helper, true))
	}
	s.start()
	if err := s.awaitInit(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.setReadAhead(o.ReadAhead)
	return s, nil
}

func (s *Session) awaitInit() error {
	t := time.NewTimer(initWait)
	defer t.Stop()
	select {
	case <-s.dispatch.ready:
		return nil
	case <-s.done:
		return fmt.Errorf("mount %s: ended before the first request", s.state.Dir)
	case <-t.C:
		return fmt.Errorf("mount %s: no first request within %v", s.state.Dir, initWait)
	}
}

// Resume goes on with the session whose descriptor is fd and whose State was
// saved, after the process that served it has ended or called Release. It
// owns fd from the call on. The disks must be the same, with the same IDs, and
// be given here, since requests for them may wait already. Requests which the
// other process had read and not answered are served again: all of ours can
// be. The error is ErrNoResend before Linux 6.9. Of o, InFlight counts.
func Resume(fd int, st State, disks []Disk, o Options) (*Session, error) {
	o, err := o.check()
	if err == nil {
		err = st.check()
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("resume: %w", err)
	}
	s, err := newSession(fd, st, o)
	if err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	for _, d := range disks {
		if err := s.AddDisk(d); err != nil {
			s.closeFiles()
			return nil, fmt.Errorf("resume: %w", err)
		}
	}
	if err := s.resend(); err != nil {
		s.closeFiles()
		return nil, fmt.Errorf("resume %s: ask for open requests: %w", st.Dir, err)
	}
	s.start()
	return s, nil
}

func mountDirect(st State) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse (is the kernel built with FUSE, and may this container use it?): %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d,default_permissions",
		fd, st.UID, st.GID, MaxRead)
	if st.AllowOther {
		data += ",allow_other"
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if !st.Writable {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount("rivulet", st.Dir, FSType, flags, data); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("mount %s (needs root with CAP_SYS_ADMIN): %w", st.Dir, err)
	}
	return fd, nil
}

// unmount takes the mount point away: directly, or by the helper that made it.
// A lazy one succeeds while the mount is in use.
func unmount(dir, helper string, lazy bool) error {
	if helper != "" {
		return unmountHelper(dir, helper, lazy)
	}
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(dir, flags)
	if errors.Is(err, unix.EBUSY) {
		err = ErrBusy
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// setReadAhead raises the mount's readahead above what INIT can. It needs root
// and only speed depends on it, so it may fail.
func (s *Session) setReadAhead(bytes int) {
	var st unix.Stat_t
	if unix.Stat(s.state.Dir, &st) != nil {
		return
	}
	name := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	_ = os.WriteFile(name, []byte(strconv.Itoa(bytes>>10)), 0)
}
