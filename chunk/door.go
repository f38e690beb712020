package chunk

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// firstHeader is how many bytes a Door asks for when all that it wants is a
// header: enough for 28 frames, so for every chunk of the usual sizes.
const firstHeader = 1 << 10

// A Door is the Reader of what a Source returns. It asks for all that is
// wanted in one Fetch if it begins at byte 0 or if the chunk's header is
// known, and else for the header first. It remembers the headers of the chunks
// read last, in at most HeaderCacheBytes. It neither retries nor joins equal
// reads.
type Door struct {
	src     Source
	headers headerCache
	pool    sync.Pool // *desk
}

var _ Reader = (*Door)(nil)

// A desk is what one read works on.
type desk struct {
	header Header
	buf    []byte
}

// bytes returns n bytes of undefined content that stay good until the next
// call.
func (d *desk) bytes(n int) []byte {
	d.buf = slices.Grow(d.buf[:0], n)[:n]
	return d.buf
}

// NewDoor returns a Door before src.
func NewDoor(src Source) *Door {
	d := &Door{src: src}
	d.headers.init(HeaderCacheBytes)
	d.pool.New = func() any { return new(desk) }
	return d
}

// ReadChunk implements [Reader]. Errors of the source are returned as they
// are. Frames that dst covers in part are fetched and checked as a whole.
func (d *Door) ReadChunk(ctx context.Context, id ID, dst []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read chunk %v: negative offset %d", id, off)
	}
	if len(dst) == 0 {
		return 0, ctx.Err()
	}
	k := d.pool.Get().(*desk)
	defer d.pool.Put(k)
	if !d.headers.get(id, &k.header) {
		if off == 0 && len(dst) >= prefixLen {
			return d.readFirst(ctx, id, k, dst)
		}
		if err := d.fetchHeader(ctx, id, k, firstHeader); err != nil {
			return 0, err
		}
	}
	return d.readKnown(ctx, id, k, dst, off)
}

// Knows reports whether the header of a chunk is remembered, so that a read of its frames
// asks for nothing else.
func (d *Door) Knows(id ID) bool { return d.headers.has(id) }

// Header returns the header of a chunk, if it is remembered.
func (d *Door) Header(id ID) (h Header, ok bool) {
	ok = d.headers.get(id, &h)
	return h, ok
}

// Learn has the door remember a header, of the chunk whose ID is its SHA-256.
func (d *Door) Learn(h *Header) { d.headers.put(h.ID(), h) }

// fetch is Source.Fetch from a source that may lie about n.
func (d *Door) fetch(ctx context.Context, id ID, dst []byte, off int64) (int, error) {
	n, err := d.src.Fetch(ctx, id, dst, off)
	if err != nil {
		return 0, err
	}
	if n < 0 || n > len(dst) {
		return 0, fmt.Errorf("read chunk %v: source returned %d bytes for %d", id, n, len(dst))
	}
	return n, nil
}

// fetchHeader fills k.header, guessing that the header has at most guess bytes.
func (d *Door) fetchHeader(ctx context.Context, id ID, k *desk, guess int) error {
	for {
		b := k.bytes(guess)
		n, err := d.fetch(ctx, id, b, 0)
		if err != nil {
			return err
		}
		need := prefixLen
		if n >= prefixLen {
			if need, err = encodedLen(b); err != nil {
				return &CorruptError{id, err.Error()}
			}
		}
		if n == guess && need > n { // at most once: all need at least prefixLen
			guess = need
			continue
		}
		if err := k.header.ParseAs(id, b[:n]); err != nil {
			return err
		}
		d.headers.put(id, &k.header)
		return nil
	}
}

// readFirst reads from byte 0 of a chunk whose header is not known.
func (d *Door) readFirst(ctx context.Context, id ID, k *desk, dst []byte) (int, error) {
	n, err := d.fetch(ctx, id, dst, 0)
	if err != nil {
		return 0, err
	}
	if n >= prefixLen && n == len(dst) {
		need, err := encodedLen(dst)
		if err != nil {
			return 0, &CorruptError{id, err.Error()}
		}
		if need > n { // dst ends within the header
			if err := d.fetchHeader(ctx, id, k, need); err != nil {
				return 0, err
			}
			return d.readKnown(ctx, id, k, dst, 0)
		}
	}
	if err := k.header.ParseAs(id, dst[:n]); err != nil {
		return 0, err
	}
	size := k.header.StoredSize()
	want := int(min(size, int64(len(dst))))
	if n != want {
		return 0, &CorruptError{id, fmt.Sprintf("%d bytes, want %d of %d", n, want, size)}
	}
	if err := d.checkFrames(ctx, id, k, dst[:n]); err != nil {
		return 0, err
	}
	d.headers.put(id, &k.header)
	return n, nil
}

// checkFrames checks the frames in b, the begin of an object with the header
// k.header. If b ends within a frame, that frame is fetched as a whole.
func (d *Door) checkFrames(ctx context.Context, id ID, k *desk, b []byte) error {
	off := k.header.Len()
	for i := range k.header.Frames {
		size := int(k.header.Frames[i].Len)
		if off+size > len(b) {
			if off == len(b) {
				return nil
			}
			whole, err := d.fetchFrames(ctx, id, k, k.bytes(size), i, i, int64(off))
			copy(b[off:], whole)
			return err
		}
		if err := k.header.VerifyFrame(id, i, b[off:off+size]); err != nil {
			return err
		}
		off += size
	}
	return nil
}

// readKnown reads a part of the chunk whose header is k.header.
func (d *Door) readKnown(ctx context.Context, id ID, k *desk, dst []byte, off int64) (int, error) {
	h := &k.header
	size := h.StoredSize()
	if off >= size {
		return 0, ctx.Err()
	}
	dst = dst[:min(size-off, int64(len(dst)))]
	total := len(dst)
	if head := int64(h.Len()); off < head { // the header needs no fetching
		n := copy(dst, h.append(k.bytes(h.Len())[:0])[off:])
		dst, off = dst[n:], off+int64(n)
		if len(dst) == 0 {
			return total, ctx.Err()
		}
	}
	first, last, begin, end := h.covering(off, off+int64(len(dst)))
	if begin == off && end == off+int64(len(dst)) {
		if _, err := d.fetchFrames(ctx, id, k, dst, first, last, begin); err != nil {
			return 0, err
		}
		return total, nil
	}
	whole, err := d.fetchFrames(ctx, id, k, k.bytes(int(end-begin)), first, last, begin)
	if err != nil {
		return 0, err
	}
	copy(dst, whole[off-begin:])
	return total, nil
}

// covering returns the frames that bytes [off, end) of the object touch, and
// where the first of them begins and the last one ends. The bytes lie behind
// the header and before the object's end.
func (h *Header) covering(off, end int64) (first, last int, begin, stop int64) {
	stop = int64(h.Len())
	for last = range h.Frames {
		if stop <= off {
			first, begin = last, stop
		}
		if stop += int64(h.Frames[last].Len); stop >= end {
			break
		}
	}
	return first, last, begin, stop
}

// fetchFrames fetches the frames first to last, which begin at byte off of the
// object, into b, which is exactly as long as they are, and checks them.
func (d *Door) fetchFrames(ctx context.Context, id ID, k *desk, b []byte, first, last int, off int64) ([]byte, error) {
	n, err := d.fetch(ctx, id, b, off)
	if err != nil {
		return nil, err
	}
	if n != len(b) {
		return nil, &CorruptError{id, fmt.Sprintf("ends at byte %d, want %d", off+int64(n), k.header.StoredSize())}
	}
	at := 0
	for i := first; i <= last; i++ {
		next := at + int(k.header.Frames[i].Len)
		if err := k.header.VerifyFrame(id, i, b[at:next]); err != nil {
			return nil, err
		}
		at = next
	}
	return b, nil
}
