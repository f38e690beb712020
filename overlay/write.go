package overlay

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/rivuletfs/rivulet/blockdev"
)

// A buffer is for what is sealed before it is written: small, or for a region
// and what it is rounded by.
type buffer struct{ b []byte }

const smallBuffer = 4 * blockSize

var (
	smallPool = sync.Pool{New: func() any { return &buffer{make([]byte, smallBuffer)} }}
	largePool = sync.Pool{New: func() any { return &buffer{make([]byte, regionSize)} }}
)

func poolFor(n int64) *sync.Pool {
	if n <= smallBuffer {
		return &smallPool
	}
	return &largePool
}

// WriteAt writes as blockdev.Writer says. Writes of whole blocks read nothing; of
// a block that has no data in the top layer yet, the rest is read from where it
// is, once.
func (o *Overlay) WriteAt(p []byte, off int64) (int, error) {
	if err := o.enter(); err != nil {
		return 0, fmt.Errorf("write overlay: %w", err)
	}
	defer o.leave()
	if err := blockdev.CheckRange(off, int64(len(p)), o.head.size); err != nil {
		return 0, fmt.Errorf("write overlay: %w", err)
	}
	done := 0
	for done < len(p) {
		n := int(min(int64(len(p)-done), regionSize-off%regionSize))
		if err := o.writePiece(p[done:done+n], off); err != nil {
			return done, fmt.Errorf("write %d bytes at %d of overlay %s: %w", n, off, o.dir, err)
		}
		done, off = done+n, off+int64(n)
	}
	o.stats.written.Add(int64(done))
	return done, o.flushIfMany()
}

// writePiece writes a part of one region.
func (o *Overlay) writePiece(p []byte, off int64) error {
	write := func() error { return o.lockAndWrite(p, off) }
	err := o.withRoom(write)
	if errors.Is(err, ErrQuota) {
		if err := o.reclaim(); err != nil {
			return err
		}
		err = o.withRoom(write)
	}
	return err
}

// withRoom makes a change, after a flush if there is no room to note it.
func (o *Overlay) withRoom(change func() error) error {
	for {
		err := change()
		if !errors.Is(err, errRecentFull) {
			return err
		}
		o.dirty.Store(true)
		if err := o.flush(); err != nil {
			return err
		}
	}
}

func (o *Overlay) lockAndWrite(p []byte, off int64) error {
	block := off >> blockShift
	n := (off+int64(len(p))+blockSize-1)>>blockShift - block
	o.locks.lock(block, n)
	defer o.locks.unlock(block, n)
	if err := o.flusher.err(); err != nil {
		return err
	}
	for {
		done, err := o.tryWrite(p, off, block, n)
		if done || err != nil {
			return err
		}
	}
}

// tryWrite writes to locked blocks. It reports false if there was a snapshot
// meanwhile: then all is as before, and to be looked at again.
func (o *Overlay) tryWrite(p []byte, off, block, n int64) (bool, error) {
	var states [regionBlocks]uint8
	o.mu.RLock()
	table, top := o.table, o.top
	o.states.load(states[:n], block)
	o.mu.RUnlock()

	// Whole sectors where the layer has the block already, else whole blocks.
	end := off + int64(len(p))
	from, to := off&^(sectorSize-1), (end+sectorSize-1)&^(sectorSize-1)
	if states[0] != top.state() {
		from = off &^ (blockSize - 1)
	}
	if states[n-1] != top.state() {
		to = (end + blockSize - 1) &^ (blockSize - 1)
	}
	pool := poolFor(to - from)
	buf := pool.Get().(*buffer)
	defer pool.Put(buf)
	b := buf.b[:to-from]
	if from == off && to == end {
		top.cipher.encrypt(b, p, from)
	} else {
		if err := o.fillEdges(b, from, off, end, states[:n], table); err != nil {
			return false, err
		}
		copy(b[off-from:], p)
		top.cipher.encrypt(b, b, from)
	}
	o.gate.RLock()
	defer o.gate.RUnlock()
	if o.top != top {
		return false, nil
	}
	return true, o.put(b, from, block, states[:n], false)
}

// fillEdges reads what b, of the disk from from on, has before off and behind
// end.
func (o *Overlay) fillEdges(b []byte, from, off, end int64, states []uint8, table *layers) error {
	to := from + int64(len(b))
	if len(states) == 1 {
		return o.fill(b, from, states[0], table)
	}
	if from < off {
		// The rest of the sector too: layers are read by the sector.
		n := (off+sectorSize-1)&^(sectorSize-1) - from
		if err := o.fill(b[:n], from, states[0], table); err != nil {
			return err
		}
	}
	if end < to {
		at := end &^ (sectorSize - 1)
		return o.fill(b[at-from:], at, states[len(states)-1], table)
	}
	return nil
}

// fill reads a part of a locked block, which has a state.
func (o *Overlay) fill(b []byte, at int64, state uint8, table *layers) error {
	switch {
	case state == stateBase:
		return o.readBase(b, at)
	case state < firstLayer:
		clear(b)
		return nil
	}
	return table.of(state).read(b, at)
}

// put writes sealed bytes to the top layer's locked blocks, and sets their states.
// The caller shares the gate.
func (o *Overlay) put(b []byte, from, block int64, states []uint8, unbounded bool) error {
	state := o.top.state()
	isNew, fresh := false, int64(0) // blocks that take space now
	for _, s := range states {
		isNew = isNew || s != state
		if !onTop(s, state) {
			fresh++
		}
	}
	if isNew {
		if err := o.reserve(o.top, fresh, unbounded); err != nil {
			return err
		}
	}
	_, err := o.top.file.WriteAt(b, from)
	if err != nil {
		o.undo(block, states, fresh, isNew)
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w: %w", blockdev.ErrNoSpace, err)
		}
		return err
	}
	if !isNew {
		o.dirty.Store(true)
		return nil
	}
	o.mu.Lock()
	o.recent.release()
	o.states.set(block, int64(len(states)), state)
	number := o.note(change{block: block, n: int64(len(states)), state: state})
	o.mu.Unlock()
	o.dirty.Store(true)
	// With the blocks' locks, or a rewrite would be acknowledged before them.
	return o.keepRecent(number)
}

// undo gives back what a failed write may have taken.
func (o *Overlay) undo(block int64, states []uint8, fresh int64, isNew bool) {
	for i, s := range states {
		if !onTop(s, o.top.state()) {
			_ = o.top.file.Punch((block+int64(i))*blockSize, blockSize)
		}
	}
	o.mu.Lock()
	o.charge(o.top, -fresh)
	if isNew {
		o.recent.release()
	}
	o.mu.Unlock()
	o.dirty.Store(true)
}

// note adds to the changes that the next flush writes down, and to the recent
// ones; it returns the number that keepRecent wants. The caller has mu.
func (o *Overlay) note(c change) uint64 {
	number := o.recent.note(c.state, uint64(c.block), uint64(c.n))
	if k := len(o.pending) - 1; k >= 0 {
		last := &o.pending[k]
		if last.state == c.state && last.block+last.n == c.block && last.n+c.n <= maxChange {
			last.n += c.n
			last.drop = last.drop || c.drop
			return number
		}
	}
	o.pending = append(o.pending, c)
	return number
}

// flushIfMany bounds what waits for a flush.
func (o *Overlay) flushIfMany() error {
	o.mu.RLock()
	many := len(o.pending) >= maxPending || o.recent.crowded()
	o.mu.RUnlock()
	if !many {
		return nil
	}
	return o.flush()
}
