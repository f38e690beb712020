// Package tiertest has the suite that every [tier.Layer], and every nesting of
// them, passes: layers in any order change when a read is done, never what it
// returns.
package tiertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/tier"
)

// Objects is a source of objects by their names, all the same for all users.
type Objects map[chunk.ID][]byte

// Fetch implements [chunk.Source].
func (o Objects) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	b, ok := o[id]
	if !ok {
		return 0, fmt.Errorf("fetch chunk %v: %w", id, chunk.ErrNotFound)
	}
	if off < 0 {
		return 0, fmt.Errorf("fetch chunk %v: negative offset %d", id, off)
	}
	return copy(dst, b[min(off, int64(len(b))):]), nil
}

// Holding returns a source of the objects in list.
func Holding(list []chunktest.Object) Objects {
	o := make(Objects)
	for _, c := range list {
		o[c.ID] = c.Bytes
	}
	return o
}

// TestLayer tests layers around sources and readers. open returns new ones,
// outermost first, in a bubble of testing/synctest. They must let most reads of
// a healthy source through.
func TestLayer(t *testing.T, open func() []tier.Layer) {
	all := chunktest.Objects(1)
	list := []chunktest.Object{all[0], all[1], all[3], all[5]} // layers know nothing of frames
	if testing.Short() {                                       // nor much of sizes
		list[3] = chunktest.Random(1, 70_001, chunk.MinFrameSize)
	}
	bubble := func(name string, test func(*testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
	for i, c := range chunktest.ReadTests(nil, list) {
		bubble("Source/"+c.Name, func(t *testing.T) {
			chunktest.ReadTests(tier.Source(Holding(list), open()...).Fetch, list)[i].Run(t)
		})
		bubble("Reader/"+c.Name, func(t *testing.T) {
			r := tier.Reader(chunk.NewDoor(Holding(list)), open()...)
			chunktest.ReadTests(r.ReadChunk, list)[i].Run(t)
		})
	}
	for name, faulty := range faults(Holding(list)) {
		bubble("Faults/"+name, func(t *testing.T) {
			src := faulty()
			readMany(t, chunk.NewDoor(tier.Source(src, open()...)), list)
			if t.Failed() {
				t.Log(src)
			}
		})
	}
	bubble("Errors", func(t *testing.T) { testErrors(t, open(), list) })
	bubble("Ends", func(t *testing.T) { testEnds(t, open(), list) })
	bubble("Others", func(t *testing.T) { testOthers(t, open(), list) })
	bubble("Scribbler", func(t *testing.T) { testScribbler(t, open(), list) })
	bubble("Recovers", func(t *testing.T) { testRecovers(t, open(), list) })
}

// faults returns sources with one kind of fault each, and one with all.
func faults(src chunk.Source) map[string]func() chunk.Source {
	return map[string]func() chunk.Source{
		"Flaky":     func() chunk.Source { return &chunktest.Flaky{Source: src, Every: 3, Seed: 1} },
		"Truncated": func() chunk.Source { return &chunktest.Truncated{Source: src, Every: 3, Seed: 2} },
		"Corrupt":   func() chunk.Source { return &chunktest.Corrupt{Source: src, Every: 3, Seed: 3} },
		"Hung":      func() chunk.Source { return &chunktest.Hung{Source: src, Every: 5, Seed: 4} },
		"Slow": func() chunk.Source {
			return &chunktest.Slow{Source: src, Latency: 30 * time.Millisecond, Bandwidth: 50 << 20}
		},
		"All": func() chunk.Source {
			slow := &chunktest.Slow{Source: src, Latency: 30 * time.Millisecond, Bandwidth: 50 << 20}
			damaged := &chunktest.Truncated{Source: &chunktest.Corrupt{Source: slow, Every: 5, Seed: 5}, Every: 5, Seed: 6}
			return &chunktest.Hung{Source: &chunktest.Flaky{Source: damaged, Every: 5, Seed: 7}, Every: 20, Seed: 8}
		},
	}
}

// patience is how long a reader of the suite waits.
const patience = 20 * time.Second

// readMany has 24 readers of all priorities read parts of the objects: what
// comes is right, or an error, at the latest when the reader's time is over.
func readMany(t *testing.T, r chunk.Reader, list []chunktest.Object) {
	var wg sync.WaitGroup
	for g := range 24 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			base := tier.WithFlow(context.Background(), fmt.Sprint(g%5))
			for range 10 {
				o := &list[rng.IntN(len(list))]
				off := rng.Int64N(int64(len(o.Bytes)))
				want := o.Bytes[off : off+rng.Int64N(int64(len(o.Bytes))-off)+1]
				got := make([]byte, len(want))
				ctx, cancel := context.WithTimeout(chunk.WithPriority(base, chunk.Priority(rng.IntN(chunk.Priorities))), patience)
				begun := time.Now()
				n, err := r.ReadChunk(ctx, o.ID, got, off)
				cancel()
				switch took := time.Since(begun); {
				case took > patience+time.Second:
					t.Errorf("a read took %v, its context %v", took, patience)
				case err != nil && n != 0:
					t.Errorf("%d bytes with error %v", n, err)
				case err == nil && !bytes.Equal(got[:n], want):
					t.Errorf("%d bytes at %d: got %d, or they differ", len(want), off, n)
				case errors.Is(err, chunk.ErrNotFound):
					t.Errorf("a chunk that is there: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// testErrors wants errors to come through as what they are.
func testErrors(t *testing.T, layers []tier.Layer, list []chunktest.Object) {
	src := Holding(list)
	rotten := bytes.Clone(list[0].Bytes)
	rotten[len(rotten)-1] ^= 1
	src[list[0].ID] = rotten
	r := tier.Reader(chunk.NewDoor(src), layers...)
	dst := make([]byte, len(rotten))
	for range 50 { // however often: neither says that the source is not well
		var corrupt *chunk.CorruptError
		if n, err := r.ReadChunk(context.Background(), list[0].ID, dst, 0); n != 0 || !errors.As(err, &corrupt) || corrupt.ID != list[0].ID {
			t.Fatalf("rotten chunk: %d, %v; want a CorruptError", n, err)
		}
		if n, err := r.ReadChunk(context.Background(), chunktest.Absent, dst, 0); n != 0 || !errors.Is(err, chunk.ErrNotFound) {
			t.Fatalf("absent chunk: %d, %v; want ErrNotFound", n, err)
		}
	}
	failing := tier.Source(&chunktest.Flaky{Source: src, Every: 1}, layers...)
	if n, err := failing.Fetch(context.Background(), list[1].ID, dst, 0); n != 0 || !errors.Is(err, chunktest.ErrInjected) {
		t.Errorf("a source that fails: %d, %v; want its error", n, err)
	}
}

// testEnds wants a read of a hung source to end with its context.
func testEnds(t *testing.T, layers []tier.Layer, list []chunktest.Object) {
	src := tier.Source(&chunktest.Hung{Source: Holding(list), Every: 1}, layers...)
	dst := make([]byte, 100)
	for _, c := range []struct {
		end  func(context.Context) (context.Context, context.CancelFunc)
		want error
	}{
		{func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 10*time.Millisecond)
		}, context.DeadlineExceeded},
		{func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(10*time.Millisecond, cancel)
			return ctx, cancel
		}, context.Canceled},
	} {
		ctx, cancel := c.end(context.Background())
		begun := time.Now()
		n, err := src.Fetch(ctx, list[0].ID, dst, 0)
		if took := time.Since(begun); n != 0 || !errors.Is(err, c.want) || took != 10*time.Millisecond {
			t.Errorf("hung for 10 ms: %d, %v after %v; want 0, %v", n, err, took, c.want)
		}
		cancel()
	}
}

// testOthers has half of the readers of one chunk leave: the others get it.
func testOthers(t *testing.T, layers []tier.Layer, list []chunktest.Object) {
	src := tier.Source(&chunktest.Slow{Source: Holding(list), Latency: 50 * time.Millisecond}, layers...)
	o := &list[3]
	var wg sync.WaitGroup
	for g := range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			leaves := g%2 == 0
			if leaves {
				time.AfterFunc(20*time.Millisecond, cancel)
			}
			dst := make([]byte, len(o.Bytes))
			n, err := src.Fetch(ctx, o.ID, dst, 0)
			if leaves && !errors.Is(err, context.Canceled) {
				t.Errorf("one that left: %d, %v", n, err)
			}
			if !leaves && (err != nil || !bytes.Equal(dst[:n], o.Bytes)) {
				t.Errorf("one that stayed: %d, %v, or the bytes differ", n, err)
			}
		})
	}
	wg.Wait()
}

// A scribbler writes nonsense until it returns, which is some time after its
// context has ended. Its first requests, and each third one, never get a better
// answer.
type scribbler struct {
	src      chunk.Source
	requests int
	mu       sync.Mutex
}

func (s *scribbler) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	s.mu.Lock()
	s.requests++
	hangs := s.requests > 40 && s.requests%3 == 0
	s.mu.Unlock()
	time.Sleep(time.Millisecond)
	if !hangs {
		return s.src.Fetch(ctx, id, dst, off)
	}
	<-ctx.Done()
	time.Sleep(5 * time.Millisecond) // soon, but later than others return
	for i := range dst {
		dst[i] = 0xee
	}
	return 0, ctx.Err()
}

// testScribbler checks that nothing writes to a buffer that is the reader's
// again.
func testScribbler(t *testing.T, layers []tier.Layer, list []chunktest.Object) {
	src := tier.Source(&scribbler{src: Holding(list)}, layers...)
	o := &list[1]
	for i := range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		dst := make([]byte, len(o.Bytes))
		n, err := src.Fetch(ctx, o.ID, dst, 0)
		cancel()
		if err == nil && !bytes.Equal(dst[:n], o.Bytes) {
			t.Fatalf("read %d: wrong bytes", i)
		}
		clear(dst)
		time.Sleep(20 * time.Millisecond)
		if !bytes.Equal(dst, make([]byte, len(dst))) {
			t.Fatalf("read %d (%v): somebody wrote to the buffer after it had returned", i, err)
		}
	}
}

// testRecovers has a source fail for a minute, and then wants all reads of it to
// succeed, after a pause that a breaker may make.
func testRecovers(t *testing.T, layers []tier.Layer, list []chunktest.Object) {
	var well atomic.Bool
	src := tier.Source(switching{func() chunk.Source {
		if well.Load() {
			return Holding(list)
		}
		return &chunktest.Hung{Source: Holding(list), Every: 1}
	}}, layers...)
	o := &list[2]
	dst := make([]byte, len(o.Bytes))
	read := func(patience time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := src.Fetch(ctx, o.ID, dst, 0)
		return err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if err := read(2 * time.Second); err == nil || errors.Is(err, chunk.ErrNotFound) {
			t.Fatalf("hung source: %v", err)
		}
	}
	well.Store(true)
	time.Sleep(time.Minute)
	for i := range 20 {
		if err := read(2 * time.Second); err != nil {
			t.Fatalf("read %d of a source that is well again: %v", i, err)
		}
	}
}

// switching is the source that its function returns.
type switching struct{ source func() chunk.Source }

func (s switching) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	return s.source().Fetch(ctx, id, dst, off)
}
