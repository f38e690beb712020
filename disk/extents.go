package disk

import (
	"context"
	"fmt"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockmap"
)

// Extents implements [blockdev.Extenter]. Holes are the chunks that the map
// does not list, and what follows a chunk's plaintext, from the next sector
// on. Data is local while it is in memory, frame by frame. A hole is local: it
// needs no origin.
func (d *Disk) Extents(ctx context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	if off < 0 || length < 0 || off > d.info.Size || length > d.info.Size-off {
		return fmt.Errorf("extents of disk: %d bytes at %d: outside its %d bytes", length, off, d.info.Size)
	}
	p := piece{round: blockdev.SectorSize}
	run := blockdev.Extent{Offset: off}
	for end := off + length; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		d.locate(&p, off, end)
		next := blockdev.Extent{Hole: p.hole, Local: p.hole}
		if !p.hole {
			key := d.key(&p.chunk, p.frame)
			next.Local = d.memory.has(&key)
		}
		if run.Length > 0 && (run.Hole != next.Hole || run.Local != next.Local) {
			if !fn(run) {
				return nil
			}
			run.Offset, run.Length = off, 0
		}
		run.Hole, run.Local = next.Hole, next.Local
		run.Length += p.n
		off += p.n
	}
	if run.Length > 0 {
		fn(run)
	}
	return nil
}

// Prefetch implements [blockdev.Prefetcher]. It queues what memory lacks
// behind all reads, and stops where the queue is full. The part of the range
// outside the disk is ignored.
func (d *Disk) Prefetch(ctx context.Context, off, length int64) error {
	off, end := max(0, off), min(d.info.Size, max(0, off)+min(length, d.info.Size))
	if off >= end {
		return nil
	}
	pos, _ := d.m.Search(uint32(off >> d.info.ChunkLog2))
	for ; pos < d.m.Len(); pos++ {
		c := d.m.Chunk(pos)
		start := int64(c.Index) << d.info.ChunkLog2
		if start >= end {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		first, last := max(0, off-start)>>d.info.FrameLog2, (end-1-start)>>d.info.FrameLog2
		if more, err := d.queue(pos, &c, first, last); !more {
			return err
		}
	}
	return nil
}

// queue queues the units of frames first to last of a chunk, last cut to the
// frames there are. It reports false when the queue takes no more.
func (d *Disk) queue(pos int, c *blockmap.Chunk, first, last int64) (more bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed.Load() {
		return false, ErrClosed
	}
	for i := first; i <= min(last, int64(d.frames(c))-1); i++ {
		u, key := d.unitOf(pos, c, uint32(i)), d.key(c, uint32(i))
		if d.flights[u] != nil || d.memory.has(&key) {
			continue
		}
		if len(d.background) >= MaxBackground {
			d.stats.dropped.Add(1)
			return false, nil
		}
		d.stats.prefetches.Add(1)
		d.background = append(d.background, d.newFlight(u, c, inBackground))
		d.start()
	}
	return true, nil
}
