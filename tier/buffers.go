package tier

import "sync"

// A buffer is what a read goes to that may outlive its caller, so that nothing
// is written to the caller's after it has returned.
type buffer struct {
	b     []byte
	class int // size class
}

// buffers are kept by size, so that a page does not hold what a chunk needs.
var buffers [sizeClasses]sync.Pool

// newBuffer returns a buffer of n bytes of undefined content.
func newBuffer(n int) *buffer {
	class := sizeClass(n)
	buf, _ := buffers[class].Get().(*buffer)
	if buf == nil {
		buf = &buffer{class: class}
	}
	if cap(buf.b) < n {
		buf.b = make([]byte, max(n, classSize[class]))
	}
	buf.b = buf.b[:n]
	return buf
}

// free gives the buffer back. Nobody may use it any more.
func (buf *buffer) free() { buffers[buf.class].Put(buf) }
