package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

// reference is the key stream of a frame as the format describes it, one block
// at a time.
func reference(key Key, frame int, n int) []byte {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	out := make([]byte, 0, n+aes.BlockSize)
	for counter := 0; len(out) < n; counter++ {
		var b [aes.BlockSize]byte
		binary.BigEndian.PutUint64(b[:8], uint64(frame))
		binary.BigEndian.PutUint64(b[8:], uint64(counter))
		block.Encrypt(b[:], b[:])
		out = append(out, b[:]...)
	}
	return out[:n]
}

// TestXOR compares parts of frames, at any offset, with the whole.
func TestXOR(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	key := Key(sha256.Sum256([]byte("key")))
	for _, frame := range []int{0, 1, 7, chunk.MaxFrames - 1} {
		stream := reference(key, frame, chunk.FrameSize)
		whole := make([]byte, chunk.FrameSize)
		XOR(key, frame, 0, whole)
		if !bytes.Equal(whole, stream) {
			t.Fatalf("frame %d: not the key stream of the format", frame)
		}
		for range 300 {
			off := rng.IntN(len(stream))
			part := make([]byte, rng.IntN(len(stream)-off+1))
			XOR(key, frame, int64(off), part)
			if !bytes.Equal(part, stream[off:off+len(part)]) {
				t.Fatalf("frame %d, %d bytes at %d differ from the whole", frame, len(part), off)
			}
		}
	}
}

// TestPartsOfRawFrames opens a page of a raw frame by itself.
func TestPartsOfRawFrames(t *testing.T) {
	salt, err := NewSalt("test", 1)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSealer(Options{Salt: salt, Policy: NeverCode})
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, 3*chunk.FrameSize+100)
	for i := range plain {
		plain[i] = byte(i*i>>8) | 1
	}
	c, err := s.Seal(plain)
	if err != nil {
		t.Fatal(err)
	}
	h, err := chunk.Verify(c.ID, c.Object)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int{0, 1, 15, 16, 4096, 65535, 65536, 70_000, 2*chunk.FrameSize + 4096, 3 * chunk.FrameSize} {
		frame, within := off/chunk.FrameSize, off%chunk.FrameSize
		n := min(4096, h.FrameSize(frame)-within)
		page := slices.Clone(c.Object[h.FrameOffset(frame)+int64(within):][:n])
		XOR(c.Key, frame, int64(within), page)
		if !bytes.Equal(page, plain[off:off+n]) {
			t.Errorf("%d bytes at %d differ", n, off)
		}
	}
}

// TestKeyBindsSkeleton: the key of the same coded bytes changes with everything
// that says where they lie in the key stream, or what they are.
func TestKeyBindsSkeleton(t *testing.T) {
	salt, err := NewSalt("test", 1)
	if err != nil {
		t.Fatal(err)
	}
	coded := sha256.Sum256([]byte("coded"))
	header := func(codec chunk.Codec, log2 uint8, size uint32, lens ...uint32) *chunk.Header {
		h := &chunk.Header{Codec: codec, FrameLog2: log2, Size: size}
		for _, n := range lens {
			h.Frames = append(h.Frames, chunk.Frame{Len: n})
		}
		return h
	}
	keys := map[Key]string{}
	for name, h := range map[string]*chunk.Header{
		"one":              header(chunk.Zstd, 16, 100_000, 3000, 4000),
		"cut elsewhere":    header(chunk.Zstd, 16, 100_000, 4000, 3000),
		"cut twice":        header(chunk.Zstd, 15, 100_000, 3000, 2000, 1000, 1000),
		"other frame size": header(chunk.Zstd, 17, 100_000, 7000),
		"not cut":          header(chunk.Zstd, 18, 100_000, 7000),
		"other length":     header(chunk.Zstd, 16, 100_001, 3000, 4000),
		"raw":              header(chunk.Raw, 16, 100_000, 3000, 4000),
	} {
		key, err := salt.chunkKey(coded, h)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := keys[key]; ok {
			t.Errorf("%s and %s have one key", name, other)
		}
		keys[key] = name
		h.Frames[0].Sum[0] = 1 // sums are made later, and must not matter
		if again, err := salt.chunkKey(coded, h); err != nil || again != key {
			t.Errorf("%s: a frame's sum changes the key (%v)", name, err)
		}
	}
	if key, err := salt.chunkKey(sha256.Sum256([]byte("other")), header(chunk.Zstd, 16, 100_000, 3000, 4000)); err != nil || keys[key] != "" {
		t.Errorf("other coded bytes have the same key (%v)", err)
	}
}

// TestFramesCutElsewhere seals the same raw bytes cut into frames of two sizes:
// with one key the second frame of one would be the key stream of another place,
// and the XOR of the two stored forms that of the plaintexts.
func TestFramesCutElsewhere(t *testing.T) {
	salt, err := NewSalt("test", 1)
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, 2*chunk.FrameSize)
	for i := range plain {
		plain[i] = byte(i%251) | 1
	}
	var keys []Key
	for _, frame := range []int{16 << 10, 64 << 10, 128 << 10} {
		s, err := NewSealer(Options{Salt: salt, Policy: NeverCode, FrameSize: frame})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(keys, c.Key) {
			t.Errorf("frames of %d bytes share a key with others", frame)
		}
		keys = append(keys, c.Key)
	}
}

// TestNoKeyStreamTwice looks at the counter blocks at both ends of the longest
// frames: none may come twice.
func TestNoKeyStreamTwice(t *testing.T) {
	block := recorder{seen: map[[aes.BlockSize]byte]bool{}}
	for frame := range chunk.MaxFrames {
		for _, off := range []int64{0, chunk.MaxFrameSize + chunk.FrameSlack - aes.BlockSize} {
			xor(&block, frame, off, make([]byte, aes.BlockSize))
		}
	}
	if block.twice || len(block.seen) < 2*chunk.MaxFrames {
		t.Errorf("%d counter blocks, want at least %d; one comes twice: %v", len(block.seen), 2*chunk.MaxFrames, block.twice)
	}
}

// A recorder is a block cipher that remembers what it encrypted.
type recorder struct {
	seen  map[[aes.BlockSize]byte]bool
	twice bool
}

var _ cipher.Block = (*recorder)(nil)

func (*recorder) BlockSize() int          { return aes.BlockSize }
func (*recorder) Decrypt(dst, src []byte) { copy(dst, src) }
func (r *recorder) Encrypt(dst, src []byte) {
	b := [aes.BlockSize]byte(src)
	r.twice = r.twice || r.seen[b]
	r.seen[b] = true
	copy(dst, src)
}
