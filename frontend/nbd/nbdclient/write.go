package nbdclient

import (
	"context"
	"errors"
	"fmt"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// zeroBytes is the longest range that one request zeroes.
const zeroBytes = 1 << 30

// ErrReadOnly is what Writer returns for an export that cannot be written, or
// whose server lacks one of the commands that takes.
var ErrReadOnly = errors.New("NBD export is read-only")

// A Writer is a client of an export that can be written. Its Flush is for all
// that the server has answered, on this connection, and on others where the
// export can have several. An error of the server is an Errno, and its ENOSPC a
// blockdev.ErrNoSpace.
type Writer struct{ *Client }

var (
	_ blockdev.Writer     = (*Writer)(nil)
	_ blockdev.Extenter   = (*Writer)(nil)
	_ blockdev.Prefetcher = (*Writer)(nil)
)

// Writer returns the client as a device that can be written, or ErrReadOnly. Both
// share the connection, and closing one closes the other.
func (c *Client) Writer() (*Writer, error) {
	const need = wire.FlagSendFlush | wire.FlagSendZeroes
	if c.ReadOnly() || c.flags&need != need {
		return nil, ErrReadOnly
	}
	return &Writer{c}, nil
}

// WriteAt writes as blockdev.Writer says.
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if err := blockdev.CheckRange(off, int64(len(p)), w.size); err != nil {
		return 0, fmt.Errorf("write NBD export: %w", err)
	}
	for n := 0; n < len(p); {
		part := p[n:min(len(p), n+int(w.maxBlock))]
		k := newCall(wire.CmdWrite, off+int64(n), len(part))
		k.send = part
		if err := w.do(context.Background(), k); err != nil {
			return n, fmt.Errorf("write %d bytes at %d of NBD export: %w", len(part), k.off, err)
		}
		n += len(part)
	}
	return len(p), nil
}

// Flush flushes as blockdev.Writer says.
func (w *Writer) Flush() error {
	if err := w.do(context.Background(), newCall(wire.CmdFlush, 0, 0)); err != nil {
		return fmt.Errorf("flush NBD export: %w", err)
	}
	return nil
}

// Discard zeroes a range by WRITE_ZEROES, which may leave a hole. (TRIM may leave
// anything.)
func (w *Writer) Discard(off, length int64) error { return w.zero(off, length, 0) }

// WriteZeroes zeroes a range by WRITE_ZEROES, and wants no hole.
func (w *Writer) WriteZeroes(off, length int64) error {
	return w.zero(off, length, wire.CmdFlagNoHole)
}

func (w *Writer) zero(off, length int64, flags uint16) error {
	if err := blockdev.CheckRange(off, length, w.size); err != nil {
		return fmt.Errorf("zero NBD export: %w", err)
	}
	for length > 0 {
		n := min(length, zeroBytes)
		k := newCall(wire.CmdWriteZeroes, off, int(n))
		k.flags = flags
		if err := w.do(context.Background(), k); err != nil {
			return fmt.Errorf("zero %d bytes at %d of NBD export: %w", n, off, err)
		}
		off, length = off+n, length-n
	}
	return nil
}
