package cache

import (
	"context"

	"github.com/rivuletfs/rivulet/chunk"
)

// Stats is a snapshot: what a cache holds, and counters since Open.
type Stats struct {
	Chunks      int
	Bytes       int64 // Cost of what is held and on its way; at most MaxBytes
	Reserved    int64 // of them, on its way
	InUse       int   // chunks with a handle
	Kept        int64 // bytes that cannot be evicted: in use or pinned
	Pinned      int   // pins, of chunks that are held or not
	PinnedBytes int64
	History     int // chunks that the policy remembers and that are not held
	MaxBytes    int64
	MinFree     int64

	Hits, Misses   int64 // Acquire
	Deposits       int64 // committed
	DepositedBytes int64 // of their objects
	Aborted        int64 // deposits that were not
	Full           int64 // Begins that found no room
	NoSpace        int64 // writes that the file system had no room for
	Evictions      int64
	EvictedBytes   int64 // Cost of what was evicted
	Damaged        int64 // files found damaged, and dropped
	Orphans        int64 // files found and removed by Open: temporary ones, and extracts that had been superseded
	ScrubbedBytes  int64 // of files that were checked and are good
	ScrubPasses    int64 // that the background scrub has ended
}

// Stats returns a snapshot.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Chunks, s.Bytes, s.Reserved, s.Kept = len(c.entries), c.used, c.reserved, c.kept
	s.InUse = c.inUse
	s.Pinned, s.PinnedBytes = len(c.pins), c.pinBytes
	s.History = c.policy.History()
	s.MaxBytes, s.MinFree = c.max, c.minFree
	return s
}

// An Entry is what List tells of a chunk.
type Entry struct {
	ID     chunk.ID
	Size   int64 // bytes of the object; Cost(Size) count against the cap
	Pinned bool
	InUse  bool
}

// List calls fn for each chunk held whose name comes after one, the zero ID for
// all, in the order of names, until fn returns false. fn may call the cache.
// Chunks that come or go meanwhile may or may not be seen.
func (c *Cache) List(ctx context.Context, after chunk.ID, fn func(Entry) bool) error {
	for _, id := range c.sorted(after) {
		if id == after {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		c.mu.Lock()
		e, err := c.find(id)
		var entry Entry
		if err == nil {
			entry = Entry{e.id, e.size, e.pinned, e.open != nil}
		}
		c.mu.Unlock()
		if err == nil && !fn(entry) {
			return nil
		}
	}
	return nil
}
