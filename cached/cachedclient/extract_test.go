package cachedclient

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/cache"
)

// readSome reads n bytes of a chunk for those frames, and compares them.
func readSome(t testing.TB, r chunk.Reader, o *chunktest.Object, off int64, n int, frames chunk.Extract) {
	t.Helper()
	b := make([]byte, n)
	got, err := r.ReadChunk(chunk.WithExtract(ctx, frames), o.ID, b, off)
	if want := o.Bytes[off:min(off+int64(n), int64(len(o.Bytes)))]; err != nil || !bytes.Equal(b[:got], want) {
		t.Errorf("%d bytes at %d, %v; want %d, or they differ", got, off, err, len(want))
	}
}

// TestExtract: a read for frames has these brought and no more; one beyond them, the rest; and
// no byte comes twice, nor for another client.
func TestExtract(t *testing.T) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	d, from := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	frame := func(i int) (int64, int) { return o.Header.FrameOffset(i), int(o.Header.Frames[i].Len) }
	sent := func(want ...int) {
		t.Helper()
		n := int64(o.Header.Len())
		for _, i := range want {
			n += int64(o.Header.Frames[i].Len)
		}
		if got := from.Sent(); got != n {
			t.Errorf("%d bytes sent, want %d: frames %v", got, n, want)
		}
	}
	src, door := counted(from)
	first := client(t, d.Socket, nil)
	r := first.Reader(door, from)
	readSome(t, r, &o, 0, o.Header.Len(), 0b110)
	off, n := frame(1)
	readSome(t, r, &o, off, 2*n, 0b110)
	sent(1, 2)
	second := client(t, d.Socket, nil)
	readSome(t, second.Reader(door, from), &o, off+100, n, 0)
	sent(1, 2)
	if _, err := second.Held().ReadChunk(ctx, o.ID, make([]byte, 10), off-10); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a frame that is nowhere near: %v", err)
	}
	readSome(t, second.Held(), &o, 0, 1, 0b110)
	if _, err := second.Held().ReadChunk(chunk.WithExtract(ctx, 0b1000), o.ID, make([]byte, 1), 0); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("the header, for a frame that is nowhere near: %v", err)
	}
	off, n = frame(7)
	readSome(t, r, &o, off, n, 0b10000000)
	sent(1, 2, 7)
	readSome(t, r, &o, 0, 16, 0xff) // a fill
	sent(0, 1, 2, 3, 4, 5, 6, 7)
	readWholly(t, r, &o)
	readWholly(t, second.Reader(door, from), &o)
	sent(0, 1, 2, 3, 4, 5, 6, 7)
	if n := src.Requests.Load(); n != 0 {
		t.Errorf("clients have asked their own origin %d times", n)
	}
}

// TestExtractGivenUp: a client that goes on using an extract gives it up when the daemon has
// more of the chunk, so that it takes no room.
func TestExtractGivenUp(t *testing.T) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	d, from := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	one, other := client(t, d.Socket, func(c *Config) { c.sweep = time.Hour }), client(t, d.Socket, nil)
	readSome(t, one.Reader(chunk.NewDoor(from), from), &o, 0, 16, 1)
	readWholly(t, other.Reader(chunk.NewDoor(from), from), &o)
	// Who reads is answered before the file has its name, and the extract's is gone.
	eventually(t, "the chunk is in the cache, and nothing else", func() bool {
		s := d.Cache.Stats()
		return s.Deposits == 2 && s.Bytes == cache.Cost(int64(len(o.Bytes)))
	})
	readSome(t, one.Reader(gone{}, nil), &o, 0, 16, 1)
	one.tidy()
	if n := one.Stats().Held; n != 0 {
		t.Errorf("%d chunks held, whose files are gone", n)
	}
	readSome(t, one.Reader(gone{}, nil), &o, 0, 16, 1)
}

// TestExtractsAtOnce has readers ask for frames at random, at once, of a daemon that has to
// evict: they get them, and the daemon is never above its bound.
func TestExtractsAtOnce(t *testing.T) {
	var list []chunktest.Object
	for i := range 6 {
		list = append(list, chunktest.Random(uint64(i), 8*chunk.MinFrameSize, chunk.MinFrameSize))
	}
	d := cachedtest.StartIn(t, t.TempDir(), cache.Config{MaxBytes: 5 * 8 * chunk.MinFrameSize}, nil)
	from := cachedtest.NewOrigin(t, list...)
	var wg sync.WaitGroup
	for seed := range 4 {
		r := client(t, d.Socket, nil).Reader(chunk.NewDoor(from), from)
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(seed), 1))
			for range 100 {
				o := &list[rng.IntN(len(list))]
				i := rng.IntN(8)
				frames := chunk.Extract(0)
				if rng.IntN(3) > 0 {
					frames = chunk.Extract(rng.Uint64N(255)) | 1<<i
				}
				readSome(t, r, o, o.Header.FrameOffset(i)+10, int(o.Header.Frames[i].Len)-20, frames)
			}
		})
	}
	wg.Wait()
	if s := d.Cache.Stats(); s.Bytes > s.MaxBytes || s.Damaged != 0 {
		t.Errorf("%d bytes held, of %d; %d damaged", s.Bytes, s.MaxBytes, s.Damaged)
	}
}
