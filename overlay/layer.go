package overlay

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// A layer is one file of blocks, each at the place that it has on the disk. The
// top layer's is written, the others' never change but for blocks that nothing
// names any more.
type layer struct {
	layerInfo // blocks is guarded by Overlay.mu
	file      File
	cipher    *sectorCipher
	readers   int // open snapshots that may read it; guarded by Overlay.mu
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

func (o *Overlay) layer(info layerInfo, f File) (*layer, error) {
	c, err := newSectorCipher(o.key, info.id)
	if err != nil {
		return nil, err
	}
	return &layer{layerInfo: info, file: f, cipher: c}, nil
}

// newLayer makes the file of a new, empty layer. Its name is not durable.
func (o *Overlay) newLayer(slot int) (*layer, error) {
	info := layerInfo{id: randomID(), slot: slot}
	f, err := o.fs.OpenFile(o.path(layerName(info.id)), os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return nil, err
	}
	// With its full length from the start, a file's writes change no length that
	// would have to be synced. Open sets it again.
	err = f.Truncate(o.head.blocks() * blockSize)
	var l *layer
	if err == nil {
		l, err = o.layer(info, f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
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
