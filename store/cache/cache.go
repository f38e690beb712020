package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict"
)

var (
	// ErrExists is returned (wrapped) by Begin for a chunk that is held, or
	// that another deposit brings.
	ErrExists = errors.New("already in the cache or on its way")
	// ErrFull is returned (wrapped) if there is no room and none can be made:
	// what is held is in use or pinned, or the file system is too full.
	ErrFull = errors.New("no room in the cache")
	// ErrInUse is returned (wrapped) by Evict for a chunk that somebody reads
	// or that is pinned.
	ErrInUse = errors.New("in use or pinned")
	// ErrLocked is returned (wrapped) by Open if another process has the
	// directory.
	ErrLocked = errors.New("in use by another process")
	// ErrClosed is returned (wrapped) by all methods after Close.
	ErrClosed = errors.New("cache is closed")
)

// Config says what a cache may take. Dir and MaxBytes are needed.
type Config struct {
	Dir      string // is made if it is missing; must not be used for anything else
	MaxBytes int64  // cap: sum of Cost over the chunks held and on their way; at most one for each 32 KiB of it, or 1024
	MinFree  int64  // bytes that the cache leaves free on the file system

	// Policy decides what goes; nil means evict.New(). It belongs to
	// the cache from Open on.
	Policy evict.Policy
	// Group lets members of the directory's group read: modes 0750 and 0640
	// instead of 0700 and 0600.
	Group bool
	// ScrubRate is how many bytes a second are read in the background to find
	// what rotted; 0 means none.
	ScrubRate int64
	Logger    *slog.Logger // nil: none

	fault fault // tests
}

// A Cache is a directory of chunks. Its methods are safe for concurrent use.
// Open makes one.
type Cache struct {
	files
	max, minFree int64 // bytes
	maxChunks    int
	logger       *slog.Logger
	lock         *os.File
	begun        time.Time // what now counts from, less base

	// making is held by whoever makes room, before mu. So evictions are one
	// after the other, and each deposit writes only when what it pushes out is
	// gone.
	making sync.Mutex
	shy    time.Time // until when the file system is not looked at for room; guarded by making

	mu       sync.Mutex // guards what follows, and entries; never held over a system call
	closed   bool
	base     time.Duration
	entries  map[chunk.ID]*entry
	deposits map[chunk.ID]*Deposit
	policy   evict.Policy // knows the entries that are not pinned
	used     int64        // bytes: Cost of all entries and deposits
	reserved int64        // bytes: of the deposits among them
	kept     int64        // bytes: of entries that are in use or pinned
	inUse    int          // entries with a handle
	pins     map[chunk.ID]int64
	pinBytes int64 // Cost of all pins, held or not
	stats    Stats // counters only
	changes  int64 // of policy since the index was saved
	cursor   chunk.ID
	gone     sync.Cond // a removal has ended

	pinning sync.Mutex // one writer of the pins file, before mu

	running sync.WaitGroup     // operations and background work
	stop    context.CancelFunc // of the latter
}

// An object is what a file has of a chunk: all, or an extract.
type object struct {
	id      chunk.ID
	size    int64         // bytes
	extract chunk.Extract // 0: the whole chunk
}

// An entry is a chunk that is held. The cache's mu guards it.
type entry struct {
	object
	open    *opened
	pinned  bool
	checked bool // since the cache was opened
	going   bool // its file is being removed, or stuck
	stuck   bool // it is damaged and cannot be removed
	known   bool // the index had it when the cache was opened
}

func (o *object) cost() int64 { return Cost(o.size) }

// kept reports whether e must not be evicted.
func (e *entry) kept() bool { return e.open != nil || e.pinned }

// enter begins an operation that Close waits for. mu is held.
func (c *Cache) enter() error {
	if c.closed {
		return ErrClosed
	}
	c.running.Add(1)
	return nil
}

// now returns the policy's time. mu is held.
func (c *Cache) now() time.Duration { return c.base + time.Since(c.begun) }

// keep changes whether e is in use or pinned. mu is held.
func (c *Cache) keep(e *entry, change func()) {
	before := e.kept()
	change()
	if c.entries[e.id] != e { // dropped
		return
	}
	if after := e.kept(); after && !before {
		c.kept += e.cost()
	} else if before && !after {
		c.kept -= e.cost()
	}
}

// damage reports whether err, of a chunk's file, means that the file is of no
// use, rather than that the process could not get at it.
func damage(err error) bool {
	var corrupt *chunk.CorruptError
	return errors.As(err, &corrupt) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrNotExist) ||
		errors.Is(err, syscall.EIO) || errors.Is(err, errUnclean) || errors.Is(err, syscall.EBADMSG)
}

// remove unlinks the file of e and forgets e. mu is held, and is given up
// while the file goes. If it does not go, e stays what it was. damaged says
// that e must not be served again, even then. Meanwhile another entry may have taken the
// place of an extract.
func (c *Cache) remove(e *entry, evicted, damaged bool) error {
	e.going, e.stuck = true, false
	c.mu.Unlock()
	err := c.files.remove(c.place(e.object))
	c.mu.Lock()
	defer c.gone.Broadcast()
	if err != nil {
		e.going, e.stuck = damaged, damaged
		return fmt.Errorf("remove chunk %v: %w", e.id, err)
	}
	c.used -= e.cost()
	if c.entries[e.id] != e {
		return nil // supersede did the rest
	}
	delete(c.entries, e.id)
	if e.kept() {
		c.kept -= e.cost()
	}
	c.policy.Remove(e.id, evicted)
	c.changes++
	return nil
}

// drop removes an entry that was found damaged, unless it is gone already.
func (c *Cache) drop(e *entry, why error) {
	c.mu.Lock()
	if c.entries[e.id] != e || e.going {
		c.mu.Unlock()
		return
	}
	c.stats.Damaged++
	err := c.remove(e, false, true)
	c.mu.Unlock()
	c.logger.Warn("cache: damaged chunk dropped", "chunk", e.id, "reason", why)
	if err != nil {
		c.logger.Error("cache: damaged chunk cannot be removed", "chunk", e.id, "error", err)
	}
}

// find returns the entry of id. mu is held.
func (c *Cache) find(id chunk.ID) (*entry, error) {
	if c.closed {
		return nil, ErrClosed
	}
	e := c.entries[id]
	if e == nil || e.going {
		return nil, chunk.ErrNotFound
	}
	return e, nil
}

// Evict removes a chunk, and what the policy knows of it. One that is in use or
// pinned is ErrInUse, one that is not held ErrNotFound.
func (c *Cache) Evict(ctx context.Context, id chunk.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.find(id)
	if err == nil && e.kept() {
		err = ErrInUse
	}
	if err == nil {
		err = c.enter()
	}
	if err != nil {
		return fmt.Errorf("evict chunk %v: %w", id, err)
	}
	defer c.running.Done()
	if err := c.remove(e, false, false); err != nil {
		return err
	}
	c.stats.Evictions++
	c.stats.EvictedBytes += e.cost()
	return nil
}

// Damaged says that a reader got bytes of id that are not what id promises. The
// file is checked as a whole, digests included, and dropped if it is damaged;
// Damaged reports whether it was. That costs about what it cost to put the chunk
// here: bound how often a stranger may ask.
func (c *Cache) Damaged(ctx context.Context, id chunk.ID) (dropped bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	_, dropped, err = c.inspect(id, true)
	return dropped, err
}

// Close saves what is known of the order of chunks and gives up the directory.
// It waits for operations under way; handles stay good, deposits do not.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.running.Wait()
	err := c.saveIndex()
	if cerr := c.lock.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("close cache %s: %w", c.dir, err)
	}
	return nil
}
