package fuse

import (
	"errors"
	"math"

	"github.com/rivuletfs/rivulet/blockdev"
)

// Writes that were lost with a process before us come again, whole (see Resume). That
// does no harm: the kernel does not begin another of the same bytes before the first is
// answered.

// maxWrite is the most bytes that one WRITE may bring.
func (d *dispatcher) maxWrite() uint32 {
	if d.writable {
		return MaxWrite
	}
	return leastWrite
}

// writer returns the device of n if it can be written, else nil.
func (d *dispatcher) writer(n *node) blockdev.Writer {
	if !d.writable {
		return nil
	}
	w, _ := n.Device.(blockdev.Writer)
	return w
}

// change calls fn for the device of a file that can be written.
func (d *dispatcher) change(id uint64, fn func(w blockdev.Writer) error) errno {
	if id == rootNode {
		return errISDIR
	}
	n := d.tree.begin(id)
	if n == nil {
		return errIO // removed under an open file
	}
	defer n.calls.Done()
	w := d.writer(n)
	if w == nil {
		return errPERM
	}
	err := fn(w)
	switch {
	case err == nil:
		return errNone
	case errors.Is(err, blockdev.ErrLeft):
		return noAnswer
	case errors.Is(err, blockdev.ErrNoSpace):
		return errNOSPC
	}
	return errIO
}

// inside is change for a range, which must lie within the file: none grows.
func (d *dispatcher) inside(id, off, length uint64, fn func(w blockdev.Writer, off, length int64) error) errno {
	beyond := false
	e := d.change(id, func(w blockdev.Writer) error {
		beyond = off > math.MaxInt64 || length > math.MaxInt64 || blockdev.CheckRange(int64(off), int64(length), w.Size()) != nil
		if beyond || length == 0 {
			return nil
		}
		return fn(w, int64(off), int64(length))
	})
	if beyond {
		return errFBIG
	}
	return e
}

// write writes to the device straight from the request.
func (d *dispatcher) write(id uint64, body, out []byte) (int, errno) {
	if len(body) < writeInSize {
		return 0, errINVAL
	}
	off, size, data := order.Uint64(body[8:]), order.Uint32(body[16:]), body[writeInSize:]
	if uint64(size) != uint64(len(data)) || size > d.maxWrite() {
		return 0, errINVAL
	}
	e := d.inside(id, off, uint64(size), func(w blockdev.Writer, off, _ int64) error {
		_, err := w.WriteAt(data, off)
		return err
	})
	clear(out[:writeOutSize])
	order.PutUint32(out, size)
	return writeOutSize, e
}

// fsync has what was written reach the medium. A disk that nobody can write has
// nothing to bring there.
func (d *dispatcher) fsync(id uint64) errno {
	if n := d.tree.get(id); n != nil && d.writer(n) == nil {
		return errNone
	}
	return d.change(id, blockdev.Writer.Flush)
}

// fallocate zeroes a range: what a loop device makes of a discard, and of zeros.
func (d *dispatcher) fallocate(id uint64, body []byte) errno {
	if len(body) < fallocInSize {
		return errINVAL
	}
	off, length, mode := order.Uint64(body[8:]), order.Uint64(body[16:]), order.Uint32(body[24:])
	switch mode &^ fallocKeepSize {
	case fallocPunchHole:
		return d.inside(id, off, length, blockdev.Writer.Discard)
	case fallocZeroRange:
		return d.inside(id, off, length, blockdev.Writer.WriteZeroes)
	}
	return errNOTSUP
}
