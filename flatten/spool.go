package flatten

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// A Spool takes the data of a layer's files, usually an empty temporary file.
// What was never written must read as zeros: runs of zeros are not written, so
// that they become holes.
type Spool interface {
	io.ReaderAt
	io.WriterAt
}

const (
	spoolBuffer = 1 << 20  // bytes gathered for one write
	spoolPiece  = 64 << 10 // the smallest run of zeros that becomes a hole
)

var zeroPiece [spoolPiece]byte

// A spooler appends to a Spool through one large buffer. Its errors stay.
type spooler struct {
	to  Spool
	off int64 // where buf belongs in the spool, a multiple of spoolBuffer
	buf []byte
}

func newSpooler(to Spool) *spooler {
	return &spooler{to: to, buf: make([]byte, 0, spoolBuffer)}
}

// readFrom appends exactly n bytes of r.
func (s *spooler) readFrom(ctx context.Context, r io.Reader, n int64) error {
	for n > 0 {
		if len(s.buf) == cap(s.buf) {
			if err := s.flush(false); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		at := len(s.buf)
		want := int(min(n, int64(cap(s.buf)-at)))
		got, err := io.ReadFull(r, s.buf[at:at+want])
		s.buf = s.buf[:at+got]
		if err != nil {
			return err
		}
		n -= int64(got)
	}
	return nil
}

// flush writes the buffer out but for pieces of zeros; the last of all is
// written in any case, so that the spool reaches as far as the data.
func (s *spooler) flush(last bool) error {
	start := 0 // of the run of pieces to be written
	write := func(end int) error {
		if start == end {
			return nil
		}
		if _, err := s.to.WriteAt(s.buf[start:end], s.off+int64(start)); err != nil {
			return fmt.Errorf("write spool: %w", err)
		}
		return nil
	}
	for at := 0; at < len(s.buf); at += spoolPiece {
		piece := s.buf[at:min(at+spoolPiece, len(s.buf))]
		if last && at+len(piece) == len(s.buf) || !bytes.Equal(piece, zeroPiece[:len(piece)]) {
			continue
		}
		if err := write(at); err != nil {
			return err
		}
		start = at + len(piece)
	}
	if err := write(len(s.buf)); err != nil {
		return err
	}
	s.off += int64(len(s.buf))
	s.buf = s.buf[:0]
	return nil
}
