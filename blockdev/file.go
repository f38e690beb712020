package blockdev

import (
	"fmt"
	"io"
)

// A Flat is a device whose bytes stand in a reader as they are, a file for
// instance. A file's holes are not told apart from its data.
type Flat struct {
	r    io.ReaderAt
	size int64
}

var _ Device = (*Flat)(nil)

// NewFlat returns the device of the first size bytes of r, which must have
// them. It does not close r.
func NewFlat(r io.ReaderAt, size int64) *Flat { return &Flat{r, size} }

// Size returns the size in bytes.
func (d *Flat) Size() int64 { return d.size }

// ReadAt reads as Device says. A reader that ends before the size is an
// io.ErrUnexpectedEOF.
func (d *Flat) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read device at %d: offset is negative", off)
	}
	if off >= d.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), d.size-off)]
	n, err := d.r.ReadAt(want, off)
	switch {
	case n < len(want) && (err == nil || err == io.EOF):
		return n, io.ErrUnexpectedEOF
	case n < len(want):
		return n, err
	case len(want) < len(p):
		return n, io.EOF
	}
	return n, nil
}
