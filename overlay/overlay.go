package overlay

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
	"sync"
	"sync/atomic"
	"syscall"

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

// Create makes an overlay in a folder, with a new key, and opens it. The folder
// is made if it is missing. One that has an overlay is left alone: the error is
// fs.ErrExist, wrapped. The base has to stay open, and the same, as long as the
// overlay is; Close does not close it.
func Create(dir string, base blockdev.Device, opts Options) (*Overlay, error) {
	o, err := create(dir, base, opts)
	if err != nil {
		return nil, fmt.Errorf("create overlay %s: %w", dir, err)
	}
	return o, nil
}

func create(dir string, base blockdev.Device, opts Options) (o *Overlay, err error) {
	size := opts.Size
	if size == 0 {
		size = base.Size()
	}
	if err := checkSize(size, base.Size()); err != nil {
		return nil, err
	}
	if len(opts.BaseID) > maxBaseID {
		return nil, fmt.Errorf("name of the base has %d bytes, at most %d can be kept", len(opts.BaseID), maxBaseID)
	}
	o = newOverlay(dir, base, opts)
	if err := o.fs.MkdirAll(dir); err != nil {
		return nil, err
	}
	defer o.releaseOnError(&err)
	if o.medium.journal, err = o.fs.OpenFile(o.path(journalName), os.O_CREATE); err != nil {
		return nil, err
	}
	if err := o.medium.journal.Lock(); err != nil {
		return nil, err
	}
	if f, err := o.fs.OpenFile(o.path(indexName), 0); err == nil {
		return nil, errors.Join(fmt.Errorf("an overlay is there: %w", fs.ErrExist), f.Close())
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := o.medium.resetJournal(); err != nil {
		return nil, err
	}
	o.key = newKey()
	if err := o.keys.Store(o.key); err != nil {
		return nil, fmt.Errorf("store key: %w", err)
	}
	check, err := keyCheck(o.key)
	if err != nil {
		return nil, err
	}
	o.head = indexHeader{size: size, baseSize: base.Size(), check: check, baseID: opts.BaseID}
	o.states = newStateMap(o.head.blocks())
	if _, err := o.openRecent(0, 0); err != nil {
		return nil, err
	}
	if o.top, err = o.newLayer(0); err != nil {
		return nil, err
	}
	o.table = (&layers{}).with(o.top)
	if err := o.checkpoint(false, nil); err != nil {
		return nil, err
	}
	return o, o.removeStray()
}

func checkSize(size, base int64) error {
	if !validSize(size) {
		return fmt.Errorf("size of %d bytes: want a multiple of %d, at most %d", size, blockdev.SectorSize, int64(maxSize))
	}
	if base%blockdev.SectorSize != 0 {
		return fmt.Errorf("size of the base, %d bytes, is no multiple of %d", base, blockdev.SectorSize)
	}
	if size < base {
		return fmt.Errorf("size of %d bytes is less than the base's, %d", size, base)
	}
	return nil
}

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

// Open opens the overlay of a folder. One whose process was killed has all that
// was acknowledged; after a power cut it is brought to a state that its last Flush
// or a later moment left. The errors ErrBase, ErrKey,
// ErrCorrupt, ErrInUse and fs.ErrNotExist come wrapped. For base see Create.
func Open(dir string, base blockdev.Device, opts Options) (*Overlay, error) {
	o, err := open(dir, base, opts)
	if err != nil {
		return nil, fmt.Errorf("open overlay %s: %w", dir, err)
	}
	return o, nil
}

func open(dir string, base blockdev.Device, opts Options) (o *Overlay, err error) {
	o = newOverlay(dir, base, opts)
	defer o.releaseOnError(&err)
	// The journal's name never goes to another file, so it carries the lock.
	if o.medium.journal, err = o.fs.OpenFile(o.path(journalName), 0); err != nil {
		return nil, err
	}
	if err := o.medium.journal.Lock(); err != nil {
		return nil, err
	}
	head, states, err := loadIndex(o.fs, o.path(indexName))
	if err != nil {
		return nil, err
	}
	o.head, o.states = *head, states
	if err := o.checkBase(opts); err != nil {
		return nil, err
	}
	if err := o.unlock(); err != nil {
		return nil, err
	}
	if err := o.openLayers(); err != nil {
		return nil, err
	}
	log, err := readJournal(o.medium.journal)
	if err != nil {
		return nil, err
	}
	batch, err := replayJournal(log, head.epoch, head.blocks(), o.top.state(), func(c change) { o.states.set(c.block, c.n, c.state) })
	if err != nil {
		return nil, err
	}
	changes, err := o.openRecent(head.epoch, batch)
	if err != nil {
		return nil, err
	}
	if err := o.applyRecent(changes); err != nil {
		return nil, err
	}
	return o, o.start(opts, o.head.clean && len(changes) == 0)
}

func loadIndex(fsys FS, path string) (*indexHeader, stateMap, error) {
	f, err := fsys.OpenFile(path, 0)
	if err != nil {
		return nil, stateMap{}, err
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		return nil, stateMap{}, err
	}
	return readIndex(f, size)
}

// checkBase compares base and size with what the index says.
func (o *Overlay) checkBase(opts Options) error {
	if o.base.Size() != o.head.baseSize || opts.BaseID != o.head.baseID {
		return fmt.Errorf("%w: made for %q of %d bytes, opened with %q of %d",
			ErrBase, o.head.baseID, o.head.baseSize, opts.BaseID, o.base.Size())
	}
	if opts.Size != 0 && opts.Size < o.head.size {
		return fmt.Errorf("size of %d bytes is less than %d: a disk cannot shrink", opts.Size, o.head.size)
	}
	return checkSize(max(opts.Size, o.head.size), o.head.baseSize)
}

func (o *Overlay) unlock() (err error) {
	if o.key, err = o.keys.Load(); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: it was erased", ErrKey)
	} else if err != nil {
		return fmt.Errorf("load key: %w", err)
	}
	check, err := keyCheck(o.key)
	if err == nil && (len(o.key) != KeySize || check != o.head.check) {
		err = ErrKey
	}
	return err
}

// openLayers makes the stack that the index names. All files must be there; only
// the top's is opened.
func (o *Overlay) openLayers() error {
	names, err := o.fs.ReadDir(o.dir)
	if err != nil {
		return err
	}
	o.table = &layers{}
	for _, info := range o.head.layers {
		if !slices.Contains(names, layerName(info.id)) {
			return corrupt("%s is gone", layerName(info.id))
		}
		o.top = o.layer(info)
		o.table = o.table.with(o.top)
	}
	return o.top.need()
}

// start makes what was read the state to go on from: on the medium, with the
// files rid of what no index names.
func (o *Overlay) start(opts Options, clean bool) error {
	if opts.Size > o.head.size {
		o.head.size = opts.Size
		o.states.grow(o.head.blocks())
	}
	// The top, and what was the top when the index was written.
	tops := o.table.all()[len(o.head.layers)-1:]
	for _, l := range tops {
		if err := l.file.Truncate(o.head.blocks() * blockSize); err != nil {
			return err
		}
		l.blocks = o.states.count(l.state())
	}
	for _, l := range o.table.all() {
		o.used += l.blocks * blockSize
	}
	// What a killed process wrote may be in the cache of the system alone. It is
	// about to be read, so it may not be lost any more: this syncs it.
	for _, l := range tops[:len(tops)-1] {
		if err := l.file.Sync(); err != nil {
			return fmt.Errorf("sync layer %016x: %w", l.id, err)
		}
	}
	if err := o.checkpoint(false, nil); err != nil {
		return err
	}
	if clean {
		return nil
	}
	if err := o.removeStray(); err != nil {
		return err
	}
	for _, l := range tops {
		if err := o.punchStray(l); err != nil {
			return err
		}
	}
	return nil
}

// removeStray removes files of layers that the index does not name.
func (o *Overlay) removeStray() error {
	names, err := o.fs.ReadDir(o.dir)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, l := range o.table.all() {
		named[layerName(l.id)] = true
	}
	for _, name := range names {
		if strings.HasPrefix(name, layerPrefix) && !named[name] {
			if err := o.fs.Remove(o.path(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// punchStray gives back what a layer's file has and the index does not name:
// blocks that were written and are not in it, or zeroed and not punched.
func (o *Overlay) punchStray(l *layer) error {
	for at := int64(0); ; {
		from, to, err := l.file.NextData(at)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for data in layer %016x: %w", l.id, err)
		}
		end := min((to+blockSize-1)>>blockShift, o.head.blocks())
		for b := from >> blockShift; b < end; {
			state, n := o.states.run(b, end)
			if state != l.state() {
				err := l.file.Punch(b*blockSize, n*blockSize)
				if errors.Is(err, errors.ErrUnsupported) {
					return nil
				}
				if err != nil {
					return err
				}
			}
			b += n
		}
		at = to
	}
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

// Destroy closes the overlay, erases its key and removes its files.
func (o *Overlay) Destroy() error {
	o.life.Lock()
	defer o.life.Unlock()
	var err error
	if !o.closed {
		o.closed = true
		err = o.closeFiles()
	}
	return errors.Join(err, destroy(o.dir, o.fs, o.keys))
}

// Destroy erases the key of the overlay in a folder, and then removes its files,
// and the folder if nothing else is in it. From the first step on nothing can be read any more. It works
// for what Create left half-made, for what Open refuses, and where nothing is.
func Destroy(dir string, opts Options) error {
	fsys := opts.fs()
	journal, err := fsys.OpenFile(filepath.Join(dir, journalName), 0)
	if err == nil {
		if err := journal.Lock(); err != nil {
			return fmt.Errorf("destroy overlay %s: %w", dir, errors.Join(err, journal.Close()))
		}
		defer func() { _ = journal.Close() }()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("destroy overlay %s: %w", dir, err)
	}
	return destroy(dir, fsys, opts.keys(dir))
}

func destroy(dir string, fsys FS, keys Keys) error {
	if err := keys.Erase(); err != nil {
		return fmt.Errorf("erase key of overlay %s: %w", dir, err)
	}
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, name := range names {
		if name == indexName || name == newIndexName || name == journalName || name == recentName || strings.HasPrefix(name, layerPrefix) {
			errs = append(errs, fsys.Remove(filepath.Join(dir, name)))
		}
	}
	if err := fsys.Remove(dir); !errors.Is(err, syscall.ENOTEMPTY) { // the caller has something in it
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy overlay %s: %w", dir, err)
	}
	return nil
}

// Info is what can be told of an overlay without its key and base.
type Info struct {
	BaseID   string
	BaseSize int64 // bytes
	Size     int64 // bytes
	Layers   int
	Clean    bool // closed in good order
}

// Inspect reads about the overlay in a folder, open or not. fsys may be nil, for OS.
func Inspect(dir string, fsys FS) (Info, error) {
	f, err := Options{FS: fsys}.fs().OpenFile(filepath.Join(dir, indexName), 0)
	if err != nil {
		return Info{}, fmt.Errorf("inspect overlay %s: %w", dir, err)
	}
	defer func() { _ = f.Close() }()
	size, err := f.Size()
	if err != nil {
		return Info{}, fmt.Errorf("inspect overlay %s: %w", dir, err)
	}
	h, _, _, err := readIndexHeader(f, size)
	if err != nil {
		return Info{}, fmt.Errorf("inspect overlay %s: %w", dir, err)
	}
	return Info{BaseID: h.baseID, BaseSize: h.baseSize, Size: h.size, Layers: len(h.layers), Clean: h.clean}, nil
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
