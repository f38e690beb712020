package overlay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/blockdev"
)

// A Snapshot is an overlay as it was at one moment, for reading.
type Snapshot struct {
	o      *Overlay
	states stateMap
	table  *layers
	closed atomic.Bool
}

var (
	_ blockdev.Device     = (*Snapshot)(nil)
	_ blockdev.Extenter   = (*Snapshot)(nil)
	_ blockdev.Prefetcher = (*Snapshot)(nil)
)

// Snapshot freezes the overlay as it is now, with every write that has returned,
// and of those that run some parts and some not. Writes go on into a new layer; they
// wait for some microseconds. When Snapshot returns, all that it has is durable.
// The error is ErrLayers if there are 64 layers: Merge makes them fewer.
//
// Layers and their order outlive a restart; a Snapshot does not. It reads until
// it or the overlay is closed, and as long as it is open, Merge leaves its layers
// alone.
func (o *Overlay) Snapshot() (*Snapshot, error) {
	if err := o.enter(); err != nil {
		return nil, fmt.Errorf("snapshot overlay: %w", err)
	}
	defer o.leave()
	var s *Snapshot
	var refused error // before anything changed: no failure of the medium
	err := o.flusher.exclusively(func() error {
		next, err := o.nextLayer()
		if err != nil {
			refused = err
			return nil
		}
		s, err = o.freeze(next)
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot overlay %s: %w", o.dir, err)
	}
	return s, nil
}

// nextLayer makes the layer that is to be the top, durably, before an index names
// it.
func (o *Overlay) nextLayer() (*layer, error) {
	slot, ok := o.table.freeSlot()
	if !ok {
		return nil, ErrLayers
	}
	next, err := o.newLayer(slot)
	if err != nil {
		return nil, err
	}
	if err := o.fs.SyncDir(o.dir); err != nil {
		return nil, errors.Join(err, next.close(), o.fs.Remove(o.path(layerName(next.id))))
	}
	return next, nil
}

// freeze puts a new layer on top. The caller has the flusher.
func (o *Overlay) freeze(next *layer) (*Snapshot, error) {
	s := &Snapshot{o: o}
	old := o.top
	var dropped []change // zeroed runs that the old layer's file still has
	o.gate.Lock()
	batch, err := o.writeCheckpoint(false, func() {
		defer o.gate.Unlock()
		dropped = o.settleDrops()
		s.states, s.table = o.states.share(), o.table
		for _, l := range s.table.all() {
			l.readers++
		}
		o.table = o.table.with(next)
		o.top = next
	})
	if err != nil {
		s.release()
		return nil, err
	}
	for _, c := range dropped {
		if old.file.Punch(c.block*blockSize, c.n*blockSize) == nil {
			o.mu.Lock()
			o.charge(old, -c.n)
			o.mu.Unlock()
		}
	}
	o.giveBack(batch)
	return s, nil
}

// settleDrops makes zeroed blocks plain zeros, since the layer that has their old
// data is about to be frozen, and returns them. The caller has mu and the flusher.
func (o *Overlay) settleDrops() (dropped []change) {
	for b, end := int64(0), o.head.blocks(); b < end; {
		state, n := o.states.run(b, end)
		if state == stateDrop || state == stateReady {
			o.states.set(b, n, stateZero)
			dropped = append(dropped, change{block: b, n: n})
		}
		b += n
	}
	o.flusher.waiting = nil
	return dropped
}

// release lets go of the layers.
func (s *Snapshot) release() {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	for _, l := range s.table.all() {
		l.readers--
	}
}

// Close lets go of the snapshot's layers, so that they can be merged. Reads that
// run must have ended.
func (s *Snapshot) Close() error {
	if !s.closed.Swap(true) {
		s.release()
	}
	return nil
}

func (s *Snapshot) enter() error {
	if s.closed.Load() {
		return errors.New("the snapshot is closed")
	}
	return s.o.enter()
}

// Size returns the size in bytes.
func (s *Snapshot) Size() int64 { return s.o.head.size }

// ReadAt reads as blockdev.Device says.
func (s *Snapshot) ReadAt(p []byte, off int64) (int, error) {
	if err := s.enter(); err != nil {
		return 0, fmt.Errorf("read snapshot: %w", err)
	}
	defer s.o.leave()
	p, end := clip(p, off, s.Size())
	done := 0
	last := (off + int64(len(p)) + blockSize - 1) >> blockShift
	for done < len(p) {
		block := off >> blockShift
		state, n := s.states.run(block, last)
		part := p[done:]
		part = part[:min(int64(len(part)), (block+n)*blockSize-off)]
		if err := s.o.fill(part, off, state, s.table); err != nil {
			return done, fmt.Errorf("read %d bytes at %d of snapshot of overlay %s: %w", len(part), off, s.o.dir, err)
		}
		done, off = done+len(part), off+int64(len(part))
	}
	return done, end
}

// Extents lists what is data, zeros, and local, as that of Overlay.
func (s *Snapshot) Extents(ctx context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	if err := s.enter(); err != nil {
		return fmt.Errorf("list extents of snapshot: %w", err)
	}
	defer s.o.leave()
	return s.o.extents(ctx, off, length, s.states.run, fn)
}

// Prefetch passes the advice on for what the base has.
func (s *Snapshot) Prefetch(ctx context.Context, off, length int64) error {
	if err := s.enter(); err != nil {
		return fmt.Errorf("prefetch snapshot: %w", err)
	}
	defer s.o.leave()
	return s.o.prefetch(ctx, off, length, s.states.run)
}

// Changed lists the ranges that were written or zeroed, as that of Overlay.
func (s *Snapshot) Changed(ctx context.Context, fn func(off, length int64, zero bool) bool) error {
	if err := s.enter(); err != nil {
		return fmt.Errorf("list changes of snapshot: %w", err)
	}
	defer s.o.leave()
	return s.o.changed(ctx, s.states.run, fn)
}
