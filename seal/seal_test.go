package seal_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

// fixedSalt is the salt of the vectors: domain and epoch as given, the secret
// the SHA-256 of the word "secret".
func fixedSalt(t testing.TB, domain string, epoch uint32) *seal.Salt {
	t.Helper()
	secret := sha256.Sum256([]byte("secret"))
	id := sha256.New()
	_, _ = fmt.Fprintf(id, "rivulet salt v1%s\x00", domain)
	_, _ = id.Write(binary.LittleEndian.AppendUint32(nil, epoch))
	_, _ = id.Write(secret[:])
	b := append([]byte("rvsalt1\n"), id.Sum(nil)[:16]...)
	b = binary.LittleEndian.AppendUint32(b, epoch)
	b = append(append(b, secret[:]...), domain...)
	s, err := seal.ParseSalt(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func noise(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32()) | 1
	}
	return b
}

func text(n int) []byte {
	return bytes.Repeat([]byte("all work and no play makes a dull test. "), n/40+1)[:n]
}

// mixed has frames of noise among frames of text: half of it compresses.
func mixed(n int) []byte {
	b := text(n)
	for off := 0; off < n; off += 2 * chunk.FrameSize {
		copy(b[off:min(off+chunk.FrameSize, n)], noise(uint64(off), chunk.FrameSize))
	}
	return b
}

func newSealer(t testing.TB, o seal.Options) *seal.Sealer {
	t.Helper()
	if o.Salt == nil {
		o.Salt = fixedSalt(t, seal.DefaultDomain, 1)
	}
	s, err := seal.NewSealer(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newOpener(t testing.TB) *seal.Opener {
	t.Helper()
	o, err := seal.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// unseal checks a sealed chunk and opens all of it.
func unseal(t *testing.T, o *seal.Opener, c seal.Sealed) []byte {
	t.Helper()
	h, err := chunk.Verify(c.ID, c.Object)
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, h.Size)
	object := slices.Clone(c.Object)
	for i := range h.Frames {
		stored := object[h.FrameOffset(i):h.FrameOffset(i+1)]
		n, err := o.OpenFrame(plain[i<<h.FrameLog2:], &h, c.Key, i, stored)
		if err != nil || n != h.FrameSize(i) {
			t.Fatalf("frame %d: %d, %v; want %d", i, n, err, h.FrameSize(i))
		}
	}
	return plain
}

func TestRoundTrip(t *testing.T) {
	s := newSealer(t, seal.Options{})
	never := newSealer(t, seal.Options{Policy: seal.NeverCode})
	o := newOpener(t)
	for _, k := range []struct {
		plain []byte
		codec chunk.Codec
	}{
		{[]byte{1}, chunk.Raw},
		{text(40), chunk.Raw},
		{text(1000), chunk.Zstd},
		{text(chunk.FrameSize - 1), chunk.Zstd},
		{text(chunk.FrameSize), chunk.Zstd},
		{text(chunk.FrameSize + 1), chunk.Zstd},
		{text(chunk.Size), chunk.Zstd},
		{noise(1, chunk.FrameSize+1), chunk.Raw},
		{noise(2, chunk.Size), chunk.Raw},
		{mixed(chunk.Size), chunk.Zstd},
		{append(make([]byte, chunk.Size-1), 1), chunk.Zstd},
	} {
		sum := sha256.Sum256(k.plain)
		padded := append(slices.Clone(k.plain), make([]byte, min(777, chunk.Size-len(k.plain)))...)
		sealed, err := s.Seal(padded)
		if err != nil {
			t.Fatal(err)
		}
		h, err := chunk.ParseHeader(sealed.Object)
		if err != nil || h.Codec != k.codec {
			t.Errorf("%d bytes: codec %v, %v; want %v", len(k.plain), h.Codec, err, k.codec)
		}
		if sealed.Size != len(k.plain) || sealed.Sum != sum || !bytes.Equal(unseal(t, o, sealed), k.plain) {
			t.Errorf("%d bytes come back as %d, or differ", len(k.plain), sealed.Size)
		}
		if k.codec == chunk.Zstd && len(sealed.Object)-h.Len() > len(k.plain)-len(k.plain)/8 {
			t.Errorf("%d bytes coded to %d: less than an eighth saved", len(k.plain), len(sealed.Object))
		}
		sealed, err = never.Seal(padded)
		if err != nil || !bytes.Equal(unseal(t, o, sealed), k.plain) {
			t.Errorf("%d bytes, never coded: %v, or bytes differ", len(k.plain), err)
		}
		if h, err = chunk.ParseHeader(sealed.Object); err != nil || h.Codec != chunk.Raw {
			t.Errorf("%d bytes, never coded: codec %v, %v", len(k.plain), h.Codec, err)
		}
		if len(k.plain) >= 16 && bytes.Contains(sealed.Object, k.plain[len(k.plain)-16:]) {
			t.Errorf("%d bytes: plaintext in the stored form", len(k.plain))
		}
	}
}

func TestSizes(t *testing.T) {
	for _, size := range [][2]int{{64 << 10, 16 << 10}, {64 << 10, 64 << 10}, {4 << 20, 16 << 10}, {4 << 20, 1 << 20}} {
		s := newSealer(t, seal.Options{ChunkSize: size[0], FrameSize: size[1]})
		for _, plain := range [][]byte{text(size[0]), noise(1, size[0]), mixed(size[0] - 5)} {
			c, err := s.Seal(plain)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(unseal(t, newOpener(t), c), plain) {
				t.Errorf("chunk of %d, frames of %d: bytes differ", size[0], size[1])
			}
		}
		if _, err := s.Seal(noise(1, size[0]+1)); err == nil {
			t.Errorf("a byte more than the chunk size %d is sealed", size[0])
		}
	}
	for _, bad := range []seal.Options{
		{ChunkSize: 32 << 10}, {ChunkSize: 8 << 20}, {ChunkSize: 100_000}, {ChunkSize: -65536},
		{FrameSize: 8 << 10}, {FrameSize: 2 << 20}, {FrameSize: 65537}, {ChunkSize: 64 << 10, FrameSize: 128 << 10},
		{Level: 99},
	} {
		if _, err := seal.NewSealer(bad); err == nil {
			t.Errorf("options %+v are accepted", bad)
		}
	}
}

func TestZero(t *testing.T) {
	s := newSealer(t, seal.Options{})
	for _, n := range []int{0, 1, chunk.Size} {
		if _, err := s.Seal(make([]byte, n)); !errors.Is(err, seal.ErrZero) {
			t.Errorf("%d zeros: %v; want ErrZero", n, err)
		}
	}
}

// TestPure checks that what a Sealer made before has no influence, and that
// sealing leaves the plaintext alone.
func TestPure(t *testing.T) {
	used := newSealer(t, seal.Options{})
	for i := range 60 {
		plain := append(mixed(1000*i+1), text(i*i)...)
		before := slices.Clone(plain)
		a, err := used.Seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		b, err := newSealer(t, seal.Options{}).Seal(plain)
		if err != nil || a.ID != b.ID || !bytes.Equal(a.Object, b.Object) {
			t.Fatalf("%d bytes: a used sealer and a new one differ (%v)", len(plain), err)
		}
		if !bytes.Equal(plain, before) {
			t.Fatal("Seal changed the plaintext")
		}
	}
}

// TestOpenInPlace opens a raw frame where it lies.
func TestOpenInPlace(t *testing.T) {
	plain := noise(1, 100_000)
	c, err := newSealer(t, seal.Options{}).Seal(plain)
	if err != nil {
		t.Fatal(err)
	}
	h, err := chunk.ParseHeader(c.Object)
	if err != nil {
		t.Fatal(err)
	}
	b := c.Object[h.FrameOffset(1):]
	if n, err := newOpener(t).OpenFrame(b, &h, c.Key, 1, b); err != nil || !bytes.Equal(b[:n], plain[65536:]) {
		t.Errorf("%d, %v, or bytes differ", n, err)
	}
}

// encode is what a publisher of another program might store as one frame.
func encode(t *testing.T, plain []byte, o ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, o...)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(plain, nil)
}

// TestOpenRefuses opens frames that are what their header says and yet wrong.
func TestOpenRefuses(t *testing.T) {
	good := encode(t, text(1000), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	bomb := encode(t, make([]byte, 1<<20), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	o := newOpener(t)
	for name, c := range map[string]struct {
		codec  chunk.Codec
		size   uint32
		stored []byte
	}{
		"too short":       {chunk.Zstd, 1001, good},
		"too long":        {chunk.Zstd, 999, good},
		"far too long":    {chunk.Zstd, 1000, bomb},
		"two frames":      {chunk.Zstd, 1000, append(slices.Clone(good), good...)},
		"cut":             {chunk.Zstd, 1000, good[:len(good)-1]},
		"no zstd":         {chunk.Zstd, 1000, text(50)},
		"a byte":          {chunk.Zstd, 1000, []byte{1}},
		"magic alone":     {chunk.Zstd, 1000, good[:5]},
		"with checksum":   {chunk.Zstd, 1000, encode(t, text(1000), zstd.WithSingleSegment(true))},
		"with window":     {chunk.Zstd, 1000, encode(t, text(1000), zstd.WithSingleSegment(false), zstd.WithEncoderCRC(false))},
		"skippable frame": {chunk.Zstd, 1000, append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}, good...)},
		"ends in zero":    {chunk.Zstd, 1000, encode(t, append(text(999), 0), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))},
		"raw, zero":       {chunk.Raw, 3, []byte{1, 2, 0}},
	} {
		h := chunk.Header{Codec: c.codec, FrameLog2: 16, Size: c.size,
			Frames: []chunk.Frame{{Len: uint32(len(c.stored)), Sum: sha256.Sum256(c.stored)}}}
		guarded := bytes.Repeat([]byte{0xa5}, 70_000)
		key := seal.Key{1: 2}
		encrypted := slices.Clone(c.stored)
		seal.XOR(key, 0, 0, encrypted)
		n, err := o.OpenFrame(guarded, &h, key, 0, encrypted)
		var corrupt *chunk.CorruptError
		if n != 0 || !errors.As(err, &corrupt) || corrupt.ID != h.ID() {
			t.Errorf("%s: %d, %v; want a CorruptError", name, n, err)
		}
		if !bytes.Equal(guarded[c.size:], bytes.Repeat([]byte{0xa5}, 70_000-int(c.size))) {
			t.Errorf("%s: wrote past the plaintext", name)
		}
	}
}

// TestOpenMisused calls OpenFrame with what does not belong together.
func TestOpenMisused(t *testing.T) {
	c, err := newSealer(t, seal.Options{}).Seal(text(70_000))
	if err != nil {
		t.Fatal(err)
	}
	h, err := chunk.ParseHeader(c.Object)
	if err != nil {
		t.Fatal(err)
	}
	o := newOpener(t)
	first := c.Object[h.FrameOffset(0):h.FrameOffset(1)]
	unknown := h
	unknown.Codec = 7
	for name, f := range map[string]func() (int, error){
		"small buffer":   func() (int, error) { return o.OpenFrame(make([]byte, 65535), &h, c.Key, 0, first) },
		"frame -1":       func() (int, error) { return o.OpenFrame(make([]byte, 65536), &h, c.Key, -1, first) },
		"frame 2":        func() (int, error) { return o.OpenFrame(make([]byte, 65536), &h, c.Key, 2, first) },
		"stored too few": func() (int, error) { return o.OpenFrame(make([]byte, 65536), &h, c.Key, 0, first[1:]) },
		"unknown codec":  func() (int, error) { return o.OpenFrame(make([]byte, 65536), &unknown, c.Key, 0, first) },
	} {
		if n, err := f(); n != 0 || err == nil {
			t.Errorf("%s: %d, %v; want an error", name, n, err)
		}
	}
}

// FuzzOpenFrame opens any bytes as a coded frame of any length.
func FuzzOpenFrame(f *testing.F) {
	e, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.EncodeAll(text(1000), nil), uint32(1000))
	f.Add(e.EncodeAll(mixed(60_000), nil), uint32(60_000))
	o := newOpener(f)
	f.Fuzz(func(t *testing.T, stored []byte, size uint32) {
		if size = size%chunk.FrameSize + 1; len(stored) == 0 || len(stored) > int(size)+chunk.FrameSlack {
			t.Skip()
		}
		h := chunk.Header{Codec: chunk.Zstd, FrameLog2: 16, Size: size,
			Frames: []chunk.Frame{{Len: uint32(len(stored)), Sum: sha256.Sum256(stored)}}}
		dst := bytes.Repeat([]byte{0xa5}, chunk.FrameSize+1)
		encrypted := slices.Clone(stored)
		seal.XOR(seal.Key{}, 0, 0, encrypted)
		n, err := o.OpenFrame(dst, &h, seal.Key{}, 0, encrypted)
		if err == nil && (n != int(size) || dst[n-1] == 0) || err != nil && n != 0 {
			t.Fatalf("%d, %v", n, err)
		}
		if !bytes.Equal(dst[size:], bytes.Repeat([]byte{0xa5}, len(dst)-int(size))) {
			t.Fatal("wrote past the plaintext")
		}
	})
}
