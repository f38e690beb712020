package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// scrubRest is the least time between the begins of two passes in the
// background.
const scrubRest = time.Hour

// Rate is how many bytes a second a scrub reads; 0 means as fast as it can.
type Rate int64

// ScrubStats says what a scrub did.
type ScrubStats struct {
	Chunks  int   // checked
	Bytes   int64 // of their files
	Damaged int   // found damaged, and dropped
}

// Scrub checks the page checksums of every chunk, from the medium where the
// system allows, and drops what is damaged. It stops when ctx ends, with the
// context's error and what it did so far. It does not count as a reference.
// Chunks that come meanwhile may or may not be seen.
func (c *Cache) Scrub(ctx context.Context, rate Rate) (ScrubStats, error) {
	var stats ScrubStats
	_, err := c.scrubFrom(ctx, chunk.ID{}, rate, &stats, func(chunk.ID) {})
	if err != nil {
		return stats, fmt.Errorf("scrub cache: %w", err)
	}
	return stats, nil
}

// scrubForever scrubs in the background, each pass from where the last one
// stopped, which the index remembers over restarts.
func (c *Cache) scrubForever(ctx context.Context, rate int64) {
	for {
		next := time.Now().Add(scrubRest)
		c.mu.Lock()
		from := c.cursor
		c.mu.Unlock()
		var stats ScrubStats
		done, err := c.scrubFrom(ctx, from, Rate(rate), &stats, c.setCursor)
		if done {
			c.setCursor(chunk.ID{})
			c.mu.Lock()
			c.stats.ScrubPasses++
			c.mu.Unlock()
		} else if ctx.Err() == nil {
			c.logger.Warn("cache: scrub stopped", "error", err)
		}
		if !sleep(ctx, time.Until(next)) {
			return
		}
	}
}

func (c *Cache) setCursor(id chunk.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cursor = id
	c.changes++
}

// scrubFrom scrubs the chunks from one on, in the order of names, and tells
// each that comes next.
func (c *Cache) scrubFrom(ctx context.Context, from chunk.ID, rate Rate, stats *ScrubStats, tell func(chunk.ID)) (done bool, err error) {
	begun := time.Now()
	for _, id := range c.sorted(from) {
		tell(id)
		n, damaged, err := c.inspect(id, false)
		if err != nil {
			return false, err
		}
		if n > 0 {
			stats.Chunks++
			stats.Bytes += n
		}
		if damaged {
			stats.Damaged++
		}
		wait := time.Duration(0)
		if rate > 0 {
			wait = time.Duration(float64(stats.Bytes)/float64(rate)*float64(time.Second)) - time.Since(begun)
		}
		if !sleep(ctx, wait) {
			return false, ctx.Err()
		}
	}
	return true, nil
}

// sleep waits, and reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// sorted returns the chunks held from one on, in the order of names.
func (c *Cache) sorted(from chunk.ID) []chunk.ID {
	c.mu.Lock()
	list := make([]chunk.ID, 0, len(c.entries))
	for id := range c.entries {
		if bytes.Compare(id[:], from[:]) >= 0 {
			list = append(list, id)
		}
	}
	c.mu.Unlock()
	slices.SortFunc(list, func(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) })
	return list
}

// inspect checks the file of a chunk, if it is held, and drops it if it is
// damaged. n is how many bytes the file has. Without frames, the medium is read
// rather than the page cache if nobody uses the chunk.
func (c *Cache) inspect(id chunk.ID, frames bool) (n int64, dropped bool, err error) {
	c.mu.Lock()
	e, err := c.find(id)
	if err == nil {
		err = c.enter()
	}
	if err != nil {
		c.mu.Unlock()
		if errors.Is(err, chunk.ErrNotFound) {
			return 0, false, nil
		}
		return 0, false, fmt.Errorf("check chunk %v: %w", id, err)
	}
	defer c.running.Done()
	idle := e.open == nil
	o := c.use(e)
	c.mu.Unlock()
	defer c.release(o)

	n = fileSize(e.size)
	f, err := c.open(c.place(e.object))
	if err == nil {
		err = c.inspectFile(f, e, frames, idle)
	}
	switch {
	case err == nil:
		c.mu.Lock()
		e.checked = true
		c.stats.ScrubbedBytes += n
		c.mu.Unlock()
		return n, false, nil
	case damage(err) && c.superseded(e): // its file went, which is no damage
		return 0, false, nil
	case damage(err):
		c.drop(e, err)
		return n, true, nil
	}
	return 0, false, fmt.Errorf("check chunk %v: %w", id, err)
}

func (c *Cache) inspectFile(f *os.File, e *entry, frames, idle bool) error {
	defer f.Close()
	if idle && !frames {
		uncache(f)
		defer uncache(f)
	}
	return c.verify(f, e.object, frames)
}
