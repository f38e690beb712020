package chunk_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// zstdHeader is a header of size bytes in 64 KiB frames of stored bytes each.
func zstdHeader(size, stored uint32) chunk.Header {
	h := chunk.Header{Codec: chunk.Zstd, FrameLog2: 16, Size: size}
	for i := range (size + 65535) / 65536 {
		h.Frames = append(h.Frames, chunk.Frame{Len: stored, Sum: sha256.Sum256(fmt.Append(nil, i))})
	}
	return h
}

func TestHeaderLayout(t *testing.T) {
	h := zstdHeader(100_000, 0x01020)
	b, err := h.AppendBinary([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	b = b[len("before"):]
	sum := sha256.Sum256([]byte("1"))
	for _, f := range []struct {
		name string
		off  int
		want []byte
	}{
		{"magic", 0, []byte("rvc1")},
		{"codec, frame log2, frames", 4, []byte{1, 16, 2, 0}},
		{"plaintext bytes", 8, []byte{0xa0, 0x86, 1, 0}},
		{"reserved", 12, []byte{0, 0, 0, 0}},
		{"length of frame 0", 16, []byte{0x20, 0x10, 0, 0}},
		{"length of frame 1", 52, []byte{0x20, 0x10, 0, 0}},
		{"digest of frame 1", 56, sum[:]},
	} {
		if got := b[f.off : f.off+len(f.want)]; !bytes.Equal(got, f.want) {
			t.Errorf("%s: %x, want %x", f.name, got, f.want)
		}
	}
	if len(b) != 88 || h.Len() != 88 || chunk.HeaderLen(2) != 88 {
		t.Errorf("lengths %d, %d, %d; want 88", len(b), h.Len(), chunk.HeaderLen(2))
	}
	if h.ID() != sha256.Sum256(b) {
		t.Error("ID is not the SHA-256 of the encoded header")
	}
	if off := h.FrameOffset(1); off != 88+0x1020 || h.StoredSize() != off+0x1020 {
		t.Errorf("offsets %d, %d", off, h.StoredSize())
	}
	if h.FrameSize(0) != 65536 || h.FrameSize(1) != 100_000-65536 {
		t.Errorf("frame sizes %d, %d", h.FrameSize(0), h.FrameSize(1))
	}
}

func TestHeaderRefused(t *testing.T) {
	good := zstdHeader(100_000, 200)
	raw := chunktest.Random(1, 100_000, chunk.FrameSize).Header
	encode := func(h chunk.Header) []byte {
		b, err := h.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	put32 := func(h chunk.Header, off int, v uint32) []byte {
		b := encode(h)
		binary.LittleEndian.PutUint32(b[off:], v)
		return b
	}
	put8 := func(off int, v byte) []byte {
		b := encode(good)
		b[off] = v
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":                    {nil, chunk.ErrFormat},
		"prefix cut":               {encode(good)[:15], chunk.ErrFormat},
		"frames missing":           {encode(good)[:16], chunk.ErrFormat},
		"last byte missing":        {encode(good)[:87], chunk.ErrFormat},
		"no magic":                 {put8(0, 'x'), chunk.ErrFormat},
		"next version":             {put8(3, '2'), chunk.ErrVersion},
		"next codec":               {put8(4, 2), chunk.ErrCodec},
		"frames too small":         {put8(5, 13), chunk.ErrFormat},
		"frames too large":         {put8(5, 21), chunk.ErrFormat},
		"frames of 2^255":          {put8(5, 255), chunk.ErrFormat},
		"frames of 2^64":           {put8(5, 64), chunk.ErrFormat},
		"no frame":                 {put8(6, 0), chunk.ErrFormat},
		"a frame too few":          {put8(6, 1), chunk.ErrFormat},
		"more frames than allowed": {put8(7, 255), chunk.ErrFormat},
		"no plaintext":             {put32(good, 8, 0), chunk.ErrFormat},
		"one frame of plaintext":   {put32(good, 8, 65536), chunk.ErrFormat},
		"three of plaintext":       {put32(good, 8, 131_073), chunk.ErrFormat},
		"plaintext too long":       {put32(good, 8, 1<<32-1), chunk.ErrFormat},
		"reserved byte":            {put8(15, 1), chunk.ErrFormat},
		"empty frame":              {put32(good, 16, 0), chunk.ErrFormat},
		"frame too long":           {put32(good, 16, 65536+chunk.FrameSlack+1), chunk.ErrFormat},
		"frame of 4 GiB":           {put32(good, 16, 1<<32-1), chunk.ErrFormat},
		"raw frame too short":      {put32(raw, 52, 100_000-65536-1), chunk.ErrFormat},
		"raw frame too long":       {put32(raw, 16, 65537), chunk.ErrFormat},
	} {
		if h, err := chunk.ParseHeader(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v; want %v", name, h, err, c.want)
		}
	}
	longest := put32(good, 16, 65536+chunk.FrameSlack)
	if _, err := chunk.ParseHeader(longest); err != nil {
		t.Errorf("the longest frame: %v", err)
	}
	bad := good
	bad.Frames = bad.Frames[:1]
	if b, err := bad.AppendBinary(nil); !errors.Is(err, chunk.ErrFormat) || len(b) != 0 {
		t.Errorf("AppendBinary of a header without its frame: %d bytes, %v", len(b), err)
	}
}

func TestHeaderParseAgain(t *testing.T) {
	var h chunk.Header
	for _, o := range chunktest.Objects(5) {
		if err := h.Parse(o.Bytes); err != nil {
			t.Fatal(err)
		}
		if h.ID() != o.ID || h.StoredSize() != int64(len(o.Bytes)) {
			t.Errorf("header of %d frames differs", len(o.Header.Frames))
		}
	}
}

func TestVerify(t *testing.T) {
	for _, o := range chunktest.Objects(2) {
		h, err := chunk.Verify(o.ID, o.Bytes)
		if err != nil || h.ID() != o.ID {
			t.Fatalf("%v", err)
		}
		for _, i := range []int{0, 5, 12, 20, len(o.Bytes) / 2, len(o.Bytes) - 1} {
			b := slices.Clone(o.Bytes)
			b[i] ^= 0x10
			var corrupt *chunk.CorruptError
			if _, err := chunk.Verify(o.ID, b); !errors.As(err, &corrupt) || corrupt.ID != o.ID {
				t.Errorf("byte %d of %d flipped: %v; want a CorruptError", i, len(b), err)
			}
		}
	}
}

// FuzzParseHeader checks that what is accepted has one encoding and stays
// within the bounds.
func FuzzParseHeader(f *testing.F) {
	for _, o := range chunktest.Objects(1) {
		f.Add(o.Bytes[:o.Header.Len()])
	}
	h := zstdHeader(524_288, 300)
	b, err := h.AppendBinary(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := chunk.ParseHeader(b)
		if err != nil {
			if !errors.Is(err, chunk.ErrFormat) && !errors.Is(err, chunk.ErrVersion) && !errors.Is(err, chunk.ErrCodec) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		again, err := h.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, b[:h.Len()]) {
			t.Fatalf("encodes to %x, %v", again, err)
		}
		if h.StoredSize() > chunk.MaxStoredSize || h.Len() > chunk.MaxHeaderLen || h.Size > chunk.MaxSize {
			t.Fatalf("out of bounds: %d stored, %d header, %d plaintext", h.StoredSize(), h.Len(), h.Size)
		}
		total := 0
		for i := range h.Frames {
			total += h.FrameSize(i)
		}
		if total != int(h.Size) {
			t.Fatalf("frames add up to %d of %d", total, h.Size)
		}
	})
}
