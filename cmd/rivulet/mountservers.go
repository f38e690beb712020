package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
	"github.com/rivuletfs/rivulet/host/frontends"
	"github.com/rivuletfs/rivulet/internal/mountpoint"
	"github.com/rivuletfs/rivulet/internal/runtimedir"
)

const (
	// askTime bounds asking an agent what it holds: one that hangs holds up no mount that is not its own.
	askTime = time.Second
	// letGoTime bounds the wait for whoever served a mount; erasing a large overlay takes a while.
	letGoTime = time.Minute
)

// A process that serves one mount holds a lock on a file of its own in the runtime folder until all that belongs to the
// mount is closed: its overlay too, which is so a moment after nothing is mounted any more. The file
// says which attachment that is, and where, a line each. The lock ends with the process, however that ends.
const (
	mountLockPrefix = "mount-"
	mountLockSuffix = ".lock"
	maxMountLock    = 1 << 16 // bytes
)

// lockMount locks such a file for this process, which serves an attachment at where.
func lockMount(id, where string) (unlock func(), err error) {
	run, err := runtimedir.Make()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(run, mountLockPrefix+"*"+mountLockSuffix)
	if err != nil {
		return nil, err
	}
	unlock = func() {
		_ = os.Remove(f.Name())
		_ = f.Close()
	}
	if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err == nil {
		_, err = fmt.Fprintf(f, "%s\n%s\n", id, mountPoint(where))
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return unlock, nil
}

// mountServers are those who hold what belongs to a mount.
type mountServers struct {
	id    string          // of its attachment; "": the kernel does not tell
	where string          // its mount point
	agent *control.Client // that holds it; nil: none does that answers
	locks []*os.File      // of processes of its own, or that have died
}

// serversOf finds who serves what is mounted at dir: m, or, if that is nil, files. It must be asked before that is unmounted.
func (a *app) serversOf(ctx context.Context, dir string, m *loopmount.Mounted) *mountServers {
	s := &mountServers{where: mountPoint(dir)}
	run := runtimedir.Path()
	if m != nil {
		if name, ok := strings.CutPrefix(filepath.Base(m.HolderDir), frontends.HiddenPrefix); ok && m.HolderType == fuse.FSType {
			run, s.id = filepath.Dir(m.HolderDir), name
		} else {
			_, s.id = nbdDevice(m)
		}
	}
	s.findLocks(run)
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := a.agentClient(ctx)
	if err != nil || c == nil {
		return s
	}
	list, err := c.List(ctx)
	if err != nil {
		return s
	}
	if i := slices.IndexFunc(list, s.isOf); i >= 0 {
		s.agent, s.id = c, list[i].ID
	}
	return s
}

// isOf reports whether i is the attachment of the mount.
func (s *mountServers) isOf(i host.Info) bool {
	if s.id != "" {
		return i.ID == s.id
	}
	return i.Spec.Frontend == frontendFile && i.State != host.Waiting && mountPoint(i.Spec.Where) == s.where
}

// findLocks opens the locks of the mount that lie in a runtime folder.
func (s *mountServers) findLocks(run string) {
	if runtimedir.Check(run) != nil {
		return // whatever lies there may be another's
	}
	entries, err := os.ReadDir(run)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), mountLockPrefix) || !strings.HasSuffix(e.Name(), mountLockSuffix) || !e.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(run, e.Name()))
		if err != nil {
			continue // it has ended meanwhile
		}
		said, err := io.ReadAll(io.LimitReader(f, maxMountLock))
		id, rest, _ := strings.Cut(string(said), "\n")
		if err == nil && id != "" && (id == s.id || s.id == "" && rest == s.where+"\n") {
			s.locks = append(s.locks, f)
		} else {
			_ = f.Close()
		}
	}
}

// await waits until they have let go of all that belongs to the mount, which is unmounted.
func (s *mountServers) await(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, letGoTime)
	defer cancel()
	var ended error
	if s.agent != nil {
		ended = s.agent.Wait(ctx, s.id)
	}
	for _, lock := range s.locks {
		if ended == nil {
			ended = awaitUnlock(ctx, lock)
		}
	}
	switch {
	case ended == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s is unmounted, and what served it has not ended: %w", dir, context.Cause(ctx))
	}
	return fmt.Errorf("%s is unmounted, and its disk ended with: %w", dir, ended)
}

func (s *mountServers) close() {
	for _, lock := range s.locks {
		_ = lock.Close()
	}
}

// awaitUnlock waits until nobody holds the lock.
func awaitUnlock(ctx context.Context, lock *os.File) error {
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
		if err == nil { // it was removed by who held it, but for one that was killed
			if err = os.Remove(lock.Name()); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// mountPoint returns dir as it can be compared with others.
func mountPoint(dir string) string {
	if resolved, err := mountpoint.Resolve(dir); err == nil {
		return resolved
	}
	return filepath.Clean(dir)
}
