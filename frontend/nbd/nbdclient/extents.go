package nbdclient

import (
	"context"
	"fmt"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// statusBytes is the longest range that one block status request asks for.
const statusBytes = 1 << 30

// Extents lists the runs of a range by the server's block status: its
// base:allocation context tells the holes, rivulet:local what is local. Without
// the one there are no holes, without the other all is local.
func (c *Client) Extents(ctx context.Context, off, length int64, fn func(blockdev.Extent) bool) error {
	if off < 0 || length < 0 || off > c.size || length > c.size-off {
		return fmt.Errorf("list extents of NBD export: %d bytes at %d are not within %d", length, off, c.size)
	}
	var last blockdev.Extent // held back, for the next may be of its kind
	for length > 0 {
		if len(c.contexts) == 0 {
			fn(blockdev.Extent{Offset: off, Length: length, Local: true})
			return nil
		}
		k := newCall(wire.CmdBlockStatus, off, int(min(length, statusBytes)))
		k.status = map[uint32][]wire.Status{}
		if err := c.do(ctx, k); err != nil {
			return fmt.Errorf("list extents of %d bytes at %d of NBD export: %w", k.n, off, err)
		}
		for _, e := range c.merge(k) {
			off, length = off+e.Length, length-e.Length
			if last.Length > 0 && last.Hole == e.Hole && last.Local == e.Local {
				last.Length += e.Length
				continue
			}
			if last.Length > 0 && !fn(last) {
				return nil
			}
			last = e
		}
	}
	if last.Length > 0 {
		fn(last)
	}
	return nil
}

// merge lays the contexts of a block status reply over one another, up to
// where the shorter ends. There is at least one run in each.
func (c *Client) merge(k *call) []blockdev.Extent {
	var hole, remote []wire.Status
	for id, runs := range k.status {
		switch c.contexts[id] {
		case wire.ContextAllocation:
			hole = runs
		case wire.ContextLocal:
			remote = runs
		}
	}
	whole := []wire.Status{{Length: uint32(k.n)}}
	if hole == nil {
		hole = whole
	}
	if remote == nil {
		remote = whole
	}
	var all []blockdev.Extent
	off := k.off
	const zeroHole = wire.StateHole | wire.StateZero
	for i, j, a, b := 0, 0, hole[0].Length, remote[0].Length; ; {
		n := min(a, b)
		all = append(all, blockdev.Extent{Offset: off, Length: int64(n),
			Hole: hole[i].Flags&zeroHole == zeroHole, Local: remote[j].Flags&wire.StateRemote == 0})
		off += int64(n)
		if a -= n; a == 0 {
			if i++; i == len(hole) {
				return all
			}
			a = hole[i].Length
		}
		if b -= n; b == 0 {
			if j++; j == len(remote) {
				return all
			}
			b = remote[j].Length
		}
	}
}
