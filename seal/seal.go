// Package seal turns plaintext into stored chunks and back.
//
// Sealing a chunk is: trim trailing zeros, cut into frames, code all of them
// (zstd or raw, one codec a chunk), derive the chunk's key from the SHA-256 of
// exactly the bytes that are now encrypted, encrypt every frame by itself, and
// list the results' digests in the header whose SHA-256 is the chunk's name.
// There is one path: a domain without encryption has a [Cipher] that changes
// nothing.
//
// The key comes from the coded bytes and not from the plaintext. So a codec
// whose output changes with its version costs a missed deduplication, and never
// encrypts two different texts with one key stream.
//
// Sealing is a pure function of plaintext, options and codec version. A
// [Sealer] belongs to one goroutine, since it works in buffers that it keeps;
// an [Opener] is shared by all.
package seal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"

	"github.com/rivuletfs/rivulet/chunk"
)

// A Key opens one chunk.
type Key [32]byte

// NoSalt is the salt ID of chunks that are sealed without encryption.
var NoSalt [16]byte

// A Cipher encrypts chunks convergently: equal coded bytes get equal keys and
// so equal sealed bytes. Any number of calls may run at once.
type Cipher interface {
	// Key returns the key for the chunk whose coded frames, one after the
	// other, have the SHA-256 coded.
	Key(coded [sha256.Size]byte) Key
	// XOR encrypts or decrypts b in place. b begins at byte off of frame
	// number frame, so that a part of a frame can be opened alone.
	XOR(key Key, frame int, off int64, b []byte)
}

// Identity is the Cipher that encrypts nothing and gives zero keys.
type Identity struct{}

// Key implements [Cipher].
func (Identity) Key([sha256.Size]byte) Key { return Key{} }

// XOR implements [Cipher].
func (Identity) XOR(Key, int, int64, []byte) {}

// A Policy says which codec a chunk gets.
type Policy uint8

// The policies.
const (
	Adaptive Policy = iota // zstd where it saves at least an eighth, else raw
	NeverCode
)

// Options are the parameters of a domain. The zero value is the default.
type Options struct {
	ChunkSize int // bytes, a power of two within chunk's bounds; 0: chunk.Size
	FrameSize int // bytes, a power of two within chunk's bounds, at most ChunkSize; 0: the smaller of chunk.FrameSize and ChunkSize
	Policy    Policy
	Level     zstd.EncoderLevel // 0: DefaultLevel
	Cipher    Cipher            // nil: Identity
}

// DefaultLevel is the effort of the zstd encoder unless Options say otherwise.
// doc/format/chunk.md has the measurements.
const DefaultLevel = zstd.SpeedDefault

// ErrZero is returned by Seal for plaintext of zeros only: such a chunk does
// not exist.
var ErrZero = errors.New("chunk of zeros only")

// A Sealer makes stored chunks. It is for one goroutine at a time.
type Sealer struct {
	chunkSize int
	frameLog2 uint8
	policy    Policy
	cipher    Cipher
	encoder   *zstd.Encoder
	header    chunk.Header
	object    []byte // as long as the longest object of these sizes
}

// Sealed is a chunk in stored form.
type Sealed struct {
	ID     chunk.ID
	Key    Key
	Object []byte            // header and frames; the Sealer's, good until the next Seal
	Size   int               // bytes of plaintext, trailing zeros cut off
	Sum    [sha256.Size]byte // SHA-256 of that plaintext
}

// NewSealer returns a Sealer, or an error that tells what is wrong with o.
func NewSealer(o Options) (*Sealer, error) {
	if o.ChunkSize == 0 {
		o.ChunkSize = chunk.Size
	}
	if o.FrameSize == 0 {
		o.FrameSize = min(chunk.FrameSize, o.ChunkSize)
	}
	if o.Level == 0 {
		o.Level = DefaultLevel
	}
	if o.Cipher == nil {
		o.Cipher = Identity{}
	}
	if !sizeWithin(o.ChunkSize, chunk.MinSize, chunk.MaxSize) {
		return nil, fmt.Errorf("chunk size %d: want a power of two from %d to %d", o.ChunkSize, chunk.MinSize, chunk.MaxSize)
	}
	if !sizeWithin(o.FrameSize, chunk.MinFrameSize, min(chunk.MaxFrameSize, o.ChunkSize)) {
		return nil, fmt.Errorf("frame size %d: want a power of two from %d to %d, and not above the chunk size %d",
			o.FrameSize, chunk.MinFrameSize, chunk.MaxFrameSize, o.ChunkSize)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(o.Level), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(o.FrameSize), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false),
		zstd.WithAllLitEntropyCompression(true)) // text without repeats shrinks too
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	frames := o.ChunkSize / o.FrameSize
	return &Sealer{
		chunkSize: o.ChunkSize,
		frameLog2: uint8(bits.TrailingZeros(uint(o.FrameSize))),
		policy:    o.Policy,
		cipher:    o.Cipher,
		encoder:   enc,
		header:    chunk.Header{Frames: make([]chunk.Frame, 0, frames)},
		object:    make([]byte, 0, chunk.HeaderLen(frames)+o.ChunkSize+frames*chunk.FrameSlack),
	}, nil
}

func sizeWithin(n, low, high int) bool { return n >= low && n <= high && n&(n-1) == 0 }

// Seal seals plain, of which it cuts trailing zeros; what is left must not be
// longer than the chunk size. It fails with ErrZero if nothing is left. It
// neither keeps nor changes plain.
func (s *Sealer) Seal(plain []byte) (Sealed, error) {
	plain = chunk.Trim(plain)
	if len(plain) == 0 {
		return Sealed{}, ErrZero
	}
	if len(plain) > s.chunkSize {
		return Sealed{}, fmt.Errorf("seal chunk: %d bytes, want at most %d", len(plain), s.chunkSize)
	}
	frame := 1 << s.frameLog2
	n := (len(plain) + frame - 1) >> s.frameLog2
	s.header.FrameLog2, s.header.Size, s.header.Frames = s.frameLog2, uint32(len(plain)), s.header.Frames[:n]
	sum := sha256.Sum256(plain)
	coded := sum
	if s.code(plain) {
		s.header.Codec = chunk.Zstd
		coded = sha256.Sum256(s.object[chunk.HeaderLen(n):])
	} else {
		s.raw(plain)
	}
	key := s.cipher.Key(coded)
	rest := s.object[chunk.HeaderLen(n):]
	for i := range s.header.Frames {
		f := &s.header.Frames[i]
		s.cipher.XOR(key, i, 0, rest[:f.Len])
		f.Sum = sha256.Sum256(rest[:f.Len])
		rest = rest[f.Len:]
	}
	head, err := s.header.AppendBinary(s.object[:0]) // as long as the room left for it
	if err != nil {
		return Sealed{}, fmt.Errorf("seal chunk: %w", err)
	}
	return Sealed{ID: sha256.Sum256(head), Key: key, Object: s.object, Size: len(plain), Sum: sum}, nil
}

// code puts the coded frames of plain into s.object, behind room for the
// header, unless they do not save enough.
func (s *Sealer) code(plain []byte) bool {
	if s.policy == NeverCode {
		return false
	}
	head := chunk.HeaderLen(len(s.header.Frames))
	most := len(plain) - len(plain)/8
	s.object = s.object[:head]
	for i := range s.header.Frames {
		before := len(s.object)
		off := i << s.frameLog2
		s.object = s.encoder.EncodeAll(plain[off:off+s.header.FrameSize(i)], s.object)
		if len(s.object)-head > most {
			return false
		}
		s.header.Frames[i].Len = uint32(len(s.object) - before)
	}
	return true
}

// raw puts plain as it is behind room for the header.
func (s *Sealer) raw(plain []byte) {
	s.header.Codec = chunk.Raw
	s.object = append(s.object[:chunk.HeaderLen(len(s.header.Frames))], plain...)
	for i := range s.header.Frames {
		s.header.Frames[i].Len = uint32(s.header.FrameSize(i))
	}
}
