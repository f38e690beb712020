package pack

import (
	"errors"
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/chunk"
)

// A Decoder reads a pack from its begin to its end, and checks all that it returns. It
// is for one goroutine.
type Decoder struct {
	Index *Index

	r    io.Reader
	next int // of the index's frames
	buf  []byte
}

// NewDecoder reads the index of the pack that r begins with.
func NewDecoder(r io.Reader) (*Decoder, error) {
	var head [prefixBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, cutShort(err)
	}
	p, err := parsePrefix(head[:])
	if err != nil {
		return nil, err
	}
	b := make([]byte, p.indexLen())
	copy(b, head[:])
	if _, err := io.ReadFull(r, b[prefixBytes:]); err != nil {
		return nil, cutShort(err)
	}
	x, err := ParseIndex(b)
	if err != nil {
		return nil, err
	}
	return &Decoder{Index: x, r: r}, nil
}

// cutShort makes the early end of a pack an ErrFormat.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early", ErrFormat)
	}
	return fmt.Errorf("read pack: %w", err)
}

// Next returns the next frame, as its place in Index.Frames, and what is stored of it,
// checked and good until the next call. The end of the pack is io.EOF; of more bytes
// behind it, ErrFormat. A frame that is not what its chunk's header says is a
// *chunk.CorruptError.
func (d *Decoder) Next() (i int, stored []byte, err error) {
	i = d.next
	if i == len(d.Index.Frames) {
		return 0, nil, d.end()
	}
	begin, end := d.Index.Place(i)
	if n := int(end - begin); n > cap(d.buf) {
		d.buf = make([]byte, n)
	} else {
		d.buf = d.buf[:n]
	}
	if _, err := io.ReadFull(d.r, d.buf); err != nil {
		return 0, nil, cutShort(err)
	}
	f := d.Index.Frames[i]
	c := &d.Index.Chunks[f.Chunk]
	if err := c.Header.VerifyFrame(c.ID, int(f.Number), d.buf); err != nil {
		return 0, nil, err
	}
	d.next++
	return i, d.buf, nil
}

// end returns io.EOF if nothing follows.
func (d *Decoder) end() error {
	var b [1]byte
	switch n, err := io.ReadFull(d.r, b[:]); {
	case n > 0:
		return fmt.Errorf("%w: more than %d bytes", ErrFormat, d.Index.bytes)
	case errors.Is(err, io.EOF):
		return io.EOF
	default:
		return fmt.Errorf("read pack: %w", err)
	}
}

// Objects reads the rest of the pack and calls fn for each chunk whose frames stand in
// it all, in their order, one behind the other: a whole chunk, as it is stored. Other
// frames are checked and passed over. fn owns object; what it fails with is returned.
func (d *Decoder) Objects(fn func(id chunk.ID, object []byte) error) error {
	for d.next < len(d.Index.Frames) {
		if !d.wholeNext() {
			if _, _, err := d.Next(); err != nil {
				return err
			}
			continue
		}
		c := &d.Index.Chunks[d.Index.Frames[d.next].Chunk]
		object, err := c.Header.AppendBinary(make([]byte, 0, c.Header.StoredSize()))
		if err != nil {
			return err
		}
		for range c.Header.Frames {
			_, stored, err := d.Next()
			if err != nil {
				return err
			}
			object = append(object, stored...)
		}
		if err := fn(c.ID, object); err != nil {
			return err
		}
	}
	if err := d.end(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// wholeNext reports whether what comes next are all frames of one chunk. It is asked
// before room is made for them: a header may promise much that the pack has not.
func (d *Decoder) wholeNext() bool {
	rest := d.Index.Frames[d.next:]
	n := len(d.Index.Chunks[rest[0].Chunk].Header.Frames)
	if len(rest) < n {
		return false
	}
	for i, f := range rest[:n] {
		if f.Chunk != rest[0].Chunk || int(f.Number) != i {
			return false
		}
	}
	return true
}
