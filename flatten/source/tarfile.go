package source

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"os"

	"github.com/rivuletfs/rivulet/flatten"
)

// openTar reads a tar file into a temporary one, to be read as a canonical
// archive from there.
func openTar(ctx context.Context, path string, opts *Options) (_ *Image, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	unpacked, err := decompress(f)
	if err != nil {
		return nil, err
	}
	spool, remove, err := tempFile(opts.TempDir)
	if err != nil {
		return nil, err
	}
	ahead := startAhead(unpacked)
	defer ahead.stop()
	end := &tailReader{from: ahead}
	layer, err := flatten.ReadLayer(ctx, end, spool, opts.Limits)
	if err == nil && !end.complete() {
		err = errors.New("the archive ends without the two blocks of zeros that mark its end: it may be cut off")
	}
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	img, err := imageOfArchive(ctx, func(_ context.Context, w io.Writer) error { return flatten.WriteArchive(w, layer) })
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	img.cleanup = append(img.cleanup, remove)
	return img, nil
}

// tempFile makes a file without a name: it is gone once it is closed, which the
// caller does by the function, or once this process has ended, however it did.
func tempFile(dir string) (*os.File, func() error, error) {
	f, err := os.CreateTemp(dir, "rivulet-source-*")
	if err != nil {
		return nil, nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, f.Close, nil
}

// A tailReader remembers how the last block of what was read looks.
type tailReader struct {
	from  io.Reader
	zeros int64 // bytes of zeros at the end so far
}

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.from.Read(p)
	i := n
	for i > 0 && p[i-1] == 0 {
		i--
	}
	if i > 0 {
		t.zeros = 0
	}
	t.zeros += int64(n - i)
	return n, err
}

// complete reports whether an archive's end mark was there.
func (t *tailReader) complete() bool { return t.zeros >= 1024 }

// imageOfArchive returns an image of one layer, the canonical archive that
// write writes. It calls write once now and once for every Layer.Read; both
// must write the same.
func imageOfArchive(ctx context.Context, write func(ctx context.Context, w io.Writer) error) (*Image, error) {
	sum := &sizeHash{sha256.New(), 0}
	buf := bufio.NewWriterSize(sum, storedBuffer)
	if err := write(ctx, buf); err != nil {
		return nil, err
	}
	if err := buf.Flush(); err != nil {
		return nil, err
	}
	layer := &Layer{DiffID: hashOf(sum.Sum(nil)), Size: sum.size}
	layer.open = func(ctx context.Context) (io.ReadCloser, error) { return startPipe(ctx, write), nil }
	return &Image{Layers: []*Layer{layer}}, nil
}

// sizeHash is a hash that counts.
type sizeHash struct {
	hash.Hash
	size int64
}

func (s *sizeHash) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	return s.Hash.Write(p)
}

// A pipe reads what a goroutine writes. Close ends the goroutine and waits.
type pipe struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

func startPipe(ctx context.Context, write func(ctx context.Context, w io.Writer) error) *pipe {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	p := &pipe{r, cancel, make(chan struct{})}
	go func() {
		defer close(p.done)
		buf := bufio.NewWriterSize(w, storedBuffer)
		err := write(ctx, buf)
		if err == nil {
			err = buf.Flush()
		}
		w.CloseWithError(err) // of nil, the reader sees the end
	}()
	return p
}

func (p *pipe) Close() error {
	p.cancel()
	err := p.PipeReader.Close()
	<-p.done
	return err
}
