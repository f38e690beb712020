package wire

import "fmt"

// PutSimpleReply writes the header of a simple reply to the first
// SimpleReplySize bytes of b.
func PutSimpleReply(b []byte, e Errno, cookie uint64) {
	_ = b[SimpleReplySize-1]
	be.PutUint32(b, SimpleReplyMagic)
	be.PutUint32(b[4:], uint32(e))
	be.PutUint64(b[8:], cookie)
}

// A ChunkHeader precedes the Length bytes of one chunk of a structured reply.
type ChunkHeader struct {
	Flags  uint16
	Type   ChunkType
	Cookie uint64
	Length uint32
}

// Done reports whether this is the last chunk of its reply.
func (h ChunkHeader) Done() bool { return h.Flags&ChunkFlagDone != 0 }

// Put writes the header to the first ChunkHeaderSize bytes of b.
func (h ChunkHeader) Put(b []byte) {
	_ = b[ChunkHeaderSize-1]
	be.PutUint32(b, ChunkMagic)
	be.PutUint16(b[4:], h.Flags)
	be.PutUint16(b[6:], uint16(h.Type))
	be.PutUint64(b[8:], h.Cookie)
	be.PutUint32(b[16:], h.Length)
}

// ParseChunkHeader reads the ChunkHeaderSize bytes of b.
func ParseChunkHeader(b []byte) (ChunkHeader, error) {
	if len(b) != ChunkHeaderSize {
		return ChunkHeader{}, ErrShort
	}
	if be.Uint32(b) != ChunkMagic {
		return ChunkHeader{}, ErrMagic
	}
	return ChunkHeader{be.Uint16(b[4:]), ChunkType(be.Uint16(b[6:])), be.Uint64(b[8:]), be.Uint32(b[16:])}, nil
}

// Sizes of chunks, header included, in bytes.
const (
	DataPrefixSize  = ChunkHeaderSize + 8 // before the data
	HoleSize        = ChunkHeaderSize + 12
	ErrorSize       = ChunkHeaderSize + 6 // without a message
	StatusEntrySize = 8
)

func done(last bool) uint16 {
	if last {
		return ChunkFlagDone
	}
	return 0
}

// PutData writes what precedes n bytes of data to the first DataPrefixSize
// bytes of b.
func PutData(b []byte, cookie, offset uint64, n uint32, last bool) {
	ChunkHeader{done(last), ChunkData, cookie, n + 8}.Put(b)
	be.PutUint64(b[ChunkHeaderSize:], offset)
}

// PutHole writes a whole hole chunk to the first HoleSize bytes of b.
func PutHole(b []byte, cookie, offset uint64, n uint32, last bool) {
	ChunkHeader{done(last), ChunkHole, cookie, 12}.Put(b)
	be.PutUint64(b[ChunkHeaderSize:], offset)
	be.PutUint32(b[ChunkHeaderSize+8:], n)
}

// PutError writes a whole error chunk without a message, the last of its
// reply, to the first ErrorSize bytes of b.
func PutError(b []byte, cookie uint64, e Errno) {
	ChunkHeader{ChunkFlagDone, ChunkError, cookie, 6}.Put(b)
	be.PutUint32(b[ChunkHeaderSize:], uint32(e))
	be.PutUint16(b[ChunkHeaderSize+4:], 0)
}

// ParseError reads the data of an error chunk of type t.
func ParseError(t ChunkType, data []byte) (Errno, string, error) {
	tail := 0
	if t == ChunkErrorOffset {
		tail = 8
	}
	if len(data) < 6+tail {
		return 0, "", ErrShort
	}
	e, n := Errno(be.Uint32(data)), int(be.Uint16(data[4:]))
	if n > len(data)-6-tail {
		return 0, "", ErrShort
	}
	if e == 0 {
		return 0, "", fmt.Errorf("error chunk with error number 0")
	}
	return e, string(data[6 : 6+n]), nil
}

// A Status is one run of a block status reply: a length in bytes, and the
// flags of its metadata context.
type Status struct {
	Length uint32
	Flags  uint32
}

// AppendStatus appends a whole block status chunk of context id. There must be
// at least one run.
func AppendStatus(dst []byte, cookie uint64, id uint32, runs []Status, last bool) []byte {
	var h [ChunkHeaderSize]byte
	ChunkHeader{done(last), ChunkBlockStatus, cookie, uint32(4 + len(runs)*StatusEntrySize)}.Put(h[:])
	dst = append(dst, h[:]...)
	dst = be.AppendUint32(dst, id)
	for _, r := range runs {
		dst = be.AppendUint32(dst, r.Length)
		dst = be.AppendUint32(dst, r.Flags)
	}
	return dst
}

// ParseStatus reads the data of a block status chunk whose request asked for
// length bytes: the runs are not empty, and together at most that long.
func ParseStatus(data []byte, length uint32) (id uint32, runs []Status, err error) {
	if len(data) < 4+StatusEntrySize || (len(data)-4)%StatusEntrySize != 0 {
		return 0, nil, ErrShort
	}
	id = be.Uint32(data)
	runs = make([]Status, 0, (len(data)-4)/StatusEntrySize)
	var sum uint64
	for b := data[4:]; len(b) > 0; b = b[StatusEntrySize:] {
		s := Status{be.Uint32(b), be.Uint32(b[4:])}
		if s.Length == 0 {
			return 0, nil, fmt.Errorf("status run of no bytes")
		}
		if sum += uint64(s.Length); sum > uint64(length) {
			return 0, nil, fmt.Errorf("status runs of %d bytes for a request of %d", sum, length)
		}
		runs = append(runs, s)
	}
	return id, runs, nil
}
