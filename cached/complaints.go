package cached

import (
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/internal/tokenbucket"
)

// How often a user may complain of chunks that turn out good: each complaint has
// one read and checked as a whole.
const (
	complaintBurst     = 16
	complaintPerSecond = 1
)

// complaints bounds what wrong complaints cost, by user, since a process that
// may not complain any more can connect again. It has an entry for each user
// that complained, of those who are let in.
type complaints struct {
	mu    sync.Mutex
	users map[int]*tokenbucket.Bucket
}

// take reports whether a user may complain now.
func (c *complaints) take(uid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.users[uid]
	if b == nil {
		b = &tokenbucket.Bucket{PerSecond: complaintPerSecond, Burst: complaintBurst}
		c.users[uid] = b
	}
	now := time.Now()
	if b.Wait(now, 1) > 0 {
		return false
	}
	b.Take(now, 1)
	return true
}

// giveBack says that a complaint was right, or cost nothing.
func (c *complaints) giveBack(uid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users[uid].Add(time.Now(), 1)
}

// damaged looks at a chunk of which a client says that it is not what its name
// promises. It is dropped if that is so.
func (c *conn) damaged(m *wire.Message) error {
	id, err := wire.ParseID(m.Payload)
	if err != nil {
		return err
	}
	s := c.server
	s.stats.complaints.Add(1)
	if !s.cache.Holds(id) { // it was dropped before
		return c.done(m.Request)
	}
	if !s.complaints.take(c.who.uid) {
		return c.fail(m.Request, wire.Busy, "too many complaints that were wrong")
	}
	dropped, err := s.cache.Damaged(s.done, id)
	if dropped {
		s.complaints.giveBack(c.who.uid)
	}
	if err != nil {
		return c.fail(m.Request, wire.Internal, err.Error())
	}
	return c.done(m.Request)
}
