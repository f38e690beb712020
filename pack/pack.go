// Package pack is the format of packs: frames of many chunks in one object, in the
// order in which they will be read, so that a far store is asked once for what a
// start reads bit by bit.
//
// A pack is
//
//	header ‖ chunk headers ‖ frame table ‖ frames
//
// The frames are as they are stored in their chunks, sealed, and need no other key.
// Each chunk's header is there too, so whoever reads a pack checks it as it checks
// chunks: a chunk's ID is the SHA-256 of its header, and the header has the sums of
// its frames. So it does not matter who made a pack. doc/format/pack.md has the bytes.
//
// Two kinds are in use. An image's metadata object, which its block map names, has
// whole chunks: those that hold the file system's own blocks (see [Metadata]). A start
// pack has the frames of a profile, in its order.
//
// [Builder] makes packs, [Decoder] reads them, and [Fetch] puts one that is on its way
// before a reader of chunks.
package pack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/chunk"
)

// Version is the format version that this package writes and reads.
const Version = 1

// Bounds of the format. They are checked before anything is allocated for what
// they bound.
const (
	MaxChunks      = 1 << 16   // chunks that a pack has frames of
	MaxFrames      = 1 << 17   // frames of a pack
	MaxHeaderBytes = 32 << 20  // bytes of the chunks' headers
	MaxBytes       = 512 << 20 // bytes of a pack; less than origin.MaxObjectBytes
)

// Lengths in bytes.
const (
	prefixBytes = 32
	entryBytes  = 8

	magic = "RVFRPACK"
)

var (
	// ErrFormat is returned (wrapped) for bytes that are no pack.
	ErrFormat = errors.New("malformed pack")
	// ErrVersion is returned (wrapped) for a pack of another version.
	ErrVersion = errors.New("unknown pack version")
	// ErrFull is returned (wrapped) for what would take a pack over its bounds.
	ErrFull = errors.New("pack is full")
)

// A Chunk is a chunk that a pack has frames of.
type Chunk struct {
	ID     chunk.ID
	Header chunk.Header
}

// A Frame says which frame stands at a place of a pack.
type Frame struct {
	Chunk  uint32 // in Index.Chunks
	Number uint16 // of the chunk's frames
}

// An Index says what a pack has. It is read-only, for any number of goroutines.
type Index struct {
	Chunks []Chunk // in the order in which Frames first name them
	Frames []Frame // each once, as they stand in the pack

	head  int64   // bytes before the first frame
	ends  []int64 // of the frames, from the begin of the pack
	bytes int64   // of the pack
}

// Len returns the bytes of the index: where the first frame begins.
func (x *Index) Len() int64 { return x.head }

// Bytes returns the bytes of the whole pack.
func (x *Index) Bytes() int64 { return x.bytes }

// Place returns where frame i of Frames lies in the pack, in bytes.
func (x *Index) Place(i int) (begin, end int64) {
	begin = x.head
	if i > 0 {
		begin = x.ends[i-1]
	}
	return begin, x.ends[i]
}

// A prefix is the fixed part at the head of a pack.
type prefix struct {
	chunks, frames, headers int // counts, and bytes of the chunks' headers
	length                  int64
}

func (p *prefix) indexLen() int64 {
	return prefixBytes + int64(p.headers) + int64(p.frames)*entryBytes
}

func (p *prefix) append(b []byte) []byte {
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	b = binary.LittleEndian.AppendUint32(b, uint32(p.chunks))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.frames))
	b = binary.LittleEndian.AppendUint32(b, uint32(p.headers))
	return binary.LittleEndian.AppendUint64(b, uint64(p.length))
}

// parsePrefix parses the prefixBytes that a pack begins with, and checks its bounds.
func parsePrefix(b []byte) (prefix, error) {
	if len(b) < prefixBytes || string(b[:8]) != magic {
		return prefix{}, fmt.Errorf("%w: no header", ErrFormat)
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[8:]); v != Version {
		return prefix{}, fmt.Errorf("%w: version %d, want %d", ErrVersion, v, Version)
	}
	chunks, frames, headers, length := le.Uint32(b[12:]), le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint64(b[24:])
	switch {
	case chunks > MaxChunks || frames > MaxFrames || headers > MaxHeaderBytes || length > MaxBytes:
		return prefix{}, fmt.Errorf("%w: %d chunks, %d frames, %d bytes of headers, %d bytes: at most %d, %d, %d, %d",
			ErrFormat, chunks, frames, headers, length, MaxChunks, MaxFrames, MaxHeaderBytes, MaxBytes)
	case chunks > frames:
		return prefix{}, fmt.Errorf("%w: %d chunks and %d frames", ErrFormat, chunks, frames)
	}
	p := prefix{chunks: int(chunks), frames: int(frames), headers: int(headers), length: int64(length)}
	if p.indexLen() > p.length {
		return prefix{}, fmt.Errorf("%w: index of %d bytes in %d", ErrFormat, p.indexLen(), p.length)
	}
	return p, nil
}

// IndexLen returns how many bytes of a pack are its index, by the first PrefixLen
// of them.
func IndexLen(b []byte) (int64, error) {
	p, err := parsePrefix(b)
	return p.indexLen(), err
}

// PrefixLen is how many bytes IndexLen needs.
const PrefixLen = prefixBytes

// ParseIndex parses the index that b begins with. It does not look at what follows,
// and keeps nothing of b.
func ParseIndex(b []byte) (*Index, error) {
	p, err := parsePrefix(b)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) < p.indexLen() {
		return nil, fmt.Errorf("%w: %d bytes of an index of %d", ErrFormat, len(b), p.indexLen())
	}
	x := &Index{head: p.indexLen(), bytes: p.length}
	if x.Chunks, err = parseHeaders(b[prefixBytes:][:p.headers], p.chunks); err != nil {
		return nil, err
	}
	if err := x.parseFrames(b[prefixBytes+p.headers : p.indexLen()]); err != nil {
		return nil, err
	}
	return x, nil
}

// parseHeaders parses the headers of n chunks, which are all of b.
func parseHeaders(b []byte, n int) ([]Chunk, error) {
	if len(b) < n*chunk.HeaderLen(1) { // before room is made for them
		return nil, fmt.Errorf("%w: %d bytes for the headers of %d chunks", ErrFormat, len(b), n)
	}
	chunks := make([]Chunk, n)
	seen := make(map[chunk.ID]struct{}, n)
	for i := range chunks {
		c := &chunks[i]
		if err := c.Header.Parse(b); err != nil {
			return nil, fmt.Errorf("%w: chunk %d: %w", ErrFormat, i, err)
		}
		c.ID = c.Header.ID()
		if _, twice := seen[c.ID]; twice {
			return nil, fmt.Errorf("%w: chunk %v twice", ErrFormat, c.ID)
		}
		seen[c.ID] = struct{}{}
		b = b[c.Header.Len():]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the last chunk's header", ErrFormat, len(b))
	}
	return chunks, nil
}

// parseFrames parses the frame table, and places the frames.
func (x *Index) parseFrames(b []byte) error {
	n := len(b) / entryBytes
	x.Frames, x.ends = make([]Frame, n), make([]int64, n)
	there := newPresence(x.Chunks)
	named, at := uint32(0), x.head // chunks named so far, end of the last frame
	for i := range x.Frames {
		e := b[i*entryBytes:]
		f := Frame{binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint16(e[4:])}
		switch {
		case e[6] != 0 || e[7] != 0:
			return fmt.Errorf("%w: frame %d: padding", ErrFormat, i)
		case f.Chunk > named || int(f.Chunk) >= len(x.Chunks):
			return fmt.Errorf("%w: frame %d is of chunk %d, and %d of %d were named before", ErrFormat, i, f.Chunk, named, len(x.Chunks))
		case int(f.Number) >= len(x.Chunks[f.Chunk].Header.Frames):
			return fmt.Errorf("%w: frame %d has number %d in a chunk of %d frames", ErrFormat, i, f.Number, len(x.Chunks[f.Chunk].Header.Frames))
		case !there.add(f):
			return fmt.Errorf("%w: frame %d is there already", ErrFormat, i)
		}
		if f.Chunk == named {
			named++
		}
		at += int64(x.Chunks[f.Chunk].Header.Frames[f.Number].Len)
		x.Frames[i], x.ends[i] = f, at
	}
	if int(named) != len(x.Chunks) {
		return fmt.Errorf("%w: %d of %d chunks have a frame", ErrFormat, named, len(x.Chunks))
	}
	if at != x.bytes {
		return fmt.Errorf("%w: frames end at byte %d of %d", ErrFormat, at, x.bytes)
	}
	return nil
}

// A presence tells which frames were seen, a bit for each.
type presence struct {
	first []int // bit of each chunk's first frame
	bits  []uint64
}

func newPresence(chunks []Chunk) *presence {
	p := &presence{first: make([]int, len(chunks))}
	n := 0
	for i := range chunks {
		p.first[i] = n
		n += len(chunks[i].Header.Frames)
	}
	p.bits = make([]uint64, (n+63)/64)
	return p
}

// add enters a frame, and reports whether it was not there.
func (p *presence) add(f Frame) bool {
	bit := p.first[f.Chunk] + int(f.Number)
	word, mask := bit/64, uint64(1)<<(bit%64)
	was := p.bits[word]&mask != 0
	p.bits[word] |= mask
	return !was
}
