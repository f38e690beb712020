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
	data := newSpooler(spool)
	layer, err := StreamLayer(ctx, r, func(e *Entry, file io.Reader) error {
		return data.readFrom(ctx, file, e.Size)
	}, lim)
	if err != nil {
		return nil, err
	}
	if err := data.flush(true); err != nil {
		return nil, err
	}
	layer.Data = spool
	return layer, nil
}

// A FileFunc takes the data of one file: data gives e.Size bytes, which begin
// at e.Data when the data of all files are put one after the other. Neither e
// nor data are good after the call.
type FileFunc func(e *Entry, data io.Reader) error

// StreamLayer is ReadLayer for a caller that takes the data itself: the
// result's Data is nil. It calls file for each regular file of the archive, in
// the archive's order, be it that a later entry replaces the file. An error of
// file ends StreamLayer; if ctx has ended by then, the context's cause is the
// error.
func StreamLayer(ctx context.Context, r io.Reader, file FileFunc, lim Limits) (*Layer, error) {
	lim = lim.withDefaults()
	in := bufio.NewReaderSize(r, readBuffer)
	lr := layerReader{builder: newBuilder(lim), tar: tar.NewReader(in), file: file}
	if err := lr.readEntries(ctx); err != nil {
		return nil, err
	}
	if err := checkTail(in); err != nil {
		return nil, err
	}
	layer, err := lr.builder.finish()
	if err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	return layer, nil
}

type layerReader struct {
	builder *builder
	tar     *tar.Reader
	file    FileFunc
	data    int64 // bytes of all files so far
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
		if err := lr.readFile(h, &e); err != nil {
			return err
		}
	}
	_, err = b.place(e)
	return err
}

// readFile hands over the data of one file.
func (lr *layerReader) readFile(h *tar.Header, e *Entry) error {
	lim := &lr.builder.lim
	if e.Size > lim.MaxFileBytes {
		return fmt.Errorf("%w: file of %d bytes, at most %d are allowed", ErrLimit, e.Size, lim.MaxFileBytes)
	}
	if e.Size > lim.MaxLayerBytes-lr.data {
		return fmt.Errorf("%w: layer of more than %d bytes", ErrLimit, lim.MaxLayerBytes)
	}
	if isSparse(h) {
		if e.Size > MaxSparseBytes-lr.sparse {
			return fmt.Errorf("%w: sparse files of more than %d bytes in all", ErrLimit, int64(MaxSparseBytes))
		}
		lr.sparse += e.Size
	}
	e.Data = lr.data
	lr.data += e.Size
	err := lr.file(e, lr.tar)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
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
