package chunk

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A Codec says how the frames of a chunk are coded before they are sealed.
type Codec uint8

// The codecs of version 1.
const (
	Raw  Codec = 0 // as it is
	Zstd Codec = 1 // each frame is one Zstandard frame (RFC 8878)
)

// String returns the codec's name.
func (c Codec) String() string {
	switch c {
	case Raw:
		return "raw"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// Fixed lengths of the format, in bytes.
const (
	magic      = "rvc1"
	prefixLen  = 16
	frameLen   = 4 + sha256.Size
	FrameSlack = 64 // what a stored frame may have beyond its plaintext, if coded

	// MaxHeaderLen is the length of the longest header.
	MaxHeaderLen = prefixLen + MaxFrames*frameLen
	// MaxStoredSize is the length of the longest stored chunk.
	MaxStoredSize = MaxHeaderLen + MaxSize + MaxFrames*FrameSlack
)

var (
	// ErrFormat is returned (wrapped) for bytes that are no chunk header.
	ErrFormat = errors.New("malformed chunk header")
	// ErrVersion is returned (wrapped) for a header of another format version.
	ErrVersion = errors.New("unknown chunk format version")
	// ErrCodec is returned (wrapped) for a header that names an unknown codec.
	ErrCodec = errors.New("unknown chunk codec")
)

// A Frame is what a header says of one stored frame.
type Frame struct {
	Len uint32            // stored bytes
	Sum [sha256.Size]byte // SHA-256 of the stored bytes
}

// A Header describes a chunk; doc/format/chunk.md has its encoding. Every
// method but Parse wants a header that Parse or AppendBinary accepts.
type Header struct {
	Codec     Codec
	FrameLog2 uint8   // log2 of the plaintext bytes of a full frame
	Size      uint32  // bytes of plaintext, of which the last is not zero
	Frames    []Frame // as many as Size takes
}

// HeaderLen returns the bytes of a header that lists n frames, which is also
// where the first stored frame begins.
func HeaderLen(n int) int { return prefixLen + n*frameLen }

// Len returns the bytes of the encoded header.
func (h *Header) Len() int { return HeaderLen(len(h.Frames)) }

// FrameOffset returns where stored frame i begins in the object, in bytes. The
// number of frames stands for the end of the object.
func (h *Header) FrameOffset(i int) int64 {
	off := int64(h.Len())
	for _, f := range h.Frames[:i] {
		off += int64(f.Len)
	}
	return off
}

// StoredSize returns the bytes of the object, header included.
func (h *Header) StoredSize() int64 { return h.FrameOffset(len(h.Frames)) }

// FrameSize returns the plaintext bytes of frame i: all of a frame's but for
// the last.
func (h *Header) FrameSize(i int) int {
	return min(1<<h.FrameLog2, int(h.Size)-i<<h.FrameLog2)
}

// ID returns the chunk's name.
func (h *Header) ID() ID {
	var buf [prefixLen + 16*frameLen]byte // enough for the usual sizes
	return sha256.Sum256(h.append(buf[:0]))
}

// AppendBinary appends the encoded header to b. It fails for a header that
// Parse would refuse.
func (h *Header) AppendBinary(b []byte) ([]byte, error) {
	if err := h.check(); err != nil {
		return b, err
	}
	return h.append(b), nil
}

func (h *Header) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, byte(h.Codec), h.FrameLog2)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(h.Frames)))
	b = binary.LittleEndian.AppendUint32(b, h.Size)
	b = binary.LittleEndian.AppendUint32(b, 0)
	for i := range h.Frames {
		b = binary.LittleEndian.AppendUint32(b, h.Frames[i].Len)
		b = append(b, h.Frames[i].Sum[:]...)
	}
	return b
}

// check reports why h has no encoding.
func (h *Header) check() error {
	switch size := 1 << min(h.FrameLog2, 31); {
	case h.Codec > Zstd:
		return fmt.Errorf("%w: %d", ErrCodec, h.Codec)
	case size < MinFrameSize || size > MaxFrameSize:
		return fmt.Errorf("%w: frames of 2^%d bytes", ErrFormat, h.FrameLog2)
	case h.Size == 0 || h.Size > MaxSize:
		return fmt.Errorf("%w: %d bytes of plaintext, want 1 to %d", ErrFormat, h.Size, MaxSize)
	case len(h.Frames) != frameCount(h.Size, h.FrameLog2):
		return fmt.Errorf("%w: %d frames for %d bytes of plaintext", ErrFormat, len(h.Frames), h.Size)
	}
	for i := range h.Frames {
		stored, plain := int(h.Frames[i].Len), h.FrameSize(i)
		if h.Codec == Raw && stored != plain || stored < 1 || stored > plain+FrameSlack {
			return fmt.Errorf("%w: frame %d (%v) has %d stored bytes for %d", ErrFormat, i, h.Codec, stored, plain)
		}
	}
	return nil
}

func frameCount(size uint32, log2 uint8) int {
	return int((uint64(size) + 1<<log2 - 1) >> log2)
}

// encodedLen returns the length of the header that b, which has at least
// prefixLen bytes of it, begins with.
func encodedLen(b []byte) (int, error) {
	if string(b[:4]) != magic {
		if string(b[:3]) == magic[:3] {
			return 0, fmt.Errorf("%w: %q", ErrVersion, b[:4])
		}
		return 0, fmt.Errorf("%w: no magic number", ErrFormat)
	}
	n := int(binary.LittleEndian.Uint16(b[6:]))
	if n == 0 || n > MaxFrames {
		return 0, fmt.Errorf("%w: %d frames, want 1 to %d", ErrFormat, n, MaxFrames)
	}
	return HeaderLen(n), nil
}

// EncodedLen returns the length of the header that b begins with, of which it needs the
// first 16 bytes alone.
func EncodedLen(b []byte) (int, error) {
	if len(b) < prefixLen {
		return 0, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	return encodedLen(b)
}

// ParseHeader decodes the header that b begins with. What it accepts has this
// one encoding; it does not look at what follows. The result keeps nothing of
// b.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	err := h.Parse(b)
	return h, err
}

// Parse is [ParseHeader] into h, whose Frames are overwritten if they are large
// enough. After an error h is undefined.
func (h *Header) Parse(b []byte) error {
	if len(b) < prefixLen {
		return fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	n, err := encodedLen(b)
	if err != nil {
		return err
	}
	if len(b) < n {
		return fmt.Errorf("%w: %d bytes of %d", ErrFormat, len(b), n)
	}
	if binary.LittleEndian.Uint32(b[12:]) != 0 {
		return fmt.Errorf("%w: reserved bytes are not zero", ErrFormat)
	}
	h.Codec, h.FrameLog2, h.Size = Codec(b[4]), b[5], binary.LittleEndian.Uint32(b[8:])
	count := (n - prefixLen) / frameLen
	h.Frames = slices.Grow(h.Frames[:0], count)[:count]
	for i := range h.Frames {
		e := b[HeaderLen(i):]
		h.Frames[i].Len = binary.LittleEndian.Uint32(e)
		copy(h.Frames[i].Sum[:], e[4:frameLen])
	}
	return h.check()
}

// ParseAs parses the header that b begins with, if it is the one that id names.
// Its error is a *CorruptError.
func (h *Header) ParseAs(id ID, b []byte) error {
	if err := h.Parse(b); err != nil {
		return &CorruptError{id, err.Error()}
	}
	if sha256.Sum256(b[:h.Len()]) != id {
		return &CorruptError{id, "header has another SHA-256"}
	}
	return nil
}

// VerifyFrame checks that stored is what h, the header of id, says of frame i,
// which h has. Its error is a *CorruptError.
func (h *Header) VerifyFrame(id ID, i int, stored []byte) error {
	if len(stored) != int(h.Frames[i].Len) {
		return &CorruptError{id, fmt.Sprintf("frame %d has %d bytes, want %d", i, len(stored), h.Frames[i].Len)}
	}
	if sha256.Sum256(stored) != h.Frames[i].Sum {
		return &CorruptError{id, fmt.Sprintf("frame %d has another SHA-256", i)}
	}
	return nil
}

// Verify checks that object is the whole stored form of chunk id, and returns
// its header. The error is a *CorruptError.
func Verify(id ID, object []byte) (Header, error) {
	var h Header
	if err := h.ParseAs(id, object); err != nil {
		return Header{}, err
	}
	if size := h.StoredSize(); int64(len(object)) != size {
		return Header{}, &CorruptError{id, fmt.Sprintf("%d bytes, want %d", len(object), size)}
	}
	off := h.Len()
	for i := range h.Frames {
		end := off + int(h.Frames[i].Len)
		if err := h.VerifyFrame(id, i, object[off:end]); err != nil {
			return Header{}, err
		}
		off = end
	}
	return h, nil
}
