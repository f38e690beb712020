package host

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/disk"
)

// errNotOpen is what reads get of a disk that could not be opened in time.
var errNotOpen = errors.New("the disk is not open yet")

// A device is a disk that may still have to be opened: its size is known, and
// reads wait for the rest, as long as they would for a store.
type device struct {
	id      string // of the attachment
	size    int64
	patient time.Duration // bound of a read's wait

	served servedCounters
	slow   time.Duration        // and
	onSlow func(*disk.SlowRead) // as in Config; nil: nobody is told of reads that waited for the disk

	disk   atomic.Pointer[sharedDisk]    // set once, by open
	opened chan struct{}                 // closed after that
	closed chan struct{}                 // closed when the attachment has ended: nobody waits any more
	left   atomic.Pointer[chan struct{}] // closed when this process leaves it to the next, until it goes on
}

var (
	_ blockdev.Device     = (*device)(nil)
	_ blockdev.Extenter   = (*device)(nil)
	_ blockdev.Prefetcher = (*device)(nil)
)

func newDevice(id string, size int64, patient time.Duration) *device {
	d := &device{id: id, size: size, patient: patient, opened: make(chan struct{}), closed: make(chan struct{})}
	d.stay()
	return d
}

// leave has reads that wait, and all that would have to, be left to the next process.
// It is called once before stay undoes it.
func (d *device) leave() { close(*d.left.Load()) }

func (d *device) stay() {
	left := make(chan struct{})
	d.left.Store(&left)
}

// open gives the device its disk.
func (d *device) open(s *sharedDisk) {
	d.disk.Store(s)
	close(d.opened)
}

// Size implements [blockdev.Device].
func (d *device) Size() int64 { return d.size }

// wait returns the disk, once it is open.
func (d *device) wait(ctx context.Context) (*sharedDisk, error) {
	if s := d.disk.Load(); s != nil {
		return s, nil
	}
	t := time.NewTimer(d.patient)
	defer t.Stop()
	select {
	case <-d.opened:
		return d.disk.Load(), nil
	case <-t.C:
		return nil, fmt.Errorf("%w, after %v", errNotOpen, d.patient)
	case <-*d.left.Load():
		return nil, fmt.Errorf("%w: %w", errNotOpen, blockdev.ErrLeft)
	case <-d.closed:
		return nil, errNotOpen
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ReadAt implements [io.ReaderAt].
func (d *device) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.read(p, off)
	d.served.count(n, err)
	return n, err
}

func (d *device) read(p []byte, off int64) (int, error) {
	s := d.disk.Load()
	if s == nil {
		begun := time.Now()
		var err error
		s, err = d.wait(context.Background())
		d.tell(begun, len(p), off, err)
		if err != nil {
			return 0, err
		}
	}
	return s.ReadFor(d.id, p, off)
}

// tell tells of a read that waited for the disk, if it did for long or in vain.
func (d *device) tell(begun time.Time, length int, off int64, err error) {
	waited := time.Since(begun)
	select {
	case <-d.closed:
		return
	default:
	}
	if d.onSlow != nil && !errors.Is(err, blockdev.ErrLeft) && (err != nil || waited >= d.slow) {
		d.onSlow(&disk.SlowRead{Reader: d.id, Offset: off, Length: length, Begun: begun, Wait: waited, Err: err})
	}
}

// Extents implements [blockdev.Extenter].
func (d *device) Extents(ctx context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	s, err := d.wait(ctx)
	if err != nil {
		return err
	}
	return s.Extents(ctx, off, length, fn)
}

// Prefetch implements [blockdev.Prefetcher].
func (d *device) Prefetch(ctx context.Context, off, length int64) error {
	s, err := d.wait(ctx)
	if err != nil {
		return err
	}
	return s.Prefetch(ctx, off, length)
}
