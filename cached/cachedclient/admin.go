package cachedclient

import (
	"context"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
)

var (
	// ErrRefused is returned (wrapped) when the daemon does not let this user do
	// that.
	ErrRefused = errors.New("not allowed")
	// ErrInUse is returned (wrapped) by Evict for a chunk that is being read or
	// that is pinned.
	ErrInUse = errors.New("in use or pinned")
)

// do sends a request whose answer is of one kind, and returns its payload.
func (c *Client) do(ctx context.Context, op string, t, want wire.Type, payload func(b []byte) []byte) ([]byte, error) {
	a, err := c.call(ctx, t, payload)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	a.close()
	if a.kind == want {
		return a.payload, nil
	}
	if a.kind != wire.Fail {
		return nil, fmt.Errorf("%s: %w: answered by %v", op, wire.ErrMalformed, a.kind)
	}
	f, err := wire.ParseRefusal(a.payload)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	switch f.Reason {
	case wire.Refused:
		return nil, fmt.Errorf("%s: %w: %s", op, ErrRefused, f.Text)
	case wire.NotHeld:
		return nil, fmt.Errorf("%s: %w", op, chunk.ErrNotFound)
	case wire.InUse:
		return nil, fmt.Errorf("%s: %w", op, ErrInUse)
	}
	return nil, fmt.Errorf("%s: %s", op, f.Text)
}

// A Stat is one number of the daemon's.
type Stat struct {
	Name  string
	Value int64
}

// DaemonStats returns what the daemon counts; doc/format/cache-protocol.md says
// what the names mean.
func (c *Client) DaemonStats(ctx context.Context) ([]Stat, error) {
	b, err := c.do(ctx, "statistics of the host cache", wire.Stats, wire.Statistics, nil)
	if err != nil {
		return nil, err
	}
	numbers, err := wire.ParseNumbers(b)
	if err != nil {
		return nil, err
	}
	list := make([]Stat, 0, len(numbers))
	for i, n := range numbers[:min(len(numbers), len(wire.StatNames))] {
		list = append(list, Stat{wire.StatNames[i], int64(n)})
	}
	return list, nil
}

// An Entry is a chunk that the daemon holds.
type Entry struct {
	ID     chunk.ID
	Size   int64 // stored bytes
	Pinned bool
}

// List calls fn for each chunk that the daemon holds, in the order of names,
// until fn fails; that error is returned.
func (c *Client) List(ctx context.Context, fn func(Entry) error) error {
	var after chunk.ID
	for {
		b, err := c.do(ctx, "list the host cache", wire.List, wire.Listed, func(b []byte) []byte { return wire.AppendIDs(b, after) })
		if err != nil {
			return err
		}
		page, err := wire.ParseEntries(b)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			if string(e.ID[:]) <= string(after[:]) {
				return fmt.Errorf("list the host cache: %w: not in order", wire.ErrMalformed)
			}
			after = e.ID
			if err := fn(Entry{e.ID, int64(e.Size), e.Pinned}); err != nil {
				return err
			}
		}
	}
}

// Pin keeps a chunk from being evicted, now and when it comes.
func (c *Client) Pin(ctx context.Context, id chunk.ID) error {
	return c.change(ctx, "pin", wire.Pin, id)
}

// Unpin undoes Pin.
func (c *Client) Unpin(ctx context.Context, id chunk.ID) error {
	return c.change(ctx, "unpin", wire.Unpin, id)
}

// Evict has the daemon drop a chunk: chunk.ErrNotFound if it has none, ErrInUse
// if it cannot.
func (c *Client) Evict(ctx context.Context, id chunk.ID) error {
	return c.change(ctx, "evict", wire.Evict, id)
}

func (c *Client) change(ctx context.Context, op string, t wire.Type, id chunk.ID) error {
	_, err := c.do(ctx, fmt.Sprintf("%s chunk %v", op, id), t, wire.Done, func(b []byte) []byte { return wire.AppendIDs(b, id) })
	return err
}

// Scrubbed is what a scrub has done.
type Scrubbed struct {
	Chunks, Bytes int64 // checked
	Damaged       int64 // chunks that were damaged, and dropped
}

// Scrub has the daemon check all that it holds, at bytesPerSecond, or as fast as
// it can if that is 0, and returns when that is done.
func (c *Client) Scrub(ctx context.Context, bytesPerSecond int64) (Scrubbed, error) {
	b, err := c.do(ctx, "scrub the host cache", wire.Scrub, wire.Scrubbed, func(b []byte) []byte { return wire.AppendNumber(b, uint64(bytesPerSecond)) })
	if err != nil {
		return Scrubbed{}, err
	}
	n, err := wire.ParseNumbers(b)
	if err != nil || len(n) != 3 {
		return Scrubbed{}, fmt.Errorf("scrub the host cache: %w", wire.ErrMalformed)
	}
	return Scrubbed{int64(n[0]), int64(n[1]), int64(n[2])}, nil
}
