package disk

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

// Tuning of the memory cache, in bytes unless named otherwise.
const (
	DefaultMemory = 64 << 20 // bound of the cache that Open makes

	minBuffer     = 4 << 10  // smallest buffer; the others are its doubles
	frameOverhead = 384      // of a frame beside its buffer: struct, map entry
	shardBytes    = 16 << 20 // bound that makes one more shard worth it
	maxShards     = 32       // a power of two
)

// bufferClasses counts the buffer sizes from minBuffer to chunk.MaxFrameSize.
var bufferClasses = bits.Len(chunk.MaxFrameSize / minBuffer)

// A Memory keeps decoded frames, up to a bound, for any number of disks.
//
// Frames are found by chunk ID, key, number and the chunk's sizes, so that a
// disk whose map is wrong about a chunk never sees what another disk decoded
// with a right one. What goes first is chosen by SIEVE: a hit sets a mark and moves
// nothing, and one long scan does not empty the cache. Readers pin a frame
// while they copy from it; an evicted frame's buffer is used again only when
// the last of them is done.
type Memory struct {
	shards  []shard
	buffers []sync.Pool // of *frame, by class
}

// A shard is one part of a Memory, chosen by hash. Its lock is held for a few
// pointer moves, never for a copy.
type shard struct {
	mu     sync.Mutex
	frames map[frameKey]*frame
	newest *frame // the queue: newest … oldest, linked by older and newer
	oldest *frame
	hand   *frame // where the search for a victim goes on, towards newer ones
	used   int64  // bytes that the frames in the queue cost
	limit  int64

	_ [64]byte // keeps neighbours' locks off one cache line
}

// A frameKey names decoded bytes.
type frameKey struct {
	id    chunk.ID
	key   blockmap.Key
	frame uint32
	size  uint32 // plaintext bytes of the chunk
	log2  uint32 // of its frame size
}

// A frame is a buffer with decoded bytes. Its data does not change while
// anybody but its first owner holds a reference.
type frame struct {
	data []byte       // plaintext; its capacity is that of the class
	refs atomic.Int32 // the shard holds one, and so does each user
	home *sync.Pool   // where the frame goes when refs is 0

	key          frameKey // set by Memory.add
	older, newer *frame   // guarded by the shard's lock, as is seen
	seen         bool     // hit since the hand came by
}

// NewMemory returns a cache of at most limit bytes of frames, their overhead
// included. Frames that are being fetched or read are not counted once they
// are evicted, so a process needs a little more.
func NewMemory(limit int64) *Memory {
	n := 1
	for n < maxShards && limit/int64(2*n) >= shardBytes {
		n *= 2
	}
	m := &Memory{shards: make([]shard, n), buffers: make([]sync.Pool, bufferClasses)}
	for i := range m.shards {
		m.shards[i].frames = make(map[frameKey]*frame)
		m.shards[i].limit = limit / int64(n)
	}
	return m
}

// Used returns the bytes that the cached frames cost at present.
func (m *Memory) Used() int64 {
	var used int64
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		used += s.used
		s.mu.Unlock()
	}
	return used
}

// buffer returns a frame with room for size bytes that belongs to the caller.
func (m *Memory) buffer(size int) *frame {
	class := bits.Len(uint((size - 1) / minBuffer))
	home := &m.buffers[class]
	f, ok := home.Get().(*frame)
	if !ok {
		f = &frame{data: make([]byte, minBuffer<<class), home: home}
	}
	f.data = f.data[:size]
	f.refs.Store(1)
	return f
}

// release gives one reference back.
func (f *frame) release() {
	if f.refs.Add(-1) == 0 {
		f.data = f.data[:cap(f.data)]
		f.home.Put(f)
	}
}

// get returns the frame with a reference for the caller, or nil.
func (m *Memory) get(key *frameKey) *frame {
	s := m.shard(key)
	s.mu.Lock()
	f := s.frames[*key]
	if f != nil {
		f.refs.Add(1)
		f.seen = true
	}
	s.mu.Unlock()
	return f
}

// has reports whether the frame is cached, and is no hit.
func (m *Memory) has(key *frameKey) bool {
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frames[*key] != nil
}

// add caches f under key, with a reference of the cache's own, unless the key
// is there already or the frame is larger than the bound.
func (m *Memory) add(key *frameKey, f *frame) {
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	cost := f.cost()
	if s.frames[*key] != nil || cost > s.limit {
		return
	}
	for s.used+cost > s.limit {
		s.evict()
	}
	f.key, f.seen = *key, false
	f.refs.Add(1)
	s.frames[*key] = f
	s.used += cost
	f.older, f.newer = s.newest, nil
	if s.newest != nil {
		s.newest.newer = f
	} else {
		s.oldest = f
	}
	s.newest = f
}

// drop drops a frame, unless it was hit.
func (m *Memory) drop(key *frameKey) {
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.frames[*key]; f != nil && !f.seen {
		s.remove(f)
	}
}

// evict drops one frame: the first from the hand on that was not hit since the
// hand's last round. The queue must not be empty.
func (s *shard) evict() {
	f := s.hand
	if f == nil {
		f = s.oldest
	}
	for f.seen {
		f.seen = false
		if f = f.newer; f == nil {
			f = s.oldest
		}
	}
	s.hand = f
	s.remove(f)
}

// remove takes f out of the cache.
func (s *shard) remove(f *frame) {
	if s.hand == f {
		s.hand = f.newer
	}
	if f.newer != nil {
		f.newer.older = f.older
	} else {
		s.newest = f.older
	}
	if f.older != nil {
		f.older.newer = f.newer
	} else {
		s.oldest = f.newer
	}
	f.older, f.newer = nil, nil
	delete(s.frames, f.key)
	s.used -= f.cost()
	f.release()
}

func (f *frame) cost() int64 { return int64(cap(f.data)) + frameOverhead }

// shard picks by the ID, which is a hash already. The frame number is mixed in
// so that one chunk's frames do not share a lock.
func (m *Memory) shard(key *frameKey) *shard {
	h := uint32(key.id[0]) | uint32(key.id[1])<<8
	return &m.shards[(h+key.frame*7)&uint32(len(m.shards)-1)]
}
