package cachedclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
)

const (
	maxLeases    = 4                     // that one read uses for requests
	corruptTries = 2                     // files of one chunk that may turn out damaged in one read
	busyPause    = 50 * time.Millisecond // mean, before a daemon that has too much to do is asked again
)

// A quest is a read that the shelf could not do.
type quest struct {
	reader  *Reader
	trace   *chunk.Trace
	id      chunk.ID
	dst     []byte
	off     int64
	frames  chunk.Extract // that are wanted, and no more; 0: dst, or the chunk where nothing of it is
	until   time.Time     // for which the daemon is asked
	leases  int           // that it got
	handed  time.Time     // when the daemon took a request; zero: it has none
	corrupt int           // files that were damaged
}

// errElsewhere is returned by steps of a quest when the daemon is of no help.
var errElsewhere = errors.New("to be read elsewhere")

// ask reads from the daemon, and from the origin if that does not help.
func (r *Reader) ask(ctx context.Context, t step, id chunk.ID, dst []byte, off int64) (int, error) {
	c := r.client
	q := quest{reader: r, trace: t.trace, id: id, dst: dst, off: off, frames: chunk.ExtractOf(ctx), until: time.Now().Add(c.config.Wait)}
	if h := c.shelf.get(id); h != nil {
		q.lacks(h)
		c.shelf.put(h)
	}
	limited, cancel := context.WithDeadline(ctx, q.until)
	defer cancel()
	again := true // after a connection was lost, once
	for {
		n, done, err := q.step(limited)
		switch {
		case done && err == nil:
			t.end(nil)
			return n, nil
		case done && !errors.Is(err, errElsewhere):
			t.end(err)
			return 0, err
		case done && errors.Is(err, ErrAway) && again:
			again = false // it may have been started anew
			continue
		case !done:
			continue
		}
		if ctx.Err() != nil {
			t.end(ctx.Err())
			return 0, ctx.Err()
		}
		t.end(err)
		c.stats.fallbacks.Add(1)
		return r.origin.ReadChunk(ctx, id, dst, off)
	}
}

// step asks the daemon once and does what it says. done says that err is the
// end of it.
func (q *quest) step(ctx context.Context) (n int, done bool, err error) {
	c := q.reader.client
	wait := time.Until(q.until)
	if wait <= 0 {
		return 0, true, errElsewhere
	}
	want := wire.Want{
		ID: q.id, Off: uint32(min(q.off, chunk.MaxStoredSize)), Len: uint32(min(len(q.dst), chunk.MaxStoredSize)),
		Priority: chunk.PriorityOf(ctx), WaitMillis: uint32(wait / time.Millisecond), Extract: q.frames,
	}
	c.stats.asks.Add(1)
	stop := c.watchUrgency(ctx, q.id, want.Priority)
	a, err := c.call(ctx, wire.Get, want.Append)
	stop()
	if err != nil {
		return 0, true, fmt.Errorf("%w: %w", errElsewhere, err)
	}
	switch a.kind {
	case wire.Hit, wire.Part:
		return q.take(&a)
	case wire.Lease:
		right, err := wire.ParseRight(a.payload)
		if err != nil {
			return 0, true, errElsewhere
		}
		q.leases++
		return q.useLease(ctx, right)
	case wire.Miss:
		miss, err := wire.ParseRefusal(a.payload)
		if err == nil && miss.Reason == wire.Busy && pauseBusy(ctx) {
			return 0, false, nil
		}
	default:
		a.close()
	}
	return 0, true, errElsewhere
}

// A raiser hears that a read has become more urgent.
type raiser chan chunk.Priority

// Raise implements [chunk.Raiser].
func (r raiser) Raise(p chunk.Priority) {
	select {
	case r <- p:
	default: // it was raised before, which will do
	}
}

// watchUrgency tells the daemon when a read that waits has become more urgent
// than it was, until it is stopped.
func (c *Client) watchUrgency(ctx context.Context, id chunk.ID, p chunk.Priority) (stop func()) {
	u := chunk.UrgencyOf(ctx)
	if u == nil || p == chunk.Demand {
		return func() {}
	}
	r := make(raiser, 1)
	u.Watch(r, p)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case p := <-r:
			_, _ = c.tell(ctx, wire.Raise, wire.Urgent{ID: id, Priority: p}.Append) // else it is not raised
		case <-ctx.Done():
		}
	}()
	return func() {
		u.Unwatch(r)
		cancel()
		<-ended
	}
}

// pauseBusy waits before a daemon that has too much to do is asked again. It
// reports whether ctx has not ended.
func pauseBusy(ctx context.Context) bool { return sleep(ctx, busyPause/2+rand.N(busyPause)) }

// sleep reports whether it slept so long before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// take reads from a descriptor that came, and keeps it.
func (q *quest) take(a *reply) (n int, done bool, err error) {
	c := q.reader.client
	at, err := wire.ParseHeld(a.payload)
	if err != nil || a.file == nil {
		a.close()
		return 0, true, errElsewhere
	}
	addSteps(q.trace, q.id, q.steps(&at))
	h, err := newHeld(q.id, a.file, int64(at.Size), int64(at.Checked), at.Extract)
	if err != nil {
		a.close()
		return q.damaged(err)
	}
	h = c.shelf.add(h, func(old *held) bool { return sameFile(old.file, a.file) })
	defer c.shelf.put(h)
	n, err = c.read(h, q.dst, q.off)
	switch {
	case err == nil:
		return n, true, nil
	case errors.Is(err, errMore):
		if q.lacks(h) {
			return 0, false, nil
		}
		return 0, true, errElsewhere // the daemon has sent less than it was asked for
	}
	c.shelf.drop(q.id, h)
	return q.damaged(err)
}

// lacks has the quest ask for what an extract lacks, if it does not do so already, and the
// read is for more than that has: for the frames that it was told of, and else for all.
func (q *quest) lacks(h *held) bool {
	if h.extract == 0 || q.frames != 0 && !h.extract.Covers(q.frames) {
		return false
	}
	q.frames = h.rest()
	return true
}

// steps returns what the daemon says it did to have the chunk. What it downloaded for
// this read, and had before the read came to wait for it, is there for everybody as if
// it always had been, but the read has waited for it from the request on.
func (q *quest) steps(at *wire.Held) []wire.Step {
	if q.trace == nil || q.handed.IsZero() || len(at.Steps) > 0 {
		return at.Steps
	}
	took := uint32(time.Since(q.handed).Microseconds())
	return []wire.Step{{Tier: chunk.Origin, End: wire.Had, Bytes: at.Checked, Ago: took, Took: took}}
}

// damaged goes on when a file was not what its name promises, or could not be
// read.
func (q *quest) damaged(err error) (int, bool, error) {
	c := q.reader.client
	c.tellDamaged(q.id, err)
	if q.corrupt++; q.corrupt > corruptTries {
		return 0, true, errElsewhere
	}
	return 0, false, nil
}

// sameFile reports whether two descriptors lead to one file.
func sameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// complain takes a chunk off the shelf whose file has other bytes than it had,
// and tells the daemon.
func (c *Client) complain(h *held, err error) {
	c.shelf.drop(h.id, h)
	c.tellDamaged(h.id, err)
}

// tellDamaged has the daemon look at a chunk, and waits until it has dropped it.
func (c *Client) tellDamaged(id chunk.ID, why error) {
	c.stats.damaged.Add(1)
	c.logger.Warn("host cache has a damaged chunk", "chunk", id, "err", why)
	ctx, cancel := context.WithTimeout(c.done, c.config.Silence)
	defer cancel()
	_, _ = c.tell(ctx, wire.Damaged, func(b []byte) []byte { return wire.AppendIDs(b, id) }) // else the scrubber finds it
}

// useLease fetches the chunk for everybody: by a request that the daemon sends,
// or if there is none, or it came to nothing, itself.
func (q *quest) useLease(ctx context.Context, right wire.Right) (n int, done bool, err error) {
	r := q.reader
	if r.requests != nil && q.handed.IsZero() && q.leases <= maxLeases {
		if q.handOver(ctx, right.Lease) {
			return 0, false, nil // and wait like everybody
		}
	}
	n, err = q.bring(ctx, right)
	return n, true, err
}

// handOver has the daemon send a request. It reports whether it will, or the
// lease has gone to somebody else.
func (q *quest) handOver(ctx context.Context, lease uint64) bool {
	c := q.reader.client
	req, err := q.reader.requests.Request(ctx, q.id)
	if err != nil {
		return false
	}
	e := wire.Errand{Lease: lease, Offset: uint64(req.Offset), Length: uint32(req.Length), URL: req.URL}
	for name, values := range req.Header {
		for _, v := range values {
			e.Fields = append(e.Fields, wire.Field{Name: name, Value: v})
		}
	}
	encoded, err := e.Append(nil)
	if err != nil {
		return false
	}
	sent := time.Now()
	a, err := c.call(ctx, wire.Fetch, func(b []byte) []byte { return append(b, encoded...) })
	if err != nil {
		return false
	}
	a.close()
	if a.kind == wire.Done {
		q.handed = sent
		c.stats.handed.Add(1)
		return true
	}
	f, err := wire.ParseRefusal(a.payload)
	switch {
	case err != nil:
		return false
	case f.Reason == wire.Busy: // and has taken the lease back
		q.leases--
		return pauseBusy(ctx)
	case f.Reason == wire.NoLease:
		return true
	}
	c.logger.Warn("host cache does not send the request", "chunk", q.id, "reason", f.Text)
	return false
}

// bring reads the whole chunk from the reader's origin, answers the read from
// it, and deposits it.
func (q *quest) bring(ctx context.Context, right wire.Right) (int, error) {
	r, c := q.reader, q.reader.client
	stop := c.keepLease(right)
	b := c.buffers.Get().(*buffer)
	defer c.buffers.Put(b)
	object, err := readWhole(ctx, r.origin, q.id, b)
	stop()
	if err != nil {
		c.abandon(right.Lease)
		if ctx.Err() != nil { // of the daemon's time; the caller may have more
			return 0, errElsewhere
		}
		return 0, err
	}
	c.stats.brought.Add(1)
	if err := c.deposit(ctx, right.Lease, object); err != nil {
		c.logger.Warn("host cache does not take a chunk", "chunk", q.id, "err", err)
		c.abandon(right.Lease)
	}
	if q.off >= int64(len(object)) {
		return 0, nil
	}
	return copy(q.dst, object[q.off:]), nil
}

// usualSize is enough for the stored form of a chunk of the usual size.
const usualSize = chunk.Size + 4<<10

// readWhole reads a whole chunk into memory that b lends.
func readWhole(ctx context.Context, origin chunk.Reader, id chunk.ID, b *buffer) ([]byte, error) {
	object := b.bytes(max(usualSize, cap(b.b)))
	n, err := origin.ReadChunk(ctx, id, object, 0)
	if err == nil && n == len(object) && n < chunk.MaxStoredSize { // there may be more
		object = b.bytes(chunk.MaxStoredSize)
		n, err = origin.ReadChunk(ctx, id, object, 0)
	}
	return object[:n], err
}

// keepLease renews a lease until it is stopped.
func (c *Client) keepLease(right wire.Right) (stop func()) {
	ctx, cancel := context.WithCancel(c.done)
	every := max(time.Duration(right.Millis)*time.Millisecond/3, 10*time.Millisecond)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for sleep(ctx, every) {
			done, err := c.tell(ctx, wire.Renew, func(b []byte) []byte { return wire.AppendNumber(b, right.Lease) })
			if err != nil || !done {
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// forgo gives up an answer that came too late. A lease goes back at once, for
// others wait for it.
func (c *Client) forgo(r *reply) {
	r.close()
	if r.kind != wire.Lease {
		return
	}
	right, err := wire.ParseRight(r.payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && !c.closed {
		c.running.Go(func() { c.abandon(right.Lease) })
	}
}

// abandon gives a lease back; if that fails it ends by itself.
func (c *Client) abandon(lease uint64) {
	ctx, cancel := context.WithTimeout(c.done, c.config.Silence)
	defer cancel()
	_, _ = c.tell(ctx, wire.Abandon, func(b []byte) []byte { return wire.AppendNumber(b, lease) })
}

// deposit sends an object to the daemon.
func (c *Client) deposit(ctx context.Context, lease uint64, object []byte) error {
	for off := 0; off < len(object); {
		data := object[off:min(off+wire.MaxPiece, len(object))]
		p := wire.Piece{Lease: lease, Size: uint32(len(object)), Off: uint32(off), Data: data}
		a, err := c.call(ctx, wire.Deposit, p.Append)
		if err != nil {
			return err
		}
		a.close()
		if a.kind != wire.Done {
			f, err := wire.ParseRefusal(a.payload)
			if err == nil {
				err = errors.New(f.Text)
			}
			return fmt.Errorf("refused: %w", err)
		}
		off += len(data)
	}
	return nil
}
