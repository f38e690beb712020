package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/blockdev"
)

// readBase fills b from the base, and with zeros behind its end.
func (o *Overlay) readBase(b []byte, off int64) error {
	n := min(max(o.head.baseSize-off, 0), int64(len(b)))
	clear(b[n:])
	if n == 0 {
		return nil
	}
	got, err := o.base.ReadAt(b[:n], off)
	if int64(got) == n {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read base: %w", err)
}

// clip returns the part of a read that lies within size bytes, and the error
// that the rest makes.
func clip(p []byte, off, size int64) ([]byte, error) {
	if off < 0 {
		return nil, fmt.Errorf("read overlay at %d: offset is negative", off)
	}
	if off >= size {
		return nil, io.EOF
	}
	if int64(len(p)) > size-off {
		return p[:size-off], io.EOF
	}
	return p, nil
}

// ReadAt reads as blockdev.Device says. What comes from the overlay's files is
// read without a sum of its own: doc/threat-model.md says what that means.
func (o *Overlay) ReadAt(p []byte, off int64) (int, error) {
	if err := o.enter(); err != nil {
		return 0, fmt.Errorf("read overlay: %w", err)
	}
	defer o.leave()
	p, end := clip(p, off, o.head.size)
	done := 0
	for done < len(p) {
		n, err := o.readSome(p[done:], off)
		if err != nil {
			return done, fmt.Errorf("read %d bytes at %d of overlay %s: %w", n, off, o.dir, err)
		}
		done, off = done+n, off+int64(n)
	}
	return done, end
}

// readSome reads a beginning of p: as much as lies in the base, or else what lies
// in one region.
func (o *Overlay) readSome(p []byte, off int64) (int, error) {
	block, end := off>>blockShift, (off+int64(len(p))+blockSize-1)>>blockShift
	o.mu.RLock()
	state, n := o.states.run(block, end)
	o.mu.RUnlock()
	if state == stateBase {
		// In one call, so that the base can bring all of it at once. Somebody may
		// write the blocks meanwhile; a read beside a write may return what was.
		k := int(min(int64(len(p)), (block+n)*blockSize-off))
		return k, o.readBase(p[:k], off)
	}
	k := int(min(int64(len(p)), regionSize-off%regionSize))
	return k, o.readRegion(p[:k], off)
}

// readRegion reads within one region: first what lies in files, under the blocks'
// locks, then what the base has, without.
func (o *Overlay) readRegion(p []byte, off int64) error {
	block := off >> blockShift
	n := (off+int64(len(p))+blockSize-1)>>blockShift - block
	var states [regionBlocks]uint8
	base, err := o.readLocal(p, off, block, states[:n])
	if err != nil || !base {
		return err
	}
	return eachRun(p, off, block, states[:n], func(part []byte, at int64, state uint8) error {
		if state != stateBase {
			return nil
		}
		return o.readBase(part, at)
	})
}

// readLocal sets states, and reads all but what the base has. It reports whether
// that is any.
func (o *Overlay) readLocal(p []byte, off, block int64, states []uint8) (base bool, err error) {
	o.locks.lock(block, int64(len(states)))
	defer o.locks.unlock(block, int64(len(states)))
	o.mu.RLock()
	table := o.table
	o.states.load(states, block)
	o.mu.RUnlock()
	err = eachRun(p, off, block, states, func(part []byte, at int64, state uint8) error {
		switch {
		case state == stateBase:
			base = true
			return nil
		case state < firstLayer:
			clear(part)
			return nil
		}
		return table.of(state).read(part, at)
	})
	return base, err
}

// eachRun cuts p, which begins at off in the first of the blocks, at changes of
// state.
func eachRun(p []byte, off, block int64, states []uint8, read func(part []byte, at int64, state uint8) error) error {
	for i := 0; i < len(states); {
		j := i + 1
		for j < len(states) && states[j] == states[i] {
			j++
		}
		k := int(min(int64(len(p)), (block+int64(j))*blockSize-off))
		if err := read(p[:k], off, states[i]); err != nil {
			return err
		}
		p, off, i = p[k:], off+int64(k), j
	}
	return nil
}

// run returns what block is, and how many blocks before end are like it.
func (o *Overlay) run(block, end int64) (uint8, int64) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.states.run(block, end)
}

// A runFunc is run, of an overlay or a snapshot.
type runFunc func(block, end int64) (uint8, int64)

// baseRuns calls fn for the parts of [off, end) that lie in the base, and other for
// the others.
func (o *Overlay) eachPart(off, end int64, run runFunc, fn func(from, to int64, state uint8) error) error {
	last := (end + blockSize - 1) >> blockShift
	for off < end {
		block := off >> blockShift
		state, n := run(block, last)
		to := min(end, (block+n)*blockSize)
		if state == stateBase && off < o.head.baseSize {
			to = min(to, o.head.baseSize)
		}
		if err := fn(off, to, state); err != nil {
			return err
		}
		off = to
	}
	return nil
}

func (o *Overlay) prefetch(ctx context.Context, off, length int64, run runFunc) error {
	if err := blockdev.CheckRange(off, length, o.head.size); err != nil {
		return fmt.Errorf("prefetch overlay: %w", err)
	}
	return o.eachPart(off, off+length, run, func(from, to int64, state uint8) error {
		if state != stateBase || from >= o.head.baseSize {
			return nil
		}
		return blockdev.Prefetch(ctx, o.base, from, to-from)
	})
}

// errStop ends a walk whose caller has seen enough.
var errStop = errors.New("stop")

// Extents lists what is data, zeros, and local: all that is not the base's is.
func (o *Overlay) Extents(ctx context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	if err := o.enter(); err != nil {
		return fmt.Errorf("list extents of overlay: %w", err)
	}
	defer o.leave()
	return o.extents(ctx, off, length, o.run, fn)
}

func (o *Overlay) extents(ctx context.Context, off, length int64, run runFunc, fn func(blockdev.Extent) bool) error {
	if err := blockdev.CheckRange(off, length, o.head.size); err != nil {
		return fmt.Errorf("list extents of overlay: %w", err)
	}
	var last blockdev.Extent // told when its end is known
	add := func(e blockdev.Extent) bool {
		if last.Length > 0 && last.Hole == e.Hole && last.Local == e.Local {
			last.Length += e.Length
			return true
		}
		more := last.Length == 0 || fn(last)
		last = e
		return more
	}
	err := o.eachPart(off, off+length, run, func(from, to int64, state uint8) error {
		more := true
		if state == stateBase && from < o.head.baseSize {
			err := blockdev.Extents(ctx, o.base, from, to-from, func(e blockdev.Extent) bool {
				more = add(e)
				return more
			})
			if err != nil {
				return err
			}
		} else {
			more = add(blockdev.Extent{Offset: from, Length: to - from, Hole: state < firstLayer, Local: true})
		}
		if !more {
			return errStop
		}
		return ctx.Err()
	})
	if errors.Is(err, errStop) {
		return nil
	}
	if err == nil && last.Length > 0 {
		fn(last)
	}
	return err
}

// Changed calls fn for the ranges that were written or zeroed, in order, by whole
// blocks but at the disk's end, until fn returns false. zero tells ranges that read
// as zeros from those with data; neighbours differ in it. The others are the
// base's, or lie behind its end. Writes that run beside it may be in or not: take
// a Snapshot for a fixed answer.
func (o *Overlay) Changed(ctx context.Context, fn func(off, length int64, zero bool) bool) error {
	if err := o.enter(); err != nil {
		return fmt.Errorf("list changes of overlay: %w", err)
	}
	defer o.leave()
	return o.changed(ctx, o.run, fn)
}

func (o *Overlay) changed(ctx context.Context, run runFunc, fn func(off, length int64, zero bool) bool) error {
	var off, length int64
	var zero bool
	err := o.eachPart(0, o.head.size, run, func(from, to int64, state uint8) error {
		isZero := state < firstLayer
		switch {
		case state == stateBase:
			return ctx.Err()
		case length > 0 && off+length == from && zero == isZero:
			length += to - from
			return nil
		case length > 0 && !fn(off, length, zero):
			return errStop
		}
		off, length, zero = from, to-from, isZero
		return ctx.Err()
	})
	if errors.Is(err, errStop) {
		return nil
	}
	if err == nil && length > 0 {
		fn(off, length, zero)
	}
	return err
}
