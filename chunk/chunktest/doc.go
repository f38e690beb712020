// Package chunktest has the suites that every chunk store and reader passes,
// and sources with faults to test their users with.
//
// A suite takes a thing to test and the objects that it holds. Each store runs
// TestStore, each wrapper of a source TestSource, and whatever checks bytes
// TestReader. A test added here reaches all of them.
//
// The faults are plain sources around a source. They compose, print
// themselves, and decide by a seed and the number of the request, so that a
// failure can be repeated:
//
//	src := &chunktest.Slow{Source: &chunktest.Flaky{Source: s, Every: 3, Seed: 1}, Latency: 5 * time.Millisecond}
//	t.Log(src) // slow(5ms, flaky(1 in 3, seed 1, *memory.Store))
package chunktest

import (
	"crypto/sha256"
	"fmt"
	"math/bits"
	"math/rand/v2"

	"github.com/rivuletfs/rivulet/chunk"
)

// An Object is a chunk in stored form.
type Object struct {
	ID     chunk.ID
	Header chunk.Header
	Bytes  []byte // header and frames
}

// Random returns a raw chunk of size bytes of plaintext in frames of frameSize,
// a power of two. Equal arguments give equal chunks. It panics for sizes that
// package chunk does not allow.
func Random(seed uint64, size, frameSize int) Object {
	key := sha256.Sum256(fmt.Appendf(nil, "%d %d %d", seed, size, frameSize))
	plain := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(plain) // never fails
	plain[size-1] |= 1
	h := chunk.Header{FrameLog2: uint8(bits.TrailingZeros(uint(frameSize))), Size: uint32(size)}
	for off := 0; off < size; off += frameSize {
		f := plain[off:min(off+frameSize, size)]
		h.Frames = append(h.Frames, chunk.Frame{Len: uint32(len(f)), Sum: sha256.Sum256(f)})
	}
	b, err := h.AppendBinary(nil)
	if err != nil {
		panic(err)
	}
	return Object{ID: h.ID(), Header: h, Bytes: append(b, plain...)}
}

// Objects returns chunks of every shape: one byte, one frame and its
// neighbours, full, of small and large frames.
func Objects(seed uint64) []Object {
	var list []Object
	for i, s := range []struct{ size, frame int }{
		{1, chunk.FrameSize},
		{chunk.FrameSize - 1, chunk.FrameSize},
		{chunk.FrameSize, chunk.FrameSize},
		{chunk.FrameSize + 1, chunk.FrameSize},
		{chunk.Size, chunk.FrameSize},
		{300_001, chunk.FrameSize},
		{1_000_000, chunk.MinFrameSize}, // its header is longer than a Door's first guess
		{chunk.MinSize, chunk.MaxFrameSize},
	} {
		list = append(list, Random(seed<<8+uint64(i), s.size, s.frame))
	}
	return list
}

// Absent is the ID of a chunk that no store holds.
var Absent = chunk.ID(sha256.Sum256([]byte("absent")))
