package tier

import "sync"

// A buffer is what a read goes to that may outlive its caller, so that nothing
// is written to the caller's after it has returned.
type buffer struct{ b []byte }

var bufferPool = sync.Pool{New: func() any { return new(buffer) }}

// newBuffer returns a buffer of n bytes of undefined content.
func newBuffer(n int) *buffer {
	buf := bufferPool.Get().(*buffer)
	if cap(buf.b) < n {
		buf.b = make([]byte, n)
	}
	buf.b = buf.b[:n]
	return buf
}

// free gives the buffer back. Nobody may use it any more.
func (buf *buffer) free() { bufferPool.Put(buf) }
