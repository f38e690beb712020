package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// Tuning of retries.
const (
	firstBackoff   = 10 * time.Millisecond // mean pause after the first failure; doubles
	lastBackoff    = 2 * time.Second       // longest mean pause
	corruptTries   = 4                     // attempts while the answers are corrupt
	attemptsInTime = 2                     // a hung attempt ends after Timeout over this
)

// fetch runs a flight to its end: attempts until one succeeds, the error is
// one that no retry mends, or the deadline passes.
func (d *Disk) fetch(f *flight, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(f.context(d.ctx), deadline)
	defer cancel()
	backoff, corrupt := firstBackoff, 0
	for try := 1; ; try++ {
		err := d.attempt(ctx, f)
		if err == nil {
			return nil
		}
		if d.ctx.Err() != nil {
			return ErrClosed
		}
		var bad *chunk.CorruptError
		if errors.As(err, &bad) {
			corrupt++
		}
		if corrupt >= corruptTries || errors.Is(err, chunk.ErrNotFound) || errors.Is(err, errUnreadable) {
			return d.failed(f, try, err)
		}
		pause := time.NewTimer(backoff/2 + rand.N(backoff))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			if d.ctx.Err() != nil {
				return ErrClosed
			}
			return d.failed(f, try, fmt.Errorf("%w: %w", ErrTimedOut, err))
		}
		backoff = min(2*backoff, lastBackoff)
		d.stats.retries.Add(1)
	}
}

// context returns ctx with the trace and the priority of f's reads, and which frames they
// are for.
func (f *flight) context(ctx context.Context) context.Context {
	ctx = chunk.WithTrace(ctx, &f.trace)
	if f.unit.frame == someFrames && len(f.slots) <= chunk.MaxExtract && f.wanted.Len() < len(f.slots) {
		ctx = chunk.WithExtract(ctx, chunk.Extract(f.wanted[0]))
	}
	if f.urgency == nil {
		return ctx
	}
	return chunk.WithUrgency(ctx, f.urgency)
}

// failed says where on the disk a fetch failed for good.
func (d *Disk) failed(f *flight, tries int, err error) error {
	return fmt.Errorf("read disk at %d: %d tries: %w", int64(f.chunk.Index)<<d.info.ChunkLog2, tries, err)
}

// errUnreadable marks checked bytes that cannot be decoded, or that contradict
// the block map: every copy is the same.
var errUnreadable = errors.New("chunk does not fit its block map")

// A desk is what one attempt works on.
type desk struct {
	header chunk.Header
	buf    []byte // as long as any stored chunk of the disk may be
}

// attempt fetches and decodes a unit once. What an earlier attempt delivered
// stays.
func (d *Disk) attempt(ctx context.Context, f *flight) error {
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout/attemptsInTime)
	defer cancel()
	k := d.desks.Get().(*desk)
	defer d.desks.Put(k)
	switch f.unit.frame {
	case wholeChunk:
		return d.attemptChunk(ctx, f, k)
	case someFrames:
		return d.attemptSome(ctx, f, k)
	}
	return d.attemptFrame(ctx, f, k)
}

// attemptChunk fetches a whole chunk and decodes all its frames, those that
// reads wait for first.
func (d *Disk) attemptChunk(ctx context.Context, f *flight, k *desk) error {
	b := k.buf[:f.chunk.Stored]
	if err := d.read(ctx, f, b, 0); err != nil {
		return err
	}
	if err := d.parse(f, k, b); err != nil {
		return err
	}
	for i, ok := d.next(f); ok; i, ok = d.next(f) {
		off := k.header.FrameOffset(int(i))
		if err := d.decode(f, k, i, b[off:][:k.header.Frames[i].Len]); err != nil {
			return err
		}
	}
	return nil
}

// attemptFrame fetches a chunk's header and one frame. Where it is known without the
// header where the frame lies, it comes first: a host cache that is still getting the
// chunk then answers once, when it has got as far, and not for the header before.
func (d *Disk) attemptFrame(ctx context.Context, f *flight, k *desk) error {
	if i := f.unit.frame; d.byPage(&f.chunk) {
		at := int64(i) << d.info.FrameLog2
		n := int(min(int64(f.chunk.Size)-at, 1<<d.info.FrameLog2))
		head := chunk.HeaderLen(len(f.slots))
		b := k.buf[head:][:n]
		if err := d.read(ctx, f, b, int64(head)+at); err != nil {
			return err
		}
		if err := d.readHeader(ctx, f, k); err != nil {
			return err
		}
		if k.header.Codec == chunk.Raw && k.header.FrameOffset(int(i)) == int64(head)+at {
			return d.decode(f, k, i, b)
		} // else it is not raw though it takes as much, or the block map is wrong
	}
	if err := d.readHeader(ctx, f, k); err != nil {
		return err
	}
	i := f.unit.frame
	b := k.buf[:k.header.Frames[i].Len]
	if err := d.read(ctx, f, b, k.header.FrameOffset(int(i))); err != nil {
		return err
	}
	return d.decode(f, k, i, b)
}

// attemptSome fetches a chunk's header and the wanted frames that memory lacks: each
// run of them by one request, all at once.
func (d *Disk) attemptSome(ctx context.Context, f *flight, k *desk) error {
	if err := d.readHeader(ctx, f, k); err != nil {
		return err
	}
	var room [chunk.MaxFrames / 2]run
	for list := d.runs(f, room[:0]); len(list) > 0; list = d.runs(f, list) {
		errs := make([]error, len(list))
		var others sync.WaitGroup
		for i, r := range list[1:] {
			others.Go(func() { errs[i+1] = d.fetchRun(ctx, f, k, r) })
		}
		errs[0] = d.fetchRun(ctx, f, k, list[0])
		others.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// fetchRun fetches and decodes one run of frames. Runs that are fetched at once have
// their own parts of k's buffer.
func (d *Disk) fetchRun(ctx context.Context, f *flight, k *desk, r run) error {
	begin := k.header.FrameOffset(int(r.first))
	end := k.header.FrameOffset(int(r.end-1)) + int64(k.header.Frames[r.end-1].Len)
	if err := d.read(ctx, f, k.buf[begin:end], begin); err != nil {
		return err
	}
	for i := r.first; i < r.end; i++ {
		stored := k.buf[k.header.FrameOffset(int(i)):][:k.header.Frames[i].Len]
		if err := d.decode(f, k, i, stored); err != nil {
			return err
		}
	}
	return nil
}

// readHeader fetches a chunk's header alone.
func (d *Disk) readHeader(ctx context.Context, f *flight, k *desk) error {
	n := chunk.HeaderLen(len(f.slots))
	if n > len(k.buf) {
		return fmt.Errorf("chunk %s: %d frames: %w", f.chunk.ID, len(f.slots), errUnreadable)
	}
	if err := d.read(ctx, f, k.buf[:n], 0); err != nil {
		return err
	}
	return d.parse(f, k, k.buf[:n])
}

// read fills b with stored bytes of f's chunk.
func (d *Disk) read(ctx context.Context, f *flight, b []byte, off int64) error {
	n, err := d.reader.ReadChunk(ctx, f.chunk.ID, b, off)
	if err != nil {
		return err
	}
	d.stats.fetchedBytes.Add(int64(n))
	f.bytes.Add(int64(n))
	if n != len(b) {
		return &chunk.CorruptError{ID: f.chunk.ID, Reason: fmt.Sprintf("%d bytes at %d, want %d", n, off, len(b))}
	}
	return nil
}

// parse reads the header at the head of b, and compares it with what the block
// map says of the chunk.
func (d *Disk) parse(f *flight, k *desk, b []byte) error {
	h := &k.header
	if err := h.Parse(b); err != nil {
		return fmt.Errorf("chunk %s: %w: %w", f.chunk.ID, errUnreadable, err)
	}
	if h.Size != f.chunk.Size || h.FrameLog2 != d.info.FrameLog2 || h.StoredSize() != int64(f.chunk.Stored) {
		return fmt.Errorf("chunk %s: header and block map differ in sizes: %w", f.chunk.ID, errUnreadable)
	}
	return nil
}

// decode opens frame i out of its stored bytes and delivers it.
func (d *Disk) decode(f *flight, k *desk, i uint32, stored []byte) error {
	size := k.header.FrameSize(int(i))
	fr := d.memory.buffer(size)
	_, err := d.opener.OpenFrame(fr.data, &k.header, f.chunk.Key, int(i), stored)
	if err != nil {
		fr.release()
		return fmt.Errorf("chunk %s frame %d: %w: %w", f.chunk.ID, i, errUnreadable, err)
	}
	d.deliver(f, i, fr)
	return nil
}
