package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/rivuletfs/rivulet/blockdev"
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
