package frontends

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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

	offers sync.Map // attachment → *offeredMount: those that Release ends
}

var _ host.Frontend = (*Mount)(nil)

// hiddenPrefix and the attachment's ID name the directory of a mount's file.
const hiddenPrefix = "disk-"

// Offer implements [host.Frontend]: o.Where is the directory.
func (m *Mount) Offer(ctx context.Context, o host.Offer) (host.Offered, error) {
	if err := o.AbsoluteDir(); err != nil {
		return nil, err
	}
	hidden := filepath.Join(m.Runtime, hiddenPrefix+o.ID)
	f := &offeredMount{Mount: m, id: o.ID, dir: o.Where, hidden: hidden, done: make(chan struct{})}
	if !o.Again {
		// Two on one directory could not be told apart when they are taken down.
		if l, err := loopmount.Find(o.Where); err == nil {
			return nil, fmt.Errorf("mount %s: %s is mounted there already", o.Where, l.Device)
		}
	}
	if err := os.Mkdir(hidden, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("mount %s: %w", o.Where, err)
	}
	o.Name = diskFile
	resumed, err := m.begin(&o, f)
	if err == nil {
		f.loop, err = m.onLoop(ctx, &o, hidden, resumed)
		if err == nil {
			if err = f.limit(&o); err != nil {
				err = errors.Join(err, f.loop.Detach())
			}
		}
		if err != nil {
			err = errors.Join(err, f.session.Close(), m.over(o.ID))
		}
	}
	if err != nil {
		_ = os.Remove(hidden)
		return nil, err
	}
	f.startWatch()
	m.offers.Store(o.ID, f)
	return f, nil
}

// begin starts or resumes the session that shows the file.
func (m *Mount) begin(o *host.Offer, f *offeredMount) (resumed bool, err error) {
	show := fuse.Disk{Name: diskFile, ID: o.Disk, Device: o.Device}
	s, err := m.resume(*o, show)
	if resumed = s != nil; !resumed && err == nil {
		if o.Again {
			clearLoop(o.Where, f.hidden)
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
		l, err := loopmount.Find(dir)
		if err == nil && l.File == file {
			return l, nil
		}
		return nil, fmt.Errorf("%s: %w", dir, host.ErrGone)
	}
	_, writable := o.Device.(blockdev.Writer)
	return loopmount.Mount(ctx, file, dir, loopmount.Options{BlockSize: blockSize, ReadAhead: readAhead, Writable: writable})
}

// ext4 sets the lesser of a fiftieth of its blocks and this many aside by itself, for its own
// tables.
const leastReserved = 4096

// limit leaves o.Room of the file system's free space.
func (o *offeredMount) limit(offer *host.Offer) error {
	if offer.Room == 0 {
		return nil
	}
	var st fileState
	if offer.State != nil {
		if err := json.Unmarshal(offer.State, &st); err != nil {
			return fmt.Errorf("mount %s: state: %w", o.dir, err)
		}
	}
	if err := limit(o.loop, offer.Room, &st.Reserved); err != nil {
		return err
	}
	state, err := json.Marshal(fileState{Session: o.session.State(), Reserved: st.Reserved})
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

// An offeredMount is a mount, its loop device's file and that file's session.
type offeredMount struct {
	*Mount
	id, dir, hidden string
	session         *fuse.Session
	loop            *loopmount.Mounted
	done            chan struct{} // closed by watch, after err is set
	err             error
	stop            context.CancelFunc
	stopped         chan struct{}
}

var _ host.Offered = (*offeredMount)(nil)

// Address implements [host.Offered].
func (o *offeredMount) Address() string { return o.dir }

// Done implements [host.Offered].
func (o *offeredMount) Done() <-chan struct{} { return o.done }

// Err implements [host.Offered].
func (o *offeredMount) Err() error { return o.err }

// watch waits for the end of the mount, by whomever, or of its session.
func (o *offeredMount) watch(ctx context.Context) {
	defer close(o.stopped)
	unmounted := make(chan error, 1)
	sub, stop := context.WithCancel(ctx)
	defer stop()
	go func() { unmounted <- o.loop.AwaitUnmount(sub) }()
	select {
	case err := <-unmounted:
		if ctx.Err() != nil {
			return
		}
		o.err = errors.Join(err, o.takeSession(ctx, true))
	case <-o.session.Done():
		stop()
		err := <-unmounted
		if ctx.Err() != nil {
			return // it was released
		}
		if errors.Is(err, context.Canceled) {
			err = nil // by stop
		}
		o.err = errors.Join(err, o.session.Wait(), o.takeSession(ctx, true))
	}
	close(o.done)
}

// takeSession ends the session under a mount that is gone.
func (o *offeredMount) takeSession(ctx context.Context, force bool) error {
	wait, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	if err := unmount(wait, o.session, force); err != nil {
		return err
	}
	o.offers.Delete(o.id)
	return errors.Join(o.over(o.id), os.Remove(o.hidden))
}

// Detach implements [host.Offered].
func (o *offeredMount) Detach(ctx context.Context, force bool) error {
	o.stop()
	<-o.stopped
	select {
	case <-o.done:
		return nil // somebody else did
	default:
	}
	err := o.unmountLoop(ctx, force)
	if err == nil {
		err = o.takeSession(context.WithoutCancel(ctx), force)
	}
	if err != nil {
		o.startWatch()
	}
	return err
}

// unmountLoop unmounts once nobody uses the mount; with force, when ctx ends:
// from then on its users get I/O errors.
func (o *offeredMount) unmountLoop(ctx context.Context, force bool) error {
	for {
		err := o.loop.Unmount(ctx)
		if force && errors.Is(err, context.DeadlineExceeded) {
			return nil // unmounted here; another mount namespace has a copy
		}
		if !errors.Is(err, loopmount.ErrBusy) {
			return err
		}
		if pause(ctx) == nil {
			continue
		}
		if !force {
			return fmt.Errorf("%s: %w", o.dir, host.ErrBusy)
		}
		if o.Logger != nil {
			o.Logger.Warn("the mount is in use, and gives I/O errors from now on", "where", o.dir)
		}
		return errors.Join(o.loop.Detach(), o.session.Close())
	}
}

func (o *offeredMount) startWatch() {
	ctx, stop := context.WithCancel(context.Background())
	o.stop, o.stopped = stop, make(chan struct{})
	go o.watch(ctx)
}

// Release implements [host.Frontend].
func (m *Mount) Release(ctx context.Context) ([]keep.Descriptor, error) {
	// All at once: a watch takes a moment to see that it is to end.
	m.offers.Range(func(_, o any) bool { o.(*offeredMount).stop(); return true })
	m.offers.Range(func(_, o any) bool {
		<-o.(*offeredMount).stopped
		return true
	})
	m.offers.Clear()
	return m.File.Release(ctx)
}

// clearLoop takes away a mount at dir whose file lies in hidden.
func clearLoop(dir, hidden string) {
	l, err := loopmount.Find(dir)
	if err == nil && strings.HasPrefix(l.File, hidden+"/") {
		_ = l.Detach()
	}
}

// clearDead takes away a session on dir that lost its descriptor with its
// server.
func clearDead(dir string) {
	if _, err := os.ReadDir(dir); errors.Is(err, syscall.ENOTCONN) {
		_ = fuse.UnmountLazily(dir)
	}
}
