package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/rivuletfs/rivulet/chunk"
)

// A Builder gathers a pack. It is for one goroutine; the zero value is an empty pack.
type Builder struct {
	chunks  map[chunk.ID]*gathered
	frames  int
	headers []byte
	table   []byte
	data    []byte
}

// A gathered chunk is one whose header is in a pack.
type gathered struct {
	number uint32
	there  []bool // by frame
}

// Add adds frame number of the chunk whose header is given, with the bytes that are
// stored of it, which are checked. One that is there already changes nothing. It keeps
// neither h nor stored. The error is ErrFull if the pack has no room for it, and the
// pack is then as it was.
func (b *Builder) Add(h *chunk.Header, number int, stored []byte) error {
	id := h.ID()
	if number < 0 || number >= len(h.Frames) {
		return fmt.Errorf("pack frame %d of chunk %v: it has %d", number, id, len(h.Frames))
	}
	if err := h.VerifyFrame(id, number, stored); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	g := b.chunks[id]
	if g != nil && g.there[number] {
		return nil
	}
	head := 0
	if g == nil {
		head = h.Len()
	}
	if b.frames == MaxFrames || head > 0 && len(b.chunks) == MaxChunks || len(b.headers)+head > MaxHeaderBytes ||
		b.Len()+int64(head+entryBytes+len(stored)) > MaxBytes {
		return fmt.Errorf("pack frame %d of chunk %v: %w", number, id, ErrFull)
	}
	if g == nil {
		headers, err := h.AppendBinary(b.headers)
		if err != nil {
			return fmt.Errorf("pack chunk %v: %w", id, err)
		}
		if b.chunks == nil {
			b.chunks = make(map[chunk.ID]*gathered)
		}
		b.headers = headers
		g = &gathered{number: uint32(len(b.chunks)), there: make([]bool, len(h.Frames))}
		b.chunks[id] = g
	}
	g.there[number] = true
	b.table = binary.LittleEndian.AppendUint32(b.table, g.number)
	b.table = binary.LittleEndian.AppendUint16(b.table, uint16(number))
	b.table = append(b.table, 0, 0)
	b.data = append(b.data, stored...)
	b.frames++
	return nil
}

// AddObject adds all frames of the chunk whose stored form is given, as Add does.
// After an error some of them may have been added.
func (b *Builder) AddObject(object []byte) error {
	h, err := chunk.ParseHeader(object)
	if err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	if int64(len(object)) != h.StoredSize() {
		return fmt.Errorf("pack chunk %v: %d bytes, want %d", h.ID(), len(object), h.StoredSize())
	}
	off := h.Len()
	for i, f := range h.Frames {
		if err := b.Add(&h, i, object[off:off+int(f.Len)]); err != nil {
			return err
		}
		off += int(f.Len)
	}
	return nil
}

// Len returns the bytes of the pack so far.
func (b *Builder) Len() int64 {
	return prefixBytes + int64(len(b.headers)) + int64(len(b.table)) + int64(len(b.data))
}

// Frames returns how many frames the pack has so far.
func (b *Builder) Frames() int { return b.frames }

// Bytes returns the pack, the caller's to keep.
func (b *Builder) Bytes() []byte {
	p := prefix{chunks: len(b.chunks), frames: b.frames, headers: len(b.headers), length: b.Len()}
	out := p.append(make([]byte, 0, p.length))
	out = append(out, b.headers...)
	out = append(out, b.table...)
	return append(out, b.data...)
}
