package disk

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An image is a disk twice: flat, and as a block map with its chunks.
type image struct {
	flat   []byte
	m      *blockmap.Map
	chunks objects
	sealer *seal.Sealer
}

var testSalt, _ = seal.NewSalt(seal.DefaultDomain, 1)

const (
	chunkSize = chunk.Size
	frameSize = chunk.FrameSize
)

// newImage makes an image of slots chunks and a cut last one. Chunks come full,
// cut short at odd lengths, and missing.
func newImage(t testing.TB, slots int, seed uint64) *image {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{byte(seed)})
	sealer, err := seal.NewSealer(seal.Options{Salt: testSalt})
	if err != nil {
		t.Fatal(err)
	}
	im := &image{flat: make([]byte, slots*chunkSize+3*512), chunks: make(objects), sealer: sealer}
	var list []blockmap.Chunk
	for index := range slots + 1 {
		at := index * chunkSize
		size := min(chunkSize, len(im.flat)-at)
		switch {
		case index%5 == 3:
			continue
		case index%4 == 1:
			size = 1 + int(rng.Uint64()%uint64(size))
		}
		list = append(list, im.fill(rng, at, size))
	}
	info := &blockmap.Info{Layout: 1, Size: int64(len(im.flat)), ChunkLog2: 19, FrameLog2: 16, SaltID: testSalt.ID()}
	b, err := blockmap.Encode(info, list)
	if err != nil {
		t.Fatal(err)
	}
	if im.m, err = blockmap.Parse(b); err != nil {
		t.Fatal(err)
	}
	return im
}

// fill writes size bytes at an offset of the flat disk, the last one not zero,
// and stores them as a chunk.
func (im *image) fill(rng *rand.ChaCha8, at, size int) blockmap.Chunk {
	plain := im.flat[at:][:size]
	_, _ = rng.Read(plain)
	if plain[0]&1 == 0 { // half of the chunks compress
		for at := 1000; at < size; at += 1000 {
			copy(plain[at:], plain[:1000])
		}
	}
	plain[size-1] |= 1
	sealed, err := im.sealer.Seal(plain)
	if err != nil {
		panic(err)
	}
	im.chunks[sealed.ID] = bytes.Clone(sealed.Object)
	return blockmap.Chunk{
		Index: uint32(at / chunkSize), Stored: uint32(len(sealed.Object)), Size: uint32(size), ID: sealed.ID, Key: sealed.Key,
	}
}

// open returns a disk of im that the test closes.
func (im *image) open(t testing.TB, r chunk.Reader, opt Options) *Disk {
	t.Helper()
	opener, err := seal.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	opt.Opener = opener
	d, err := Open(im.m, r, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		opener.Close()
	})
	return d
}

// objects is a Source: stored chunks by name.
type objects map[chunk.ID][]byte

func (o objects) Fetch(_ context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	object, ok := o[id]
	if !ok {
		return 0, chunk.ErrNotFound
	}
	return copy(dst, object[min(off, int64(len(object))):]), nil
}

// A hookReader reads an image's chunks, asks a hook first, and counts.
type hookReader struct {
	chunks objects
	before func(ctx context.Context, call int) error // nil: nothing

	calls, active, most atomic.Int64
}

func (r *hookReader) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	call := r.calls.Add(1)
	active := r.active.Add(1)
	defer r.active.Add(-1)
	for most := r.most.Load(); active > most && !r.most.CompareAndSwap(most, active); most = r.most.Load() {
	}
	if r.before != nil {
		if err := r.before(ctx, int(call)); err != nil {
			return 0, err
		}
	}
	return r.chunks.Fetch(ctx, id, dst, off)
}

func (im *image) reader() *hookReader { return &hookReader{chunks: im.chunks} }

var errNetwork = errors.New("network is down")

// failFirst fails the first n calls with err.
func failFirst(n int, err error) func(context.Context, int) error {
	return func(_ context.Context, call int) error {
		if call <= n {
			return err
		}
		return nil
	}
}

// hang waits for the context.
func hang(ctx context.Context, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

// A logCount is a slog.Handler that counts.
type logCount struct{ n atomic.Int64 }

func (*logCount) Enabled(context.Context, slog.Level) bool    { return true }
func (c *logCount) Handle(context.Context, slog.Record) error { c.n.Add(1); return nil }
func (c *logCount) WithAttrs([]slog.Attr) slog.Handler        { return c }
func (c *logCount) WithGroup(string) slog.Handler             { return c }

// together calls fn n times at once and waits.
func together(n int, fn func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	wg.Wait()
}

func (c *logCount) logger() *slog.Logger { return slog.New(c) }
