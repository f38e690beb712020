package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rivuletfs/rivulet/chunk"
)

// A Deposit is a chunk on its way into the cache. One goroutine calls Write,
// Commit and Abort; any may call the rest.
type Deposit struct {
	object
	cache   *Cache
	checker *chunk.Checker
	sums    pageSummer
	at      int64    // bytes written
	out     *os.File // nil when the deposit has ended
	in      *os.File // the same file for reading
	checked atomic.Int64
	err     error // of a Write; it ended the deposit's hopes
	ended   sync.Once
}

// Begin reserves room for chunk id, an object of size bytes, and evicts what it
// takes. It fails with ErrExists if the chunk is held or being deposited, and
// ErrFull if there is no room. The caller ends what it returns by Commit or
// Abort. A chunk of which an extract is held may be deposited whole.
func (c *Cache) Begin(id chunk.ID, size int64) (*Deposit, error) {
	return c.BeginExtract(id, 0, size)
}

// BeginExtract is Begin for an extract of a chunk, whose object has size bytes. It may be
// deposited if what is held has fewer frames, all of which it has, and then takes its place.
func (c *Cache) BeginExtract(id chunk.ID, extract chunk.Extract, size int64) (*Deposit, error) {
	d := &Deposit{object: object{id, size, extract}, cache: c, checker: extract.NewChecker(id)}
	if err := c.begin(d); err != nil {
		return nil, fmt.Errorf("deposit chunk %v: %w", id, err)
	}
	return d, nil
}

func (c *Cache) begin(d *Deposit) error {
	if d.size < 1 || d.size > chunk.MaxStoredSize {
		return fmt.Errorf("%d bytes, want 1 to %d", d.size, chunk.MaxStoredSize)
	}
	if err := c.claim(d); err != nil {
		return err
	}
	defer c.running.Done()
	err := c.reserve(Cost(d.size))
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.deposits, d.id)
		if errors.Is(err, ErrFull) {
			c.stats.Full++
		}
		return err
	}
	if err := d.create(); err != nil {
		d.end()
		return err
	}
	return nil
}

// claim makes d the one deposit of its chunk. It begins an operation.
func (c *Cache) claim(d *Deposit) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.closed {
			return ErrClosed
		}
		e := c.entries[d.id]
		switch {
		case c.deposits[d.id] == nil && (e == nil || !e.going && d.supersedes(e)):
			c.deposits[d.id] = d
			return c.enter()
		case e == nil || !e.going:
			return ErrExists
		case e.stuck:
			if err := c.remove(e, false, true); err != nil {
				return err
			}
		default:
			c.gone.Wait()
		}
	}
}

// create makes the file. A power cut may have left one of its name.
func (d *Deposit) create() (err error) {
	c, path := d.cache, d.temp()
	if err := c.files.remove(path); err != nil {
		return err
	}
	if d.out, err = c.create(path); err != nil {
		return c.noSpace(d, err)
	}
	d.in, err = c.open(path)
	return err
}

func (d *Deposit) temp() string { return d.cache.path(tempDir, d.id.String()) }

// Checked returns how many bytes of the object, from its begin on, are in the
// file and what the chunk's name promises. It grows.
func (d *Deposit) Checked() int64 { return d.checked.Load() }

// Size returns the bytes of the object, as told to Begin.
func (d *Deposit) Size() int64 { return d.size }

// Extract returns which frames of the chunk the object has, 0 if all.
func (d *Deposit) Extract() chunk.Extract { return d.extract }

// File returns a read-only descriptor onto the file that grows, whose byte 0 is
// the object's. It may be read below Checked. It is good until Abort, or
// Release of the handle that Commit gave; a duplicate stays good.
func (d *Deposit) File() *os.File { return d.in }

// Write appends to the object. Its header, and each frame, is checked as soon
// as it is complete; what does not match is a *chunk.CorruptError. After an
// error only Abort is left.
func (d *Deposit) Write(p []byte) (int, error) {
	if err := d.write(p); err != nil {
		d.err = err
		return 0, fmt.Errorf("deposit chunk %v: %w", d.id, err)
	}
	return len(p), nil
}

func (d *Deposit) write(p []byte) error {
	if d.err != nil {
		return d.err
	}
	if d.out == nil {
		return ErrClosed
	}
	if d.at+int64(len(p)) > d.size {
		return &chunk.CorruptError{ID: d.id, Reason: fmt.Sprintf("more than %d bytes", d.size)}
	}
	if _, err := d.checker.Write(p); err != nil {
		return err
	}
	if n := d.checker.Size(); n != 0 && n != d.size {
		return &chunk.CorruptError{ID: d.id, Reason: fmt.Sprintf("%d bytes, want %d", d.size, n)}
	}
	if err := d.cache.writeAt(d.out, p, d.at); err != nil {
		return d.cache.noSpace(d, err)
	}
	d.sums.write(p)
	d.at += int64(len(p))
	d.checked.Store(d.checker.Checked())
	return nil
}

// Commit makes the chunk visible, and returns a handle of it. If it fails the
// deposit is aborted. The context bounds nothing but the begin: a commit is a
// few system calls.
func (d *Deposit) Commit(ctx context.Context) (*Handle, error) {
	h, err := d.commit(ctx)
	if err != nil {
		d.Abort()
		return nil, fmt.Errorf("deposit chunk %v: %w", d.id, err)
	}
	return h, nil
}

func (d *Deposit) commit(ctx context.Context) (*Handle, error) {
	c := d.cache
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case d.err != nil:
		return nil, d.err
	case d.out == nil:
		return nil, ErrClosed
	case !d.checker.Complete():
		return nil, &chunk.CorruptError{ID: d.id, Reason: fmt.Sprintf("ends at byte %d, want %d", d.at, d.size)}
	}
	c.mu.Lock()
	err := c.enter()
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer c.running.Done()
	if err := d.publish(); err != nil {
		return nil, err
	}
	return c.admit(d), nil
}

// publish completes the file and gives it its name.
func (d *Deposit) publish() error {
	c := d.cache
	d.sums.flush()
	if err := c.writeAt(d.out, appendTrailer(d.sums.table, d.size), d.size); err != nil {
		return c.noSpace(d, err)
	}
	if err := d.out.Close(); err != nil { // some file systems only now tell that they are full
		d.out = nil
		return c.noSpace(d, err)
	}
	d.out = nil
	if err := c.rename(d.temp(), c.place(d.object)); err != nil {
		_ = c.files.remove(c.place(d.object)) // should it be there after all
		return c.noSpace(d, err)
	}
	return nil
}

// supersedes reports whether d has all that the file of e has, and more.
func (d *Deposit) supersedes(e *entry) bool {
	return d.extract != e.extract && d.extract.Covers(e.extract)
}

// supersede takes the entry of an extract out of the table, for one that has more. Its users
// keep a descriptor of a file without a name. mu is held.
func (c *Cache) supersede(old *entry) {
	if old.kept() {
		c.kept -= old.cost()
	}
	c.policy.Remove(old.id, false)
	delete(c.entries, old.id)
}

// superseded reports whether another entry has taken the place of e.
func (c *Cache) superseded(e *entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.entries[e.id]
	return now != nil && now != e
}

// removeSuperseded removes the file of an entry that supersede has taken out. mu is held, and
// is given up meanwhile.
func (c *Cache) removeSuperseded(old *entry) {
	if old.going {
		return // somebody is at it
	}
	if err := c.remove(old, false, false); err != nil { // the next start does it
		c.logger.Error("cache: extract of a chunk cannot be removed", "chunk", old.id, "error", err)
	}
}

// admit makes an entry of a deposit whose file has its name, in use once.
func (c *Cache) admit(d *Deposit) *Handle {
	e := &entry{object: d.object, checked: true}
	o := &opened{entry: e, refs: 1, file: d.in}
	o.once.Do(func() {}) // it is open
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.entries[d.id]; old != nil {
		c.supersede(old)
		defer c.removeSuperseded(old)
	}
	d.ended.Do(func() {})
	delete(c.deposits, d.id)
	c.reserved -= e.cost()
	c.kept += e.cost()
	c.inUse++
	e.open = o
	c.entries[d.id] = e
	if _, e.pinned = c.pins[d.id]; !e.pinned {
		c.policy.Insert(d.id, e.cost(), c.now())
	}
	c.stats.Deposits++
	c.stats.DepositedBytes += d.size
	c.changes++
	return &Handle{cache: c, opened: o}
}

// Abort gives the deposit up. After Commit it does nothing.
func (d *Deposit) Abort() {
	d.ended.Do(func() {
		d.cache.mu.Lock()
		d.cache.stats.Aborted++
		d.cache.mu.Unlock()
		d.end()
	})
}

// end closes and removes the file and gives the room back. If the file cannot
// be removed, the next start does it, and its room stays taken.
func (d *Deposit) end() {
	c := d.cache
	for _, f := range []*os.File{d.out, d.in} {
		if f != nil {
			_ = f.Close() // it goes
		}
	}
	d.out = nil
	err := c.files.remove(d.temp())
	if err != nil {
		c.logger.Error("cache: temporary file cannot be removed", "path", d.temp(), "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.deposits, d.id)
	c.reserved -= Cost(d.size)
	if err == nil {
		c.used -= Cost(d.size)
	}
}

// noSpace evicts as much as d takes if err is that the file system is full, so
// that the next deposit finds room.
func (c *Cache) noSpace(d *Deposit, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		c.mu.Lock()
		c.stats.NoSpace++
		c.mu.Unlock()
		c.shrink(Cost(d.size))
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
