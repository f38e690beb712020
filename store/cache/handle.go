package cache

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/chunk"
)

// An opened is the file of an entry that is in use; its handles share it.
type opened struct {
	entry *entry
	refs  int       // guarded by the cache's mu
	once  sync.Once // opens and checks
	file  *os.File
	err   error
}

// A Handle is the use of one chunk. While it is held, the chunk is not evicted.
// It is safe for concurrent use.
type Handle struct {
	cache    *Cache
	opened   *opened
	released atomic.Bool
}

// File returns a read-only descriptor whose byte 0 is the object's; behind its
// Size bytes are page checksums. It belongs to the cache and is good until
// Release. A duplicate of it, as one sent to another process, stays good
// whatever becomes of the chunk: a file does not change once it has its name.
// Nobody may close it or move its offset.
func (h *Handle) File() *os.File { return h.opened.file }

// Size returns the bytes of the object.
func (h *Handle) Size() int64 { return h.opened.entry.size }

// Extract returns which frames of the chunk the object has, 0 if all.
func (h *Handle) Extract() chunk.Extract { return h.opened.entry.extract }

// AppendObject appends the object to b, checked against the page checksums. If
// it is damaged the chunk is dropped, and the error is a *chunk.CorruptError or
// that of reading.
func (h *Handle) AppendObject(b []byte) ([]byte, error) {
	e := h.opened.entry
	b, err := h.cache.appendObject(b, h.File(), e.object)
	if err != nil {
		if damage(err) {
			h.cache.drop(e, err)
		}
		return nil, fmt.Errorf("read chunk %v: %w", e.id, err)
	}
	return b, nil
}

// Release ends the use. Further calls do nothing.
func (h *Handle) Release() {
	if !h.released.Swap(true) {
		h.cache.release(h.opened)
	}
}

// Acquire returns a handle of a chunk, or of an extract of it, which counts as a reference for the
// policy. A chunk that is not held is ErrNotFound; so is one whose file turns
// out to be damaged, which happens once, since it is dropped. Files are checked
// (page checksums, header against id) at the first Acquire after Open. An error
// that is neither ErrNotFound nor ErrClosed means that the file could not be
// got at, as for lack of descriptors.
func (c *Cache) Acquire(id chunk.ID) (*Handle, error) {
	c.mu.Lock()
	e, err := c.find(id)
	if err == nil {
		err = c.enter()
	}
	if err != nil {
		if err != ErrClosed {
			c.stats.Misses++
		}
		c.mu.Unlock()
		return nil, fmt.Errorf("acquire chunk %v: %w", id, err)
	}
	defer c.running.Done()
	o := c.use(e)
	c.stats.Hits++
	c.policy.Access(id, c.now())
	c.changes++
	c.mu.Unlock()

	if err := o.ready(c); err != nil {
		again := damage(err) && c.superseded(e) // before its file was open
		c.mu.Lock()
		c.stats.Hits--
		if !again {
			c.stats.Misses++
		}
		c.mu.Unlock()
		c.release(o)
		if again {
			return c.Acquire(id)
		}
		if damage(err) {
			return nil, fmt.Errorf("acquire chunk %v: %w: dropped as damaged: %v", id, chunk.ErrNotFound, err)
		}
		return nil, fmt.Errorf("acquire chunk %v: %w", id, err)
	}
	return &Handle{cache: c, opened: o}, nil
}

// use counts one more user of e. mu is held; release ends it.
func (c *Cache) use(e *entry) *opened {
	if e.open == nil {
		c.keep(e, func() { e.open = &opened{entry: e} })
		c.inUse++
	}
	e.open.refs++
	return e.open
}

// ready opens the file and checks it, unless that was done.
func (o *opened) ready(c *Cache) error {
	o.once.Do(func() {
		if o.file, o.err = c.openEntry(o.entry); o.err != nil && damage(o.err) {
			c.drop(o.entry, o.err)
		}
	})
	return o.err
}

// release ends a use that began with use.
func (c *Cache) release(o *opened) {
	c.mu.Lock()
	var f *os.File
	if o.refs--; o.refs == 0 {
		c.keep(o.entry, func() { o.entry.open = nil })
		c.inUse--
		f = o.file
	}
	c.mu.Unlock()
	if f != nil {
		_ = f.Close() // it was only read
	}
}

// openEntry opens the file of e, and checks it if nobody did yet.
func (c *Cache) openEntry(e *entry) (*os.File, error) {
	f, err := c.open(c.place(e.object))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	checked := e.checked
	c.mu.Unlock()
	if checked {
		return f, nil
	}
	if err := c.verify(f, e.object, false); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	c.mu.Lock()
	e.checked = true
	c.mu.Unlock()
	return f, nil
}
