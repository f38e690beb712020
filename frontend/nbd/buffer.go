package nbd

import "sync"

// headroom is where the data of a reply starts in its buffer, in bytes; the
// header ends there. Copying to an address that is not a multiple of 64 takes
// the kernel a good deal longer.
const headroom = 64

// Sizes of the buffers that are kept for reuse, in bytes. Larger ones are made
// for one request.
var bufferSizes = [...]int{512, 4<<10 + headroom, 64<<10 + headroom, 256<<10 + headroom, pieceBytes + headroom}

// A buffer holds one message to a client: header and data.
type buffer struct {
	b     []byte
	class int // index of bufferSizes, or len(bufferSizes)
}

var bufferPools [len(bufferSizes)]sync.Pool

// getBuffer returns a buffer of at least n bytes with any content.
func getBuffer(n int) *buffer {
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		if b, ok := bufferPools[i].Get().(*buffer); ok {
			return b
		}
		return &buffer{make([]byte, size), i}
	}
	return &buffer{make([]byte, n), len(bufferSizes)}
}

func (b *buffer) free() {
	if b.class < len(bufferPools) {
		bufferPools[b.class].Put(b)
	}
}
