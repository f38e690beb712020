package overlay

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/blockdev"
)

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
