// Package seal turns plaintext into stored chunks and back.
//
// Sealing a chunk is: trim trailing zeros, cut into frames, code all of them
// (zstd or raw, one codec a chunk), derive the chunk's key from the SHA-256 of
// exactly the bytes that are now encrypted, encrypt every frame by itself, and
// list the results' digests in the header whose SHA-256 is the chunk's name.
// There is one path, and no chunk that is not encrypted.
//
// The key comes from the coded bytes and not from the plaintext. So a codec
// whose output changes with its version costs a missed deduplication, and never
// encrypts two different texts with one key stream. The secret of a [Salt] is
// mixed in: who lacks it cannot confirm a guess at the content of a chunk, and
// publishers with different salts share no chunk.
//
// Whoever reads needs keys alone. They stand in the block map, whose key table
// is locked ([Lock], [Unlock]) under an image key that encrypts nothing else;
// each recipient gets that key by a [Wrapper] and finds it by an [Unwrapper].
// What a publisher remembers of a layer, which has keys in it too, is locked
// under the salt itself ([LockRecord]).
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

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
)

// A Key opens one chunk.
type Key = blockmap.Key

// A Policy says which codec a chunk gets.
type Policy uint8

// The policies.
const (
	Adaptive  Policy = iota // zstd where it saves at least an eighth, else raw
	NeverCode               // raw always, for domains whose sizes must say nothing of the content
)

// Options are the parameters of a domain. All but Salt may be zero.
type Options struct {
	Salt      *Salt
	ChunkSize int // bytes, a power of two within chunk's bounds; 0: chunk.Size
	FrameSize int // bytes, a power of two within chunk's bounds, at most ChunkSize; 0: the smaller of chunk.FrameSize and ChunkSize
	Policy    Policy
	Level     zstd.EncoderLevel // 0: DefaultLevel
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
	salt      *Salt
	encoder   *zstd.Encoder
	header    chunk.Header
	object    []byte // as long as the longest object of these sizes
}

// Sealed is a chunk in stored form.
type Sealed struct {
	ID     chunk.ID
	Key    Key               // opens it
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
	if o.Salt == nil {
		return nil, errors.New("make sealer: no salt")
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
		salt:      o.Salt,
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
	sum, coded := s.encode(plain)
	key, err := s.salt.chunkKey(coded, &s.header)
	if err != nil {
		return Sealed{}, err
	}
	s.encrypt(key)
	s.sumFrames()
	head, err := s.header.AppendBinary(s.object[:0]) // as long as the room left for it
	if err != nil {
		return Sealed{}, fmt.Errorf("seal chunk: %w", err)
	}
	return Sealed{ID: sha256.Sum256(head), Key: key, Object: s.object, Size: len(plain), Sum: sum}, nil
}

// encode fills s.header, but for the frames' sums, and puts the coded frames
// into s.object behind room for it. It returns the SHA-256 of plain and of the
// coded frames one after the other.
func (s *Sealer) encode(plain []byte) (sum, coded [sha256.Size]byte) {
	n := (len(plain) + 1<<s.frameLog2 - 1) >> s.frameLog2
	s.header.FrameLog2, s.header.Size, s.header.Frames = s.frameLog2, uint32(len(plain)), s.header.Frames[:n]
	sum = sha256.Sum256(plain)
	if s.code(plain) {
		s.header.Codec = chunk.Zstd
		return sum, sha256.Sum256(s.object[chunk.HeaderLen(n):])
	}
	s.raw(plain)
	return sum, sum
}

// encrypt encrypts the frames in s.object.
func (s *Sealer) encrypt(key Key) {
	block := newBlock(key)
	for i, rest := 0, s.object[s.header.Len():]; i < len(s.header.Frames); i++ {
		n := s.header.Frames[i].Len
		xor(block, i, 0, rest[:n])
		rest = rest[n:]
	}
}

// sumFrames writes the SHA-256 of the frames in s.object into s.header.
func (s *Sealer) sumFrames() {
	rest := s.object[s.header.Len():]
	for i := range s.header.Frames {
		f := &s.header.Frames[i]
		f.Sum = sha256.Sum256(rest[:f.Len])
		rest = rest[f.Len:]
	}
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
