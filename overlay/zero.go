package overlay

import (
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/blockdev"
)

// Discard makes the range read as zeros, also where the base has data. Whole
// blocks take no space from the next flush on.
func (o *Overlay) Discard(off, length int64) error { return o.zero("discard", off, length) }

// WriteZeroes does what Discard does: files that are not preallocated have no
// space to keep.
func (o *Overlay) WriteZeroes(off, length int64) error { return o.zero("zero", off, length) }

func (o *Overlay) zero(op string, off, length int64) error {
	if err := o.enter(); err != nil {
		return fmt.Errorf("%s in overlay: %w", op, err)
	}
	defer o.leave()
	err := blockdev.CheckRange(off, length, o.head.size)
	if err == nil {
		err = o.zeroRange(off, off+length)
	}
	if err == nil {
		err = o.flushIfMany()
	}
	if err != nil {
		return fmt.Errorf("%s %d bytes at %d of overlay %s: %w", op, length, off, o.dir, err)
	}
	o.stats.zeroed.Add(length)
	return nil
}

func (o *Overlay) zeroRange(off, end int64) error {
	first := (off + blockSize - 1) >> blockShift
	behind := end >> blockShift
	if end == o.head.size {
		behind = o.head.blocks() // the disk has no more of the last block
	}
	if first >= behind {
		return o.zeroBytes(off, end)
	}
	if err := o.zeroBytes(off, first*blockSize); err != nil {
		return err
	}
	for b := first; b < behind; {
		n := min(behind-b, regionBlocks-b%regionBlocks)
		if err := o.withRoom(func() error { return o.zeroBlocks(b, n) }); err != nil {
			return err
		}
		b += n
	}
	return o.zeroBytes(behind*blockSize, end)
}

var zeros [blockSize]byte

// zeroBytes writes zeros to parts of blocks.
func (o *Overlay) zeroBytes(off, end int64) error {
	for off < end {
		n := min(end-off, blockSize-off%blockSize)
		o.mu.RLock()
		state, number := o.states.get(off>>blockShift), o.recent.next-1
		o.mu.RUnlock()
		var err error
		if state == stateBase && off < o.head.baseSize || state >= firstLayer {
			err = o.writePiece(zeros[:n], off)
		} else {
			err = o.keepRecent(number) // a block of zeros stays one; somebody may just have made it one
		}
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

// zeroBlocks zeroes whole blocks of one region. After errRecentFull some may be.
func (o *Overlay) zeroBlocks(block, n int64) error {
	o.locks.lock(block, n)
	defer o.locks.unlock(block, n)
	if err := o.flusher.err(); err != nil {
		return err
	}
	o.gate.RLock()
	defer o.gate.RUnlock()
	number, err := o.zeroStates(block, n)
	return errors.Join(err, o.keepRecent(number))
}

// zeroStates gives locked blocks states that are zeros. It returns the number of
// the last change, 0 if there was none; with an error some are made.
func (o *Overlay) zeroStates(block, n int64) (number uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	top := o.top.state()
	inBase := (o.head.baseSize+blockSize-1)>>blockShift - 1 // the base's last block
	for b, end := block, block+n; b < end; {
		state, k := o.states.run(b, end)
		switch {
		case state == stateBase && b <= inBase:
			k = min(k, inBase+1-b)
		case state < firstLayer: // zeros
			b += k
			continue
		}
		if err := o.recent.promise(); err != nil {
			return number, err
		}
		o.recent.release()
		c := change{block: b, n: k, state: stateZero, drop: state == top}
		if c.drop {
			o.states.set(b, k, stateDrop)
		} else {
			o.states.set(b, k, stateZero)
		}
		number = o.note(c)
		o.dirty.Store(true)
		b += k
	}
	return number, nil
}
