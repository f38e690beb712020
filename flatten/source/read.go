package source

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/flatten"
)

// Read downloads the layer and reads it as flatten.ReadLayer does, with its
// data in spool. The stored bytes, at most Size, are checked against Digest
// and the uncompressed ones against DiffID; a difference gives a *DigestError.
// Every error is a *LayerError. Several layers may be read at once, each with a
// spool of its own; one layer is read by one call at a time.
//
// Two goroutines work on a layer: one reads, hashes and decompresses, or has
// igzip decompress; the caller's hashes what comes out, parses and spools it.
// Read returns when both are done.
func (l *Layer) Read(ctx context.Context, spool flatten.Spool) (*flatten.Layer, error) {
	return l.check(ctx, func(r io.Reader) (*flatten.Layer, error) {
		return flatten.ReadLayer(ctx, r, spool, l.limits)
	})
}

// Stream is Read without a spool: file takes the data, as flatten.StreamLayer
// has it, before anything is checked. What it took is the layer's only if
// Stream returns no error. A caller that wants no more ends ctx: Stream then
// reads nothing further.
func (l *Layer) Stream(ctx context.Context, file flatten.FileFunc) (*flatten.Layer, error) {
	return l.check(ctx, func(r io.Reader) (*flatten.Layer, error) {
		return flatten.StreamLayer(ctx, r, file, l.limits)
	})
}

// Archive is Stream for a caller that reads the archive by itself: fn gets the
// uncompressed layer, before anything is checked, and what fn made of it is the
// layer's only if Archive returns no error. What fn leaves unread is read by
// Archive.
func (l *Layer) Archive(ctx context.Context, fn func(r io.Reader) error) error {
	_, err := l.check(ctx, func(r io.Reader) (*flatten.Layer, error) {
		err := fn(r)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		return &flatten.Layer{}, err
	})
	return err
}

// A parser reads a layer from its uncompressed archive.
type parser func(r io.Reader) (*flatten.Layer, error)

func (l *Layer) check(ctx context.Context, parse parser) (*flatten.Layer, error) {
	layer, err := l.read(ctx, parse)
	if err != nil {
		return nil, &LayerError{Index: l.index, DiffID: l.DiffID, Err: err}
	}
	layer.DiffID = l.DiffID
	return layer, nil
}

func (l *Layer) read(ctx context.Context, parse parser) (_ *flatten.Layer, err error) {
	stored := l.newStored()
	if err := stored.start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stored.Close()) }()
	layer, id, readErr := l.unpack(ctx, stored, parse)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	// A layer that cannot be read may be one that was damaged: then that is
	// what to say.
	if err := stored.finish(); err != nil {
		return nil, err
	}
	if readErr != nil {
		return nil, readErr
	}
	if id != l.DiffID {
		return nil, &DigestError{What: "uncompressed layer", Want: l.DiffID, Got: id}
	}
	return layer, nil
}

// unpack decompresses and reads the layer, and returns its diff ID.
func (l *Layer) unpack(ctx context.Context, stored *storedReader, parse parser) (*flatten.Layer, v1.Hash, error) {
	plain, end, err := l.decode(ctx, stored)
	if err != nil {
		return nil, v1.Hash{}, err
	}
	defer end()
	sum := sha256.New()
	layer, err := parse(io.TeeReader(plain, sum))
	return layer, hashOf(sum.Sum(nil)), err
}

// decode returns the uncompressed layer, and what ends its reading. Somebody else
// than the caller decompresses it: igzip, or a goroutine.
func (l *Layer) decode(ctx context.Context, stored *storedReader) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(stored, storedBuffer)
	is, err := codecIn(in, l.mediaType)
	if err != nil {
		return nil, nil, err
	}
	if is == gzipped && l.igzip != "" && bareHeader(in) {
		if by, err := startIgzip(ctx, l.igzip, in); err == nil {
			return &gunzipper{ctx: ctx, stored: stored, by: by}, by.stop, nil
		} // there may be no room for a process: Go needs none
	}
	r, err := is.decode(in)
	if err != nil {
		return nil, nil, err
	}
	ahead := startAhead(r)
	return ahead, ahead.stop, nil
}

var errTooLong = errors.New("stored layer is longer than its descriptor says")

// storedReader counts and hashes a layer as it is stored.
type storedReader struct {
	open     func(ctx context.Context) (io.ReadCloser, error)
	want     v1.Hash // zero if nothing is to be checked
	size     int64
	progress func(read int64)

	// Since the last start:
	body io.ReadCloser
	sum  hash.Hash
	n    int64
	err  error
	told int64 // what progress was called with last
}

const progressStep = 1 << 20 // bytes between two calls of Options.Progress

func (l *Layer) newStored() *storedReader {
	s := &storedReader{open: l.open, want: l.Digest, size: l.Size}
	if l.progress != nil {
		s.progress = func(n int64) { l.progress(l, n) }
	}
	return s
}

// start begins at the layer's beginning, the first time or again.
func (s *storedReader) start(ctx context.Context) error {
	if s.body != nil {
		_ = s.body.Close() // nothing more is wanted of it
	}
	s.sum, s.n, s.told = sha256.New(), 0, 0
	s.body, s.err = s.open(ctx)
	return s.err
}

// Close tells the progress made and closes what is open.
func (s *storedReader) Close() error {
	s.tell()
	if s.body == nil {
		return nil // it could not be opened again
	}
	return s.body.Close()
}

// failure returns the error that ended reading, if it was not the end.
func (s *storedReader) failure() error {
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

func (s *storedReader) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.body.Read(p)
	s.n += int64(n)
	if s.n > s.size {
		n, err = 0, errTooLong
	}
	if s.want != (v1.Hash{}) {
		s.sum.Write(p[:n])
	}
	s.err = err
	if s.n-s.told >= progressStep {
		s.tell()
	}
	return n, err
}

// tell tells how much was read, unless that is known.
func (s *storedReader) tell() {
	if s.progress != nil && s.n != s.told {
		s.told = s.n
		s.progress(s.n)
	}
}

// finish reads what is left and checks size and digest.
func (s *storedReader) finish() error {
	if s.want == (v1.Hash{}) {
		return nil
	}
	_, err := io.Copy(io.Discard, s)
	if errors.Is(err, errTooLong) {
		return fmt.Errorf("%w: %d bytes", errTooLong, s.size)
	}
	if err == nil && s.n < s.size {
		err = io.ErrUnexpectedEOF
	}
	if s.n < s.size {
		return fmt.Errorf("stored layer ends after %d bytes of %d: %w", s.n, s.size, err)
	}
	if got := hashOf(s.sum.Sum(nil)); got != s.want {
		return &DigestError{What: "stored layer", Want: s.want, Got: got}
	}
	return err
}
