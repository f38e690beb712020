package zone

import (
	"fmt"

	"github.com/klauspost/reedsolomon"
)

// A coder cuts objects into stripes and puts them together again.
type coder struct {
	shape
	parity reedsolomon.Encoder // nil: there is none to compute
}

func newCoder(s shape) (*coder, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	c := &coder{shape: s}
	if s.k == 1 || s.k == s.n { // copies, or no parity
		return c, nil
	}
	matrix := reedsolomon.WithCauchyMatrix()
	if s.n == s.k+1 {
		matrix = reedsolomon.WithFastOneParityMatrix()
	}
	var err error
	// One goroutine: stripes are small, and chunks are many.
	c.parity, err = reedsolomon.New(s.k, s.n-s.k, matrix, reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, fmt.Errorf("%d of %d stripes: %w", s.k, s.n, err)
	}
	return c, nil
}

// room returns how many bytes encode works in for an object of size bytes.
func (c *coder) room(size int) int {
	if c.k == 1 {
		return size
	}
	return c.n * c.payload(size)
}

// encode returns the n payloads of the object of size bytes that buf begins with.
// They are parts of buf, which has room(size) bytes.
func (c *coder) encode(buf []byte, size int) ([][]byte, error) {
	p := c.payload(size)
	stripes := make([][]byte, c.n)
	if c.k == 1 {
		for i := range stripes {
			stripes[i] = buf[:p]
		}
		return stripes, nil
	}
	clear(buf[size : c.k*p])
	for i := range stripes {
		stripes[i] = buf[i*p : (i+1)*p : (i+1)*p]
	}
	if c.parity == nil {
		return stripes, nil
	}
	return stripes, c.parity.Encode(stripes)
}

// decode rebuilds an object from k payloads; those of other stripes are nil. It
// works in buf, which has k times a payload, and which begins with the object
// afterwards. The list is overwritten.
func (c *coder) decode(buf []byte, stripes [][]byte) error {
	if c.k == 1 {
		for _, s := range stripes {
			if s != nil {
				copy(buf, s)
				return nil
			}
		}
	}
	p := len(buf) / c.k
	missing := false
	for i := range c.k {
		if stripes[i] == nil {
			stripes[i] = buf[i*p : i*p : (i+1)*p]
			missing = true
			continue
		}
		copy(buf[i*p:], stripes[i])
	}
	if !missing {
		return nil
	}
	return c.parity.ReconstructData(stripes)
}
