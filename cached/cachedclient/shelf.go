package cachedclient

import (
	"sync"

	"github.com/rivuletfs/rivulet/chunk"
)

// A shelf keeps the chunks used last, at most limit of them. Each has a
// descriptor. What is taken off it stays good for those who read it.
type shelf struct {
	mu    sync.Mutex // guards what follows, and the marked fields of held
	limit int
	all   map[chunk.ID]*held
	ring  held   // head of the list; next is the one used last
	now   uint64 // counts sweeps; from 1 on
}

func (s *shelf) init(limit int) {
	s.limit = limit
	s.all = make(map[chunk.ID]*held)
	s.ring.prev, s.ring.next = &s.ring, &s.ring
	s.now = 1
}

// get returns a chunk, to be put back; nil if it is not held.
func (s *shelf) get(id chunk.ID) *held {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.all[id]
	if h == nil {
		return nil
	}
	h.refs++
	h.seen = s.now
	if s.ring.next != h {
		h.unlink()
		s.link(h)
	}
	return h
}

// has reports whether a chunk is held.
func (s *shelf) has(id chunk.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[id] != nil
}

// put ends the use of a chunk.
func (s *shelf) put(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.refs--
	h.closeIfDone()
}

// add puts a chunk on the shelf, in use once. If it is there already, with
// another file, the new one takes its place; with the same, which may have grown,
// the old one is used on.
func (s *shelf) add(h *held, same func(old *held) bool) *held {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.all[h.id]; old != nil {
		if same(old) {
			for ready := h.ready.Load(); ; {
				now := old.ready.Load()
				if now >= ready || old.ready.CompareAndSwap(now, ready) {
					break
				}
			}
			_ = h.file.Close()
			old.refs++
			old.seen = s.now
			return old
		}
		s.remove(old)
	}
	for len(s.all) >= s.limit && s.ring.prev != &s.ring {
		s.remove(s.ring.prev)
	}
	h.refs, h.seen = 1, s.now
	s.all[h.id] = h
	s.link(h)
	return h
}

// drop takes a chunk off the shelf; h says which file's, nil any.
func (s *shelf) drop(id chunk.ID, h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.all[id]; at != nil && (h == nil || at == h) {
		s.remove(at)
	}
}

// halve takes off the half that was used least lately, and keeps no more from
// now on: descriptors have run out.
func (s *shelf) halve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = max(1, len(s.all)/2)
	for len(s.all) > s.limit {
		s.remove(s.ring.prev)
	}
}

// clear takes everything off the shelf.
func (s *shelf) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.all {
		s.remove(h)
	}
}

// sweep begins another time: it returns the chunks that were used since the last
// sweep, and takes those off that were not for idle sweeps. The rest, which were
// not used, it returns to be looked at, and put back; and extracts, in whose place the
// daemon may have more by now.
func (s *shelf) sweep(idle uint64) (used []chunk.ID, rest []*held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h := s.ring.next; h != &s.ring; {
		next := h.next
		recent := h.seen == s.now
		if recent {
			used = append(used, h.id)
		} else if s.now-h.seen >= idle {
			s.remove(h)
		}
		if !h.gone && (!recent || h.extract != 0) {
			h.refs++
			rest = append(rest, h)
		}
		h = next
	}
	s.now++
	return used, rest
}

// len returns how many chunks are held.
func (s *shelf) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// remove takes h off. mu is held.
func (s *shelf) remove(h *held) {
	delete(s.all, h.id)
	h.unlink()
	h.gone = true
	h.closeIfDone()
}

func (h *held) closeIfDone() {
	if h.gone && h.refs == 0 {
		_ = h.file.Close() // it was only read
	}
}

func (s *shelf) link(h *held) {
	h.prev, h.next = &s.ring, s.ring.next
	s.ring.next.prev, s.ring.next = h, h
}

func (h *held) unlink() { h.prev.next, h.next.prev = h.next, h.prev }
