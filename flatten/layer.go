package flatten

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	readBuffer  = 256 << 10 // bytes read at once from the archive
	entriesPoll = 256       // entries between two looks at the context
	dataPoll    = 64 << 20  // bytes of one file between two looks at the context
)

// ReadLayer reads one uncompressed layer archive from r to its end and returns
// it as if its entries had been applied to an empty root; the package comment
// has the rules. File data go to spool, from its start on, and the result's
// Data is spool: the layer is good for as long as spool is, and spool must not
// be used for another layer. Memory grows with the number of entries and the
// length of their names, never with the data.
//
// The archive may be of any form that archive/tar reads (ustar, PAX, GNU, with
// sparse files). After its end only zeros may follow. An entry that is refused
// gives an *EntryError, a bound that is passed an error matching ErrLimit.
// DiffID is left empty. When ctx ends, ReadLayer returns soon, with the
// context's error.
func ReadLayer(ctx context.Context, r io.Reader, spool Spool, lim Limits) (*Layer, error) {
	lim = lim.withDefaults()
	in := bufio.NewReaderSize(r, readBuffer)
	lr := layerReader{builder: newBuilder(lim), tar: tar.NewReader(in), data: newSpooler(spool)}
	if err := lr.readEntries(ctx); err != nil {
		return nil, err
	}
	if err := checkTail(in); err != nil {
		return nil, err
	}
	if err := lr.data.flush(true); err != nil {
		return nil, err
	}
	layer, err := lr.builder.finish()
	if err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	layer.Data = spool
	return layer, nil
}

type layerReader struct {
	builder *builder
	tar     *tar.Reader
	data    *spooler
	sparse  int64 // logical bytes of sparse files so far
}

func (lr *layerReader) readEntries(ctx context.Context) error {
	for n := 0; ; n++ {
		if n%entriesPoll == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := lr.tar.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // cleanPath looks at names itself
			return fmt.Errorf("read layer, entry %d: %w", n, err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := lr.readEntry(ctx, h); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("read layer: %w", &EntryError{Path: h.Name, Err: err})
		}
	}
}

func (lr *layerReader) readEntry(ctx context.Context, h *tar.Header) error {
	name, err := cleanPath(h.Name)
	if err != nil {
		return err
	}
	what, path, err := roleOf(name)
	if err != nil {
		return err
	}
	b := lr.builder
	switch what {
	case ignored:
		return nil
	case whiteout:
		b.whiteouts[strings.Clone(path)] = struct{}{}
		return b.charge(path, nil)
	case opaque:
		b.opaques[strings.Clone(path)] = struct{}{}
		return b.charge(path, nil)
	}
	if len(h.PAXRecords) > 0 {
		path = strings.Clone(path) // it may be a part of a whole PAX header
	}
	if h.Typeflag == tar.TypeLink {
		target, err := cleanPath(h.Linkname)
		if err != nil {
			return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
		}
		return b.link(path, strings.Clone(target))
	}
	attr, err := attrOf(h)
	if err != nil {
		return err
	}
	attr.Target = strings.Clone(attr.Target)
	e := Entry{Path: path, Attr: attr}
	if attr.Kind == File {
		e.Data = lr.data.pos()
		if err := lr.readData(ctx, h); err != nil {
			return err
		}
	}
	_, err = b.place(e)
	return err
}

// readData spools the bytes of one file.
func (lr *layerReader) readData(ctx context.Context, h *tar.Header) error {
	lim := &lr.builder.lim
	if h.Size > lim.MaxFileBytes {
		return fmt.Errorf("%w: file of %d bytes, at most %d are allowed", ErrLimit, h.Size, lim.MaxFileBytes)
	}
	if h.Size > lim.MaxLayerBytes-lr.data.pos() {
		return fmt.Errorf("%w: layer of more than %d bytes", ErrLimit, lim.MaxLayerBytes)
	}
	if isSparse(h) {
		if h.Size > MaxSparseBytes-lr.sparse {
			return fmt.Errorf("%w: sparse files of more than %d bytes in all", ErrLimit, int64(MaxSparseBytes))
		}
		lr.sparse += h.Size
	}
	for left := h.Size; left > 0; {
		n := min(left, dataPoll)
		if err := lr.data.readFrom(lr.tar, n); err != nil {
			return err
		}
		left -= n
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// checkTail reads what follows the archive's end.
func checkTail(r *bufio.Reader) error {
	for {
		rest, err := r.Peek(1)
		if len(rest) > 0 {
			rest, _ = r.Peek(r.Buffered())
			if n := min(len(rest), spoolPiece); !bytes.Equal(rest[:n], zeroPiece[:n]) {
				return errors.New("read layer: data after the end of the archive")
			} else if _, err := r.Discard(n); err != nil {
				return fmt.Errorf("read layer: %w", err)
			}
			continue
		}
		if err == io.EOF {
			return nil
		}
		return fmt.Errorf("read layer: %w", err)
	}
}
