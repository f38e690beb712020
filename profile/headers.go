package profile

import (
	"encoding/binary"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

// Bounds of the headers of a profile.
const (
	MaxHeaders     = 1 << 12
	MaxHeaderBytes = 1 << 20 // of all headers, with their places
)

// A Header is a chunk's header, and where the chunk stands in the block map. Its SHA-256 is
// the chunk's ID, so it needs no trust.
type Header struct {
	Chunk uint32
	chunk.Header
}

// bytes is what the header takes in the stored form, at most.
func (h *Header) bytes() int { return binary.MaxVarintLen32 + h.Len() }

// AddHeaders adds the headers of chunks that p has none of, as many as the bounds allow. They
// are ordered by place, in p and in list.
func (p *Profile) AddHeaders(list []Header) {
	if len(list) == 0 {
		return
	}
	merged := make([]Header, 0, len(p.Headers)+len(list))
	total := 0
	for _, h := range p.Headers {
		total += h.bytes()
	}
	have := p.Headers
	for i := range list {
		for len(have) > 0 && have[0].Chunk < list[i].Chunk {
			merged, have = append(merged, have[0]), have[1:]
		}
		known := len(have) > 0 && have[0].Chunk == list[i].Chunk
		if n := list[i].bytes(); !known && total+n <= MaxHeaderBytes && len(merged)+len(have) < MaxHeaders {
			merged, total = append(merged, list[i]), total+n
		}
	}
	p.Headers = append(merged, have...)
}

// checkHeaders reports what keeps the headers from being stored.
func (p *Profile) checkHeaders() error {
	if len(p.Headers) > MaxHeaders {
		return malformed("%d headers, at most %d", len(p.Headers), MaxHeaders)
	}
	total := 0
	for i := range p.Headers {
		h := &p.Headers[i]
		if h.Chunk >= blockmap.MaxChunks || i > 0 && h.Chunk <= p.Headers[i-1].Chunk {
			return malformed("header %d: of chunk %d", i, h.Chunk)
		}
		if total += h.bytes(); total > MaxHeaderBytes {
			return malformed("more than %d bytes of headers", MaxHeaderBytes)
		}
	}
	return nil
}

// appendHeaders appends the stored form of the headers.
func (p *Profile) appendHeaders(b []byte) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(len(p.Headers)))
	next := uint32(0)
	for i := range p.Headers {
		h := &p.Headers[i]
		b = binary.AppendUvarint(b, uint64(h.Chunk-next))
		next = h.Chunk + 1
		var err error
		if b, err = h.AppendBinary(b); err != nil {
			return b, malformed("header %d: %v", i, err)
		}
	}
	return b, nil
}

// headers reads what appendHeaders has written.
func (r *reader) headers() ([]Header, error) {
	n, ok := r.within(MaxHeaders)
	if !ok || n == 0 || n > uint64(len(r.rest)/chunk.HeaderLen(1)) {
		return nil, malformed("%d headers in %d bytes, want 1 to %d", n, len(r.rest), MaxHeaders)
	}
	list := make([]Header, n)
	next := uint64(0)
	for i := range list {
		gap, ok := r.within(blockmap.MaxChunks)
		if !ok || next+gap >= blockmap.MaxChunks {
			return nil, malformed("header %d: its chunk is out of bounds", i)
		}
		list[i].Chunk = uint32(next + gap)
		next += gap + 1
		if err := list[i].Parse(r.rest); err != nil {
			return nil, malformed("header %d: %v", i, err)
		}
		r.rest = r.rest[list[i].Len():]
	}
	return list, nil
}
