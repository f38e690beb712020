package chunk

import "sync"

// HeaderCacheBytes bounds the headers that a Door remembers: some 18,000 of
// usual chunks, 9 GiB of a disk.
const HeaderCacheBytes = 8 << 20

// entryBytes is about what an entry takes beside its frames, map included.
const entryBytes = 160

// A headerCache keeps the headers used last. Everything is guarded by mu;
// headers are copied in and out, so that an entry can be used again.
type headerCache struct {
	mu      sync.Mutex
	entries map[ID]*headerEntry
	ring    headerEntry // head of the list; next is the one used last
	free    int         // bytes, may be passed by one entry
}

type headerEntry struct {
	id         ID
	header     Header
	prev, next *headerEntry
}

func (e *headerEntry) bytes() int { return entryBytes + cap(e.header.Frames)*frameLen }

func (e *headerEntry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

func (e *headerEntry) linkAfter(p *headerEntry) {
	e.prev, e.next = p, p.next
	p.next.prev, p.next = e, e
}

func (c *headerCache) init(bytes int) {
	c.entries = make(map[ID]*headerEntry)
	c.ring.prev, c.ring.next = &c.ring, &c.ring
	c.free = bytes
}

// get copies the header of id to h if it is known.
func (c *headerCache) get(id ID, h *Header) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[id]
	if e == nil {
		return false
	}
	e.unlink()
	e.linkAfter(&c.ring)
	h.set(&e.header)
	return true
}

// has reports whether the header of id is known, and is no use of it.
func (c *headerCache) has(id ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[id] != nil
}

// put remembers a copy of h, which is the header of id.
func (c *headerCache) put(id ID, h *Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[id] != nil {
		return
	}
	var e *headerEntry
	for c.free < entryBytes+len(h.Frames)*frameLen && c.ring.prev != &c.ring {
		e = c.ring.prev
		e.unlink()
		delete(c.entries, e.id)
		c.free += e.bytes()
	}
	if e == nil {
		e = new(headerEntry)
	}
	e.id = id
	e.header.set(h)
	e.linkAfter(&c.ring)
	c.entries[id] = e
	c.free -= e.bytes()
}

// set makes h a copy of o, in h's memory if that is enough.
func (h *Header) set(o *Header) {
	frames := append(h.Frames[:0], o.Frames...)
	*h = *o
	h.Frames = frames
}
