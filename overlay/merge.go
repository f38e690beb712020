package overlay

import (
	"context"
	"fmt"
)

// mergeBlocks is how many blocks are copied before they are flushed, and their old
// places given back: what a merge takes for a while beyond the quota. Tests have
// less.
var mergeBlocks = int64(1024)

// Merge brings the stack down to a number of layers, at least 1: the blocks of the
// smallest frozen layers are copied to the top, and their files removed. Layers that
// an open Snapshot reads stay, so there may be more left. Reads, writes and
// snapshots go on; only one Merge runs at a time. One that was interrupted, by ctx
// or a crash, has lost nothing, and the next goes on with it.
func (o *Overlay) Merge(ctx context.Context, layers int) error {
	if err := o.enter(); err != nil {
		return fmt.Errorf("merge overlay: %w", err)
	}
	defer o.leave()
	o.merging.Lock()
	defer o.merging.Unlock()
	for {
		l := o.smallest(max(layers, 1))
		if l == nil {
			return nil
		}
		if err := o.mergeLayer(ctx, l); err != nil {
			return fmt.Errorf("merge layer %016x of overlay %s: %w", l.id, o.dir, err)
		}
	}
}

// smallest returns the frozen layer that is the least work, nil if there are few
// enough.
func (o *Overlay) smallest(layers int) *layer {
	o.mu.RLock()
	defer o.mu.RUnlock()
	all := o.table.all()
	if len(all) <= layers {
		return nil
	}
	var least *layer
	for _, l := range all {
		if l != o.top && l.readers == 0 && (least == nil || l.blocks < least.blocks) {
			least = l
		}
	}
	return least
}

// mergeLayer empties a layer and removes it, unless a snapshot begins to read it
// meanwhile.
func (o *Overlay) mergeLayer(ctx context.Context, l *layer) error {
	if err := l.need(); err != nil {
		return err
	}
	var moved []change
	count := int64(0)
	for b, end := int64(0), o.head.blocks(); b < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		state, n := o.run(b, end)
		if state != l.state() {
			b += n
			continue
		}
		n = min(n, regionBlocks-b%regionBlocks)
		if err := o.withRoom(func() error { return o.moveBlocks(l, b, n) }); err != nil {
			return err
		}
		moved, count = append(moved, change{block: b, n: n}), count+n
		b += n
		if count >= mergeBlocks {
			if err := o.punchMoved(l, moved); err != nil {
				return err
			}
			moved, count = moved[:0], 0
		}
	}
	return o.removeLayer(l)
}

// moveBlocks copies blocks of a region to the top, those that are in the layer
// still.
func (o *Overlay) moveBlocks(l *layer, block, n int64) error {
	o.locks.lock(block, n)
	defer o.locks.unlock(block, n)
	buf := largePool.Get().(*buffer)
	defer largePool.Put(buf)
	for b, end := block, block+n; b < end; {
		state, k := o.run(b, end)
		if state == l.state() {
			if err := o.moveRun(l, b, buf.b[:k*blockSize]); err != nil {
				return err
			}
		}
		b += k
	}
	return nil
}

// moveRun copies locked blocks of a layer.
func (o *Overlay) moveRun(l *layer, block int64, b []byte) error {
	if err := l.read(b, block*blockSize); err != nil {
		return err
	}
	o.gate.RLock()
	defer o.gate.RUnlock()
	o.top.cipher.encrypt(b, b, block*blockSize)
	var states [regionBlocks]uint8
	n := len(b) / blockSize
	for i := range n {
		states[i] = l.state()
	}
	return o.put(b, block*blockSize, block, states[:n], true)
}

// punchMoved gives back the old places of blocks, when their new ones are durable
// and no snapshot reads them.
func (o *Overlay) punchMoved(l *layer, moved []change) error {
	if err := o.flush(); err != nil {
		return err
	}
	o.mu.RLock()
	read := l.readers > 0
	o.mu.RUnlock()
	for _, c := range moved {
		// A block that was written before it could be moved has its old place, too.
		if !read && l.file.Punch(c.block*blockSize, c.n*blockSize) == nil {
			o.mu.Lock()
			o.charge(l, -min(c.n, l.blocks))
			o.mu.Unlock()
		}
	}
	return nil
}

// removeLayer takes a layer out of the stack if nothing needs it.
func (o *Overlay) removeLayer(l *layer) error {
	gone := false
	err := o.flusher.exclusively(func() error {
		return o.checkpoint(false, func() {
			if gone = l.readers == 0 && o.states.count(l.state()) == 0; gone {
				o.table = o.table.without(l)
				o.charge(l, -l.blocks)
			}
		})
	})
	if err != nil || !gone {
		return err
	}
	if err := l.close(); err != nil {
		return err
	}
	return o.fs.Remove(o.path(layerName(l.id)))
}
