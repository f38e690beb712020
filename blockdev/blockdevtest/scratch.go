package blockdevtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/rivuletfs/rivulet/blockdev"
)

// A Scratch is a device in memory that can be written, with the medium beside
// it: Crash drops what was not flushed.
type Scratch struct {
	mu     sync.RWMutex
	data   []byte // as it is read
	medium []byte // as of the last Flush
	failed error
}

var (
	_ blockdev.Writer   = (*Scratch)(nil)
	_ blockdev.Extenter = (*Scratch)(nil)
)

// NewScratch returns a device whose bytes are a copy of data.
func NewScratch(data []byte) *Scratch {
	return &Scratch{data: append([]byte(nil), data...), medium: append([]byte(nil), data...)}
}

// Size returns the size in bytes.
func (s *Scratch) Size() int64 { return int64(len(s.data)) }

// ReadAt reads as blockdev.Device says.
func (s *Scratch) ReadAt(p []byte, off int64) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return NewMemory(s.data, nil).ReadAt(p, off)
}

// Extents lists the pages of zeros as holes.
func (s *Scratch) Extents(ctx context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return NewMemory(s.data, nil).Extents(ctx, off, length, fn)
}

// WriteAt writes as blockdev.Writer says.
func (s *Scratch) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := blockdev.CheckRange(off, int64(len(p)), s.Size()); err != nil {
		return 0, fmt.Errorf("write device: %w", err)
	}
	return copy(s.data[off:], p), nil
}

// Flush brings the writes to the medium, or fails as FailFlush said.
func (s *Scratch) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		copy(s.medium, s.data)
	}
	return s.failed
}

// Discard zeroes the range.
func (s *Scratch) Discard(off, length int64) error { return s.zero("discard", off, length) }

// WriteZeroes zeroes the range.
func (s *Scratch) WriteZeroes(off, length int64) error { return s.zero("write zeroes", off, length) }

func (s *Scratch) zero(op string, off, length int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := blockdev.CheckRange(off, length, s.Size()); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	clear(s.data[off : off+length])
	return nil
}

// FailFlush makes every Flush from now on fail with err.
func (s *Scratch) FailFlush(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
}

// Crash loses what was written since the last Flush.
func (s *Scratch) Crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(s.data, s.medium)
}
