package overlay

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/blockdev"
)

// Errors that callers tell apart. They come wrapped. ErrQuota is a
// blockdev.ErrNoSpace too, as is a file system that is full.
var (
	ErrQuota   = fmt.Errorf("the quota is used up: %w", blockdev.ErrNoSpace)
	ErrBase    = errors.New("another base than the overlay was made for")
	ErrKey     = errors.New("the key does not open the overlay")
	ErrCorrupt = errors.New("the overlay is damaged")
	ErrInUse   = errors.New("another process has the overlay open")
	ErrLayers  = errors.New("too many layers")
	ErrClosed  = errors.New("the overlay is closed")
)

// Options say how an overlay is made or opened.
type Options struct {
	// Size is the disk's size in bytes, a multiple of blockdev.SectorSize and at
	// most 64 TiB. 0 is the base's size at Create, and the size that it has at
	// Open. Open with a larger size makes the disk grow; what is added reads as
	// zeros. A disk cannot shrink.
	Size int64
	// Quota bounds the bytes of storage that blocks take in all layers, 0 means
	// not at all. A write that would take more fails with ErrQuota. It is not
	// kept on disk.
	Quota int64
	// BaseID names the content of the base, in up to 256 bytes: its digest. Create
	// keeps it, and Open compares.
	BaseID string
	// Keys has the key; nil means a file "key" beside the others.
	Keys Keys
	// FS is the file system; nil means OS.
	FS FS
}

func (o Options) fs() FS {
	if o.FS == nil {
		return OS
	}
	return o.FS
}

func (o Options) keys(dir string) Keys {
	if o.Keys == nil {
		return FileKeys(o.fs(), filepath.Join(dir, keyName))
	}
	return o.Keys
}

// Names of files in an overlay's folder.
const (
	indexName    = "index"
	newIndexName = "index.new"
	journalName  = "journal"
	keyName      = "key"
	recentName   = "recent"
	layerPrefix  = "layer-"
)

func layerName(id uint64) string { return fmt.Sprintf("%s%016x", layerPrefix, id) }

// An Overlay is a disk with private writes over a base. All methods may be
// called at once; doc.go has who owns what.
type Overlay struct {
	dir  string
	fs   FS
	keys Keys
	key  []byte
	base blockdev.Device
	head indexHeader // fields that never change: size, baseSize, check, baseID

	locks blockLocks

	life   sync.RWMutex // shared by calls that run, taken by Close
	closed bool

	gate sync.RWMutex // shared from when a write knows the top layer until its blocks' states are set; taken when the top changes

	mu      sync.RWMutex // guards what follows; held for no I/O
	states  stateMap
	table   *layers // never changed: replaced
	top     *layer  // changes under gate, too
	pending []change
	used    int64 // bytes, of all layers
	quota   int64

	flusher flusher
	medium  medium
	recent  recent

	merging sync.Mutex
	dirty   atomic.Bool // something was written since the last round of flushing began
	stats   counters
}

var (
	_ blockdev.Writer     = (*Overlay)(nil)
	_ blockdev.Extenter   = (*Overlay)(nil)
	_ blockdev.Prefetcher = (*Overlay)(nil)
)

func newOverlay(dir string, base blockdev.Device, opts Options) *Overlay {
	o := &Overlay{dir: dir, fs: opts.fs(), keys: opts.keys(dir), base: base, quota: opts.Quota}
	o.locks.init()
	o.flusher.idle.L = &o.flusher.mu
	return o
}

func (o *Overlay) path(name string) string { return filepath.Join(o.dir, name) }

// releaseOnError closes the files after a failed start.
func (o *Overlay) releaseOnError(err *error) {
	if *err != nil {
		*err = errors.Join(*err, o.closeFiles())
	}
}

// closeFiles closes what is open.
func (o *Overlay) closeFiles() error {
	var errs []error
	if o.table != nil {
		for _, l := range o.table.all() {
			errs = append(errs, l.close())
		}
	} else if o.top != nil {
		errs = append(errs, o.top.close())
	}
	if o.recent.file != nil {
		errs = append(errs, o.recent.file.Close())
	}
	if o.medium.journal != nil {
		errs = append(errs, o.medium.journal.Close()) // the lock goes with it
	}
	return errors.Join(errs...)
}

// enter begins a call, leave ends it.
func (o *Overlay) enter() error {
	o.life.RLock()
	if o.closed {
		o.life.RUnlock()
		return ErrClosed
	}
	return nil
}

func (o *Overlay) leave() { o.life.RUnlock() }

// Close flushes, leaves the overlay so that the next Open has little to do, and
// closes its files. It waits for calls that run, and later ones fail with
// ErrClosed. The base stays open.
func (o *Overlay) Close() error {
	o.life.Lock()
	defer o.life.Unlock()
	if o.closed {
		return nil
	}
	o.closed = true
	err := o.flush() // and give back what is zeroed, or the end is not a clean one
	if err == nil {
		err = o.flusher.exclusively(func() error { return o.checkpoint(true, nil) })
	}
	if err = errors.Join(err, o.closeFiles()); err != nil {
		return fmt.Errorf("close overlay %s: %w", o.dir, err)
	}
	return nil
}

// Size returns the disk's size in bytes.
func (o *Overlay) Size() int64 { return o.head.size }

// Prefetch passes the advice on for what the base has.
func (o *Overlay) Prefetch(ctx context.Context, off, length int64) error {
	if err := o.enter(); err != nil {
		return err
	}
	defer o.leave()
	return o.prefetch(ctx, off, length, o.run)
}
