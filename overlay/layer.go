package overlay

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// A layer is one file of blocks, each at the place that it has on the disk. The
// top layer's is written, the others' never change but for blocks that nothing
// names any more.
type layer struct {
	layerInfo     // blocks is guarded by Overlay.mu
	readers   int // open snapshots that may read it; guarded by Overlay.mu

	// Set by need.
	opening sync.Mutex
	opened  atomic.Bool
	file    File
	cipher  *sectorCipher
	open    func() (File, *sectorCipher, error)
}

// need opens the layer's file, if it is not. A stack opens in the same time at any
// depth since its lower layers wait for who reads them.
func (l *layer) need() error {
	if l.opened.Load() {
		return nil
	}
	l.opening.Lock()
	defer l.opening.Unlock()
	if l.opened.Load() {
		return nil
	}
	var err error
	if l.file, l.cipher, err = l.open(); err != nil {
		return err
	}
	l.opened.Store(true)
	return nil
}

func (l *layer) close() error {
	if !l.opened.Load() {
		return nil
	}
	return l.file.Close()
}

// layers are a stack, by slot and by age. It is never changed.
type layers struct {
	slots [maxLayers]*layer
	order []*layer // oldest first
}

func (t *layers) all() []*layer { return t.order }

func (t *layers) of(state uint8) *layer { return t.slots[state-firstLayer] }

// with returns the stack with one more on top.
func (t *layers) with(l *layer) *layers {
	next := &layers{slots: t.slots, order: append(append([]*layer(nil), t.order...), l)}
	next.slots[l.slot] = l
	return next
}

// without returns the stack without one.
func (t *layers) without(l *layer) *layers {
	next := &layers{slots: t.slots}
	next.slots[l.slot] = nil
	for _, other := range t.order {
		if other != l {
			next.order = append(next.order, other)
		}
	}
	return next
}

func (t *layers) freeSlot() (int, bool) {
	for i, l := range t.slots {
		if l == nil {
			return i, true
		}
	}
	return 0, false
}

// layer returns a layer whose file is there, and not open.
func (o *Overlay) layer(info layerInfo) *layer { return o.layerBy(info, 0) }

func (o *Overlay) layerBy(info layerInfo, flag int) *layer {
	return &layer{layerInfo: info, open: func() (File, *sectorCipher, error) {
		c, err := newSectorCipher(o.key, info.id)
		if err != nil {
			return nil, nil, err
		}
		f, err := o.fs.OpenFile(o.path(layerName(info.id)), flag)
		return f, c, err
	}}
}

// newLayer makes the file of a new, empty layer. Its name is not durable.
func (o *Overlay) newLayer(slot int) (*layer, error) {
	l := o.layerBy(layerInfo{id: randomID(), slot: slot}, os.O_CREATE|os.O_TRUNC)
	if err := l.need(); err != nil {
		return nil, err
	}
	// With its full length from the start, a file's writes change no length that
	// would have to be synced. Open sets it again.
	if err := l.file.Truncate(o.head.blocks() * blockSize); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// sectorPool has buffers for parts of sectors.
var sectorPool = sync.Pool{New: func() any { return new([sectorSize]byte) }}

// read fills p with the plaintext at off, from blocks that the layer has.
func (l *layer) read(p []byte, off int64) error {
	if head := off % sectorSize; head != 0 && len(p) > 0 {
		n := min(int64(len(p)), sectorSize-head)
		if err := l.readPart(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	whole := len(p) &^ (sectorSize - 1)
	if whole > 0 {
		if err := l.readSectors(p[:whole], off); err != nil {
			return err
		}
	}
	if whole < len(p) {
		return l.readPart(p[whole:], off+int64(whole))
	}
	return nil
}

func (l *layer) readSectors(p []byte, off int64) error {
	if err := l.need(); err != nil {
		return err
	}
	if err := readFull(l.file, p, off); err != nil {
		return fmt.Errorf("read layer %016x: %w", l.id, err)
	}
	l.cipher.decrypt(p, off)
	return nil
}

// readPart reads a part of one sector.
func (l *layer) readPart(p []byte, off int64) error {
	sector := sectorPool.Get().(*[sectorSize]byte)
	defer sectorPool.Put(sector)
	if err := l.readSectors(sector[:], off&^(sectorSize-1)); err != nil {
		return err
	}
	copy(p, sector[off%sectorSize:])
	return nil
}
