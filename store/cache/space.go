package cache

import (
	"context"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// shyness is how long evicting for the file system's sake is not tried again
// after it gave no room: the bytes of an unlinked file come back only when its
// last reader closes it, and evicting more meanwhile would empty the cache for
// nothing.
const shyness = time.Second

// reserve takes cost bytes of the cap for a deposit, and evicts until they are
// there, on the file system too.
func (c *Cache) reserve(cost int64) error {
	c.making.Lock()
	defer c.making.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept+c.reserved+cost > c.max { // before anything goes in vain
		return ErrFull
	}
	for c.over(cost) {
		if _, err := c.evictOne(); err != nil {
			return err
		}
	}
	if err := c.makeFree(cost); err != nil {
		return err
	}
	c.used += cost
	c.reserved += cost
	return nil
}

// A cache holds at most one chunk for each bytesPerChunk of its cap, and
// leastChunks in any case, so that very small chunks cannot take all memory:
// each takes some 350 bytes of it.
const (
	bytesPerChunk = 32 << 10
	leastChunks   = 1024
)

// over reports whether cost bytes more are above the cap, or the chunks held and
// on their way too many. mu is held.
func (c *Cache) over(cost int64) bool {
	return c.used+cost > c.max || len(c.entries)+len(c.deposits) > c.maxChunks
}

// evictOne evicts the policy's victim and returns what that gave. making and mu
// are held; mu is given up meanwhile.
func (c *Cache) evictOne() (int64, error) {
	id, ok := c.policy.Victim(c.now(), func(id chunk.ID) bool {
		e := c.entries[id]
		return e != nil && !e.going && !e.kept()
	})
	if !ok {
		return 0, ErrFull
	}
	e := c.entries[id]
	if err := c.remove(e, true, false); err != nil {
		return 0, err
	}
	c.stats.Evictions++
	c.stats.EvictedBytes += e.cost()
	return e.cost(), nil
}

// makeFree evicts until the file system has cost bytes more than it must keep
// free. Deposits under way count as if nothing of them were written yet. making
// and mu are held.
func (c *Cache) makeFree(cost int64) error {
	if c.minFree == 0 {
		return nil
	}
	short, err := c.short(cost)
	if err != nil || short <= 0 {
		return err
	}
	if time.Now().Before(c.shy) {
		return ErrFull
	}
	for got := int64(0); got < short; {
		n, err := c.evictOne()
		if err != nil {
			return err
		}
		got += n
	}
	if short, err = c.short(cost); err == nil && short > 0 {
		c.shy = time.Now().Add(shyness)
		return ErrFull
	}
	return err
}

// short returns how many bytes the file system lacks. mu is held, and given up
// meanwhile.
func (c *Cache) short(cost int64) (int64, error) {
	c.mu.Unlock()
	free, err := c.free()
	c.mu.Lock()
	return c.minFree + c.reserved + cost - free, err
}

// shrink evicts bytes, if they can be had, after the file system said that it
// is full.
func (c *Cache) shrink(bytes int64) {
	c.making.Lock()
	defer c.making.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.shy) {
		return
	}
	c.shy = time.Now().Add(shyness)
	for bytes > 0 {
		n, err := c.evictOne()
		if err != nil {
			return
		}
		bytes -= n
	}
}

// housekeeping keeps the file system's free space when others fill it, and
// saves the index now and then, until done.
func (c *Cache) housekeeping(done context.Context) {
	tick := time.NewTicker(housePeriod)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-done.Done():
			return
		case <-tick.C:
		}
		c.trim()
		if n%saveEvery == 0 {
			if err := c.saveIndex(); err != nil {
				c.logger.Warn("cache: index not saved", "error", err)
			}
		}
	}
}

const (
	housePeriod = time.Second
	saveEvery   = 60 // housePeriods
)

// trim evicts what the rules ask for, without a deposit that wants room.
func (c *Cache) trim() {
	c.making.Lock()
	defer c.making.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.makeFree(0)
	for err == nil && c.over(0) { // it was opened with a smaller cap
		_, err = c.evictOne()
	}
	if err != nil && err != ErrFull {
		c.logger.Warn("cache: cannot make room", "error", err)
	}
}
