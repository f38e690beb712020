package cachedclient

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rivuletfs/rivulet/chunk"
)

// pageSize is how many bytes a page checksum covers. Pages are counted from the
// begin of each frame, so that a page of a raw frame is a page of plaintext.
const pageSize = 4 << 10

// seed makes page checksums a secret of this process. Whoever owns the file could
// change a page so that its CRC stays what it was; without the seed nobody knows
// what keeps these.
var seed = maphash.MakeSeed()

func pageSum(b []byte) uint64 { return maphash.Bytes(seed, b) }

// errMore is returned for bytes of a chunk that were not checked by the daemon
// when it sent the descriptor.
var errMore = errors.New("not there yet")

// A held is a chunk whose file the client has a descriptor of. The file may be
// one that grows. What the daemon says of it is not believed: a frame is read as
// a whole and checked by its SHA-256 when it is touched first, and from then on
// by the page, by checksums taken at that moment.
type held struct {
	id     chunk.ID
	file   *os.File
	size   int64
	head   []byte // the encoded header, checked against id
	header chunk.Header
	begins []int64      // where each frame begins in the object, and the last one ends
	pages  []int        // where the sums of each frame's pages begin in sums
	ready  atomic.Int64 // bytes of the object that may be read
	// extract are the frames that are in the file, where those that it lacks take no room; it
	// has all that ready says. 0: all.
	extract chunk.Extract

	mu   sync.Mutex // held while sums of a frame are written, before its bit is set
	good [chunk.MaxFrames / 64]atomic.Uint64
	sums []uint64

	// Guarded by the shelf's mu.
	refs       int
	gone       bool // out of the shelf: closed when refs is 0
	seen       uint64
	prev, next *held
}

// newHeld reads and checks the header in file, whose object has size bytes, ready of them
// to be read. It owns file once it succeeds.
func newHeld(id chunk.ID, file *os.File, size, ready int64, extract chunk.Extract) (*held, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("chunk %v: the daemon sent no file but a %v", id, info.Mode().Type())
	}
	h := &held{id: id, file: file, size: size, extract: extract}
	h.head = make([]byte, min(ready, firstHeader))
	if err := h.readHeader(ready); err != nil {
		return nil, err
	}
	h.begins = make([]int64, 0, len(h.header.Frames)+1)
	h.pages = make([]int, 0, len(h.header.Frames))
	at, page := int64(h.header.Len()), 0
	for _, f := range h.header.Frames {
		h.begins, h.pages = append(h.begins, at), append(h.pages, page)
		at += int64(f.Len)
		page += (int(f.Len) + pageSize - 1) / pageSize
	}
	h.begins = append(h.begins, at)
	h.size = at
	h.sums = make([]uint64, page)
	h.ready.Store(ready)
	return h, nil
}

// firstHeader is enough for the headers of usual chunks.
const firstHeader = 1 << 10

func (h *held) readHeader(ready int64) error {
	n, err := h.file.ReadAt(h.head, 0)
	if n < len(h.head) {
		return fmt.Errorf("chunk %v: read its file: %w", h.id, err)
	}
	err = h.header.Parse(h.head)
	if err != nil && len(h.head) == firstHeader && ready > firstHeader {
		h.head = make([]byte, min(ready, chunk.MaxHeaderLen))
		if n, err := h.file.ReadAt(h.head, 0); n < len(h.head) {
			return fmt.Errorf("chunk %v: read its file: %w", h.id, err)
		}
		err = h.header.Parse(h.head)
	}
	if err != nil {
		return &chunk.CorruptError{ID: h.id, Reason: err.Error()}
	}
	h.head = append([]byte(nil), h.head[:h.header.Len()]...)
	if err := h.extract.ParseAs(&h.header, h.id, h.head); err != nil {
		return err
	}
	if stored := h.extract.Size(&h.header); stored != h.size {
		return &chunk.CorruptError{ID: h.id, Reason: fmt.Sprintf("%d bytes, want %d", h.size, stored)}
	}
	return nil
}

// isGood reports whether frame i was checked, and so has page sums.
func (h *held) isGood(i int) bool { return h.good[i/64].Load()>>(i%64)&1 != 0 }

// unlinked reports whether the file was removed, and takes space only because it is
// open.
func (h *held) unlinked() bool {
	info, err := h.file.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 0
}

// read is ReadChunk for a chunk that is held. buffer lends memory. The error is
// errMore if the daemon has to be asked for more, and a *chunk.CorruptError if
// the file has other bytes than it should.
func (h *held) read(dst []byte, off int64, buffer *buffer) (int, error) {
	if off >= h.size {
		return 0, nil
	}
	dst = dst[:min(h.size-off, int64(len(dst)))]
	total := len(dst)
	if head := int64(len(h.head)); off < head {
		n := copy(dst, h.head[off:])
		dst, off = dst[n:], off+int64(n)
		if len(dst) == 0 {
			return total, nil
		}
	}
	end := off + int64(len(dst))
	first := h.frameAt(off, 0)
	last := h.frameAt(end-1, first)
	begin, stop := h.cover(first, last, off, end)
	gap, ok := h.gap(first, last)
	if !ok || stop-gap > h.ready.Load() {
		return 0, errMore
	}
	b := dst
	if begin != off || stop != end {
		b = buffer.bytes(int(stop - begin))
	}
	if n, err := h.file.ReadAt(b, begin-gap); n < len(b) {
		return 0, &chunk.CorruptError{ID: h.id, Reason: fmt.Sprintf("its file ends, or cannot be read: %v", err)}
	}
	for i := first; i <= last; i++ {
		from, to := max(begin, h.begins[i]), min(stop, h.begins[i+1])
		if err := h.check(i, from, b[from-begin:to-begin]); err != nil {
			return 0, err
		}
	}
	if begin != off || stop != end {
		copy(dst, b[off-begin:])
	}
	return total, nil
}

// gap returns how many bytes of the object are not in the file before frame first; ok says
// that it and all up to frame last are.
func (h *held) gap(first, last int) (bytes int64, ok bool) {
	if h.extract == 0 {
		return 0, true
	}
	for i := range last + 1 {
		switch {
		case h.extract.Has(i):
		case i >= first:
			return 0, false
		default:
			bytes += h.begins[i+1] - h.begins[i]
		}
	}
	return bytes, true
}

// rest returns the frames that are not in the file of an extract.
func (h *held) rest() chunk.Extract {
	return ^h.extract & (1<<len(h.header.Frames) - 1)
}

// frameAt returns the frame that has byte off of the object, which lies behind
// the header; it is not before frame from.
func (h *held) frameAt(off int64, from int) int {
	for h.begins[from+1] <= off {
		from++
	}
	return from
}

// cover returns what has to be read to check bytes [off, end), which begin in
// frame first and end in frame last: whole frames where none was checked yet,
// else whole pages.
func (h *held) cover(first, last int, off, end int64) (begin, stop int64) {
	begin, stop = h.begins[first], h.begins[last+1]
	if h.isGood(first) {
		begin += (off - begin) &^ (pageSize - 1)
	}
	if h.isGood(last) {
		from := h.begins[last]
		stop = min(stop, from+(end-from+pageSize-1)&^(pageSize-1))
	}
	return begin, stop
}

// check checks b, which are the bytes of frame i from byte from of the object
// on: all of it, or whole pages if it was checked before.
func (h *held) check(i int, from int64, b []byte) error {
	if !h.isGood(i) {
		return h.checkFrame(i, b)
	}
	page := h.pages[i] + int(from-h.begins[i])/pageSize
	for len(b) > 0 {
		n := min(len(b), pageSize)
		if pageSum(b[:n]) != h.sums[page] {
			return &chunk.CorruptError{ID: h.id, Reason: fmt.Sprintf("a page of frame %d has changed", i)}
		}
		b, page = b[n:], page+1
	}
	return nil
}

// checkFrame checks a whole frame by its SHA-256, and takes its page sums.
func (h *held) checkFrame(i int, b []byte) error {
	f := &h.header.Frames[i]
	if len(b) != int(f.Len) || sha256.Sum256(b) != f.Sum {
		return &chunk.CorruptError{ID: h.id, Reason: fmt.Sprintf("frame %d has another SHA-256", i)}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.isGood(i) {
		return nil
	}
	for page := h.pages[i]; len(b) > 0; page++ {
		n := min(len(b), pageSize)
		h.sums[page] = pageSum(b[:n])
		b = b[n:]
	}
	h.good[i/64].Or(1 << (i % 64))
	return nil
}
