// Package tier makes chunk sources and readers of others: bounded, timed,
// hedged, joined, put one before another. It is what keeps a host, its caches
// and the origin calm when one of them is slow, dead or empty.
//
// A policy is a [Layer]: it does a read by calling what lies behind it once,
// twice or not at all. [Source] and [Reader] put layers around a source or a
// reader, so that trust stays a matter of types: a layer around a source makes
// a source, and only a door makes a reader of it. The policies can be used by
// themselves too, by what is no chunk source (a download, a stripe of a chunk):
// [Limit.Acquire], [Breaker.Allow], [Timeout.After], [Hedge.Race].
//
// The order matters, outermost first:
//
//	Observe ─► Coalesce ─► Hedge ─► (Gate) ─► Limit ─► Breaker ─► Timeout ─► a node, the origin
//	  times     one read    a 2nd              waits     fails at   counts from
//	  it all    for many    chance             in line   once       the sending on
//
// A hedge lies before the limit so that second requests are limited too. A
// timeout lies behind it so that waiting in line is not taken for a slow
// server. A breaker lies before the timeout so that it counts timeouts, and
// behind the limit so that what it lets through is sent at once; where a limit
// stands before it, its [Breaker.Gate] does so before that, so that no read
// waits in line to be refused.
//
// Readers stand one before another in a [Stack], which fills the caches that
// missed:
//
//	Stack ─► cache: Reader(door(host cache), Breaker, Timeout)
//	  │ miss, damage, failure
//	  ├────► cache: Reader(door(zone), …)
//	  │ miss, damage, failure
//	  └────► origin: door(Source(origin, Coalesce, Limit, …))
//
// # Who waits where
//
// Nothing here starts a goroutine for a read that waits: the caller's waits
// itself, so the memory of queues is bounded by who calls. Priority and flow
// travel in the context ([chunk.WithPriority], [WithFlow]). Goroutines are
// started by [Hedge] (one or two a read), [Coalesce] (one a flight) and [Stack]
// (a few fills); each ends when what it called returns, and its owner can wait
// for that.
//
// # Time
//
// All times are monotonic and taken where they are needed; there is no ticker.
// Tests run in testing/synctest.
package tier

import (
	"context"
	"errors"

	"github.com/rivuletfs/rivulet/chunk"
)

// Errors of layers. They say why a read was not done, and never match
// [chunk.ErrNotFound] or the errors of a context.
var (
	// ErrOverloaded is returned (wrapped) for a read of priority [chunk.Fill]
	// that a full queue has no place for.
	ErrOverloaded = errors.New("overloaded")
	// ErrOpen is returned (wrapped) by a [Breaker] that lets nothing through.
	ErrOpen = errors.New("breaker is open")
	// ErrTimeout is returned (wrapped) by a [Timeout] that ran out while the
	// caller would still wait.
	ErrTimeout = errors.New("no answer in time")
)

// A Next is a read that a layer passes on: [chunk.Source].Fetch or
// [chunk.Reader].ReadChunk of what lies behind it, with the same contract.
type Next func(ctx context.Context, id chunk.ID, dst []byte, off int64) (n int, err error)

// A Layer does reads by way of next. What holds for next holds for Read: dst is
// the caller's again on return, n is 0 with an error, it returns soon when
// ctx ends, and any number of calls may run at once. It returns no byte that
// next did not return for the same chunk. A Layer that keeps state between
// reads stands before one source only.
type Layer interface {
	Read(ctx context.Context, next Next, id chunk.ID, dst []byte, off int64) (n int, err error)
}

// chain puts layers around next, the first one outermost.
func chain(next Next, layers []Layer) Next {
	for i := len(layers) - 1; i >= 0; i-- {
		l, behind := layers[i], next
		next = func(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
			return l.Read(ctx, behind, id, dst, off)
		}
	}
	return next
}

// Source puts layers around src, the first one outermost.
func Source(src chunk.Source, layers ...Layer) chunk.Source {
	return source(chain(src.Fetch, layers))
}

// Reader puts layers around r, the first one outermost.
func Reader(r chunk.Reader, layers ...Layer) chunk.Reader {
	return reader(chain(r.ReadChunk, layers))
}

type source Next

// Fetch implements [chunk.Source].
func (s source) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	return s(ctx, id, dst, off)
}

type reader Next

// ReadChunk implements [chunk.Reader].
func (r reader) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	return r(ctx, id, dst, off)
}
