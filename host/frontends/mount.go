package frontends

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/fuse"
	"github.com/rivuletfs/rivulet/frontend/loopmount"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/keep"
)

const (
	// diskFile is the file that a loop device reads.
	diskFile = "disk"
	// blockSize is the loop device's, in bytes: ext4's.
	blockSize = 4096
	// releaseWait bounds the wait for a loop device to let go of its file.
	releaseWait = 5 * time.Second
	// readAhead is how far the kernel reads ahead of files in a mount, in bytes:
	// its own usual choice, and not the many times more that a loop device may
	// get, since what is read ahead has to be fetched.
	readAhead = 128 << 10
)

// Mount mounts the file system of a disk by way of a file and a loop device that nobody
// else sees (host.Frontend): read-only, unless the disk can be written. It needs root.
type Mount struct {
	File
	// Runtime is the folder in which the files are shown, one directory each.
	Runtime string

	offers sync.Map // attachment → *watchedMount: those that Release ends
}

var _ host.Frontend = (*Mount)(nil)

// HiddenPrefix and the attachment's ID name the directory of a mount's file, in the runtime folder.
const HiddenPrefix = "disk-"

// Offer implements [host.Frontend]: o.Where is the directory.
func (m *Mount) Offer(ctx context.Context, o host.Offer) (host.Offered, error) {
	if err := o.AbsoluteDir(); err != nil {
		return nil, err
	}
	f := &shownFile{Mount: m, id: o.ID, hidden: filepath.Join(m.Runtime, HiddenPrefix+o.ID)}
	if !o.Again {
		if err := vacant(o.Where); err != nil {
			return nil, fmt.Errorf("mount %s: %w", o.Where, err)
		}
	}
	if err := os.Mkdir(f.hidden, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("mount %s: %w", o.Where, err)
	}
	o.Name = diskFile
	var mounted *loopmount.Mounted
	resumed, err := m.begin(&o, f)
	if err == nil {
		mounted, err = m.onLoop(ctx, &o, f.hidden, resumed)
		if err == nil {
			if err = f.limit(&o, mounted); err != nil {
				err = errors.Join(err, mounted.Detach())
			}
		}
		if err != nil {
			err = errors.Join(err, f.session.Close(), m.over(o.ID))
		}
	}
	if err != nil {
		_ = os.Remove(f.hidden)
		return nil, err
	}
	w := newWatchedMount(f, mounted, o.Where, m.Logger)
	m.offers.Store(o.ID, w)
	w.watch()
	return w, nil
}

// vacant returns an error if a disk's file system is mounted at dir: two could not be told apart when they are
// taken down.
func vacant(dir string) error {
	there, err := loopmount.Find(dir)
	if err == nil {
		return fmt.Errorf("%s is mounted there already", there.Device)
	}
	if errors.Is(err, loopmount.ErrNotMounted) {
		return nil
	}
	return err
}

// begin starts or resumes the session that shows the file.
func (m *Mount) begin(o *host.Offer, f *shownFile) (resumed bool, err error) {
	show := fuse.Disk{Name: diskFile, ID: o.Disk, Device: o.Device}
	s, err := m.resume(*o, show)
	if resumed = s != nil; !resumed && err == nil {
		if o.Again {
			if err := clearLoop(o.Where, f.hidden); err != nil {
				return false, err
			}
			clearDead(f.hidden)
		}
		s, err = m.mount(*o, show, f.hidden)
	}
	if err != nil {
		return false, err
	}
	f.session = s
	m.remember(o.ID, s)
	return resumed, nil
}

// onLoop finds the mount of a session that was resumed, or makes one.
func (m *Mount) onLoop(ctx context.Context, o *host.Offer, hidden string, resumed bool) (*loopmount.Mounted, error) {
	dir, file := o.Where, filepath.Join(hidden, diskFile)
	if resumed {
		l, err := loopmount.FindFile(dir, file)
		if errors.Is(err, loopmount.ErrNotMounted) {
			err = fmt.Errorf("%s: %w", dir, host.ErrGone)
		}
		return l, err
	}
	_, writable := o.Device.(blockdev.Writer)
	return loopmount.Mount(ctx, file, dir, loopmount.Options{BlockSize: blockSize, ReadAhead: readAhead, Writable: writable})
}

// ext4 sets the lesser of a fiftieth of its blocks and this many aside by itself, for its own
// tables.
const leastReserved = 4096

// limit leaves o.Room of the file system's free space.
func (f *shownFile) limit(offer *host.Offer, mounted *loopmount.Mounted) error {
	if offer.Room == 0 {
		return nil
	}
	var st fileState
	if offer.State != nil {
		if err := json.Unmarshal(offer.State, &st); err != nil {
			return fmt.Errorf("mount %s: state: %w", offer.Where, err)
		}
	}
	if err := limit(mounted, offer.Room, &st.Reserved); err != nil {
		return err
	}
	state, err := json.Marshal(fileState{Session: f.session.State(), Reserved: st.Reserved})
	if err != nil {
		return err
	}
	return offer.Save(state)
}

// limit leaves room bytes of a file system's free space, unless room is 0. What that was before anything
// was written is remembered in reserved, so that a later mount of the same disk leaves no more.
func limit(m *loopmount.Mounted, room int64, reserved *int64) error {
	if room == 0 {
		return nil
	}
	if *reserved == 0 {
		free, size, err := m.Free()
		if err != nil {
			return err
		}
		*reserved = max(free-room/size, min(free/50, leastReserved), 1)
	}
	return m.Reserve(*reserved)
}

// A shownFile is the session that shows the file behind a mount's loop device.
type shownFile struct {
	*Mount
	id, hidden string
	session    *fuse.Session
}

var _ mountSource = (*shownFile)(nil)

func (f *shownFile) gone() <-chan struct{} { return f.session.Done() }
func (f *shownFile) why() error            { return f.session.Wait() }
func (f *shownFile) cut() error            { return f.session.Close() }

func (f *shownFile) end(ctx context.Context, force bool) error {
	if err := unmount(ctx, f.session, force); err != nil {
		return err
	}
	f.offers.Delete(f.id)
	return errors.Join(f.over(f.id), os.Remove(f.hidden))
}

// Release implements [host.Frontend].
func (m *Mount) Release(ctx context.Context) ([]keep.Descriptor, error) {
	var all []*watchedMount
	m.offers.Range(func(_, w any) bool {
		all = append(all, w.(*watchedMount))
		return true
	})
	stopAll(all)
	m.offers.Clear()
	return m.File.Release(ctx)
}

// clearLoop takes away a mount at dir whose file lies in hidden; not one that another mount covers.
func clearLoop(dir, hidden string) error {
	l, err := loopmount.FindFile(dir, filepath.Join(hidden, diskFile))
	if errors.Is(err, loopmount.ErrNotMounted) {
		return nil
	}
	if err != nil {
		return err
	}
	return l.Detach()
}

// clearDead takes away a session on dir that lost its descriptor with its
// server.
func clearDead(dir string) {
	if _, err := os.ReadDir(dir); errors.Is(err, syscall.ENOTCONN) {
		_ = fuse.UnmountLazily(dir)
	}
}
