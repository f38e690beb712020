package cached

import (
	"context"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache"
)

// administer handles the requests of administrators.
func (c *conn) administer(m *wire.Message) error {
	if !c.who.admin {
		return c.fail(m.Request, wire.Refused, "only root and the cache's user may do that")
	}
	switch m.Type {
	case wire.Stats:
		return c.reply(answer{request: m.Request, kind: wire.Statistics, payload: func(b []byte) []byte {
			return wire.AppendNumbers(b, c.server.Stats().numbers()...)
		}})
	case wire.List:
		return c.list(m)
	case wire.Pin, wire.Unpin, wire.Evict:
		return c.change(m)
	case wire.Scrub:
		return c.scrub(m)
	}
	return fmt.Errorf("%w: unexpected %v", wire.ErrMalformed, m.Type)
}

// list answers with the chunks whose names come after one.
func (c *conn) list(m *wire.Message) error {
	after, err := wire.ParseID(m.Payload)
	if err != nil {
		return err
	}
	var page []wire.Entry
	err = c.server.cache.List(c.server.done, after, func(e cache.Entry) bool {
		page = append(page, wire.Entry{ID: e.ID, Size: uint32(e.Size), Pinned: e.Pinned})
		return len(page) < wire.MaxListed
	})
	if err != nil {
		return c.fail(m.Request, wire.Internal, err.Error())
	}
	return c.reply(answer{request: m.Request, kind: wire.Listed, payload: func(b []byte) []byte { return wire.AppendEntries(b, page) }})
}

// change pins, unpins or evicts.
func (c *conn) change(m *wire.Message) error {
	id, err := wire.ParseID(m.Payload)
	if err != nil {
		return err
	}
	s := c.server
	switch m.Type {
	case wire.Pin:
		err = s.cache.Pin(s.done, id)
	case wire.Unpin:
		err = s.cache.Unpin(s.done, id)
	default:
		err = s.cache.Evict(s.done, id)
	}
	switch {
	case err == nil:
		return c.done(m.Request)
	case errors.Is(err, chunk.ErrNotFound):
		return c.fail(m.Request, wire.NotHeld, err.Error())
	case errors.Is(err, cache.ErrInUse):
		return c.fail(m.Request, wire.InUse, err.Error())
	}
	return c.fail(m.Request, wire.Internal, err.Error())
}

// scrub checks all files, in a goroutine: the answer comes when it is done. It
// ends with the connection.
func (c *conn) scrub(m *wire.Message) error {
	rate, err := wire.ParseNumber(m.Payload)
	if err != nil || rate > 1<<62 {
		return fmt.Errorf("%w: rate of a scrub", wire.ErrMalformed)
	}
	s := c.server
	if !s.scrub.CompareAndSwap(false, true) {
		return c.fail(m.Request, wire.WrongUse, "a scrub is under way")
	}
	ctx, cancel := context.WithCancel(s.done)
	s.running.Add(2)
	go func() {
		defer s.running.Done()
		select {
		case <-c.quit:
			cancel()
		case <-ctx.Done():
		}
	}()
	request := m.Request
	go func() {
		defer s.running.Done()
		defer s.scrub.Store(false)
		defer cancel()
		st, err := s.cache.Scrub(ctx, cache.Rate(rate))
		a := answer{request: request, kind: wire.Scrubbed, payload: func(b []byte) []byte {
			return wire.AppendNumbers(b, uint64(st.Chunks), uint64(st.Bytes), uint64(st.Damaged))
		}}
		if err != nil {
			a.kind, a.payload = wire.Fail, refusal(err).Append
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !c.gone {
			c.later(a)
		}
	}()
	return nil
}
