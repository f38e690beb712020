package seal

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/rivuletfs/rivulet/chunk"
)

// An Opener turns stored frames into plaintext. It needs keys alone, and serves
// chunks of any salt. Any number of calls may run at once; those that decode
// wait for one another beyond one a CPU.
type Opener struct {
	decoder *zstd.Decoder
	plain   sync.Pool // of *[]byte, with slack bytes more than a frame
}

// slack is what the decoder wants to have behind what it writes, in bytes: it copies
// 16 at once then, and is faster by a quarter even though its output is copied once
// more. The memory that frames are kept in has none to spare.
const slack = 16

// NewOpener returns an Opener. Close frees its decoders.
func NewOpener() (*Opener, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(chunk.MaxFrameSize), zstd.WithDecoderMaxMemory(chunk.MaxFrameSize))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &Opener{decoder: d, plain: sync.Pool{New: func() any { return new([]byte) }}}, nil
}

// Close frees what the Opener holds. No OpenFrame may run or follow.
func (o *Opener) Close() { o.decoder.Close() }

// OpenFrame writes the plaintext of frame i of the chunk with header h and key
// key to dst, which has room for at least h.FrameSize(i) bytes, and returns
// that length. stored is the frame's stored bytes, checked against h already;
// they are decrypted in place, so afterwards they are no stored frame any
// more. For a raw frame dst may be the same memory as stored; otherwise they
// must not overlap. No byte of dst past h.FrameSize(i) is written.
//
// A frame that does not decode to exactly its length, or a last one that ends
// in a zero, was sealed so, or the key is wrong: the error is a
// *chunk.CorruptError, n is 0, and dst is undefined.
func (o *Opener) OpenFrame(dst []byte, h *chunk.Header, key Key, i int, stored []byte) (n int, err error) {
	if i < 0 || i >= len(h.Frames) {
		return 0, fmt.Errorf("open frame %d of chunk %v: it has %d", i, h.ID(), len(h.Frames))
	}
	size := h.FrameSize(i)
	if len(dst) < size {
		return 0, fmt.Errorf("open frame %d of chunk %v: buffer of %d bytes for %d", i, h.ID(), len(dst), size)
	}
	if len(stored) != int(h.Frames[i].Len) {
		return 0, corrupt(h, i, fmt.Sprintf("has %d bytes, want %d", len(stored), h.Frames[i].Len))
	}
	dst = dst[:size:size]
	XOR(key, i, 0, stored)
	switch h.Codec {
	case chunk.Raw:
		copy(dst, stored)
	case chunk.Zstd:
		if !plainFrame(stored) {
			return 0, corrupt(h, i, "is no Zstandard frame of one segment without checksum and dictionary, or the key is wrong")
		}
		if reason := o.decode(dst, stored); reason != "" {
			return 0, corrupt(h, i, reason)
		}
	default:
		return 0, fmt.Errorf("open frame %d of chunk %v: %w: %v", i, h.ID(), chunk.ErrCodec, h.Codec)
	}
	if i == len(h.Frames)-1 && dst[size-1] == 0 {
		return 0, corrupt(h, i, "ends in a zero")
	}
	return size, nil
}

// decode writes what stored decodes to to dst, which is as long as that should be. It
// returns what is wrong with stored; "" is nothing.
func (o *Opener) decode(dst, stored []byte) string {
	plain := o.plain.Get().(*[]byte)
	defer o.plain.Put(plain)
	if cap(*plain) < len(dst)+slack {
		*plain = make([]byte, 0, len(dst)+slack)
	}
	out, err := o.decoder.DecodeAll(stored, (*plain)[:0:len(dst)+slack])
	if err != nil {
		return fmt.Sprintf("does not decode: %v", err)
	}
	if len(out) != len(dst) {
		return fmt.Sprintf("decodes to %d bytes, want %d", len(out), len(dst))
	}
	copy(dst, out)
	return ""
}

// plainFrame reports whether b begins as a Zstandard frame (RFC 8878, 3.1.1)
// whose descriptor says: one segment, and neither reserved bit, checksum nor
// dictionary.
func plainFrame(b []byte) bool {
	return len(b) > 5 && string(b[:4]) == "\x28\xb5\x2f\xfd" && b[4]&0x3f == 0x20
}

func corrupt(h *chunk.Header, i int, reason string) error {
	return &chunk.CorruptError{ID: h.ID(), Reason: fmt.Sprintf("frame %d %s", i, reason)}
}
