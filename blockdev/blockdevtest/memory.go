package blockdevtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
)

// pageSize is the unit, in bytes, in which a Memory knows holes.
const pageSize = 4096

// A Memory is a device in memory. Its pages of zeros are holes, and
// pages may count as not local.
type Memory struct {
	data   []byte
	remote func(page int64) bool
}

var (
	_ blockdev.Device   = (*Memory)(nil)
	_ blockdev.Extenter = (*Memory)(nil)
)

// NewMemory returns the device of data, which must not change any more. remote
// says which pages of 4096 bytes are not local; nil: none.
func NewMemory(data []byte, remote func(page int64) bool) *Memory {
	if remote == nil {
		remote = func(int64) bool { return false }
	}
	return &Memory{data, remote}
}

// Pattern returns n bytes of data, the same for the same seed, in which about
// half of the pages are zeros.
func Pattern(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 4))
	data := make([]byte, n)
	for off := 0; off < n; {
		end := min(n, off+pageSize*(1+r.IntN(40)))
		if r.IntN(2) == 0 {
			for i := off; i < end; i++ {
				data[i] = byte(r.Uint32())
			}
		}
		off = end
	}
	return data
}

// Size returns the size in bytes.
func (m *Memory) Size() int64 { return int64(len(m.data)) }

// ReadAt reads as blockdev.Device says.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	return blockdev.NewFlat(bytes.NewReader(m.data), m.Size()).ReadAt(p, off)
}

// Extents lists runs of pages of one kind.
func (m *Memory) Extents(_ context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	if err := blockdev.CheckRange(off, length, m.Size()); err != nil {
		return fmt.Errorf("list extents: %w", err)
	}
	var run blockdev.Extent
	for end := off + length; off < end; {
		e := m.page(off, end)
		off += e.Length
		if run.Length > 0 && run.Hole == e.Hole && run.Local == e.Local {
			run.Length += e.Length
			continue
		}
		if run.Length > 0 && !fn(run) {
			return nil
		}
		run = e
	}
	if run.Length > 0 {
		fn(run)
	}
	return nil
}

// page returns the part of the page at off that lies before end.
func (m *Memory) page(off, end int64) blockdev.Extent {
	number := off / pageSize
	whole := m.data[number*pageSize : min((number+1)*pageSize, m.Size())]
	return blockdev.Extent{
		Offset: off,
		Length: min(end, (number+1)*pageSize) - off,
		Hole:   bytes.Count(whole, []byte{0}) == len(whole),
		Local:  !m.remote(number),
	}
}

// A Slow is a device whose reads take at least Delay.
type Slow struct {
	Device blockdev.Device
	Delay  time.Duration
}

// Size returns the size in bytes.
func (s *Slow) Size() int64 { return s.Device.Size() }

// ReadAt waits and reads.
func (s *Slow) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(s.Delay)
	return s.Device.ReadAt(p, off)
}

// Extents lists the device's extents, without delay.
func (s *Slow) Extents(ctx context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	return blockdev.Extents(ctx, s.Device, off, length, fn)
}

// A Gate is a device whose reads of the range [From, To) wait until Open is
// closed. Waiting counts those that do.
type Gate struct {
	Device   blockdev.Device
	From, To int64
	Open     chan struct{}
	Waiting  atomic.Int64
}

// Size returns the size in bytes.
func (g *Gate) Size() int64 { return g.Device.Size() }

// ReadAt reads, after the gate's opening if p reaches into its range.
func (g *Gate) ReadAt(p []byte, off int64) (int, error) {
	if off < g.To && off+int64(len(p)) > g.From {
		g.Waiting.Add(1)
		<-g.Open
		g.Waiting.Add(-1)
	}
	return g.Device.ReadAt(p, off)
}

// A Failing is a device whose reads of the range [From, To) fail with Err.
type Failing struct {
	Device   blockdev.Device
	From, To int64
	Err      error
}

// Size returns the size in bytes.
func (f *Failing) Size() int64 { return f.Device.Size() }

// ReadAt fails or reads.
func (f *Failing) ReadAt(p []byte, off int64) (int, error) {
	if off < f.To && off+int64(len(p)) > f.From {
		return 0, fmt.Errorf("read device at %d: %w", off, f.Err)
	}
	return f.Device.ReadAt(p, off)
}
