package chunktest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
)

// A Store is what TestStore tests.
type Store interface {
	chunk.Source
	chunk.Sink
	chunk.Prober
	chunk.Lister
	chunk.Remover
}

// TestStore tests a store. open returns an empty one.
func TestStore(t *testing.T, open func(t *testing.T) Store) {
	t.Run("Source", func(t *testing.T) {
		s := open(t)
		TestSource(t, s, Fill(t, s))
	})
	t.Run("Door", func(t *testing.T) {
		s := open(t)
		TestReader(t, chunk.NewDoor(s), Fill(t, s))
	})
	t.Run("Sink", func(t *testing.T) { testSink(t, open(t)) })
	t.Run("SinkRefuses", func(t *testing.T) { testSinkRefuses(t, open(t)) })
	t.Run("SinkConcurrent", func(t *testing.T) { testSinkConcurrent(t, open(t)) })
	t.Run("Stat", func(t *testing.T) { testStat(t, open(t)) })
	t.Run("List", func(t *testing.T) { testList(t, open(t)) })
	t.Run("Remove", func(t *testing.T) { testRemove(t, open(t)) })
}

// Fill puts Objects(1) into s, flushes it, and returns them.
func Fill(t testing.TB, s chunk.Sink) []Object {
	t.Helper()
	list := Objects(1)
	for _, o := range list {
		if added, err := s.Put(context.Background(), o.ID, o.Bytes); err != nil || !added {
			t.Fatalf("Put = %v, %v; want true, nil", added, err)
		}
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatalf("Flush: %v", err)
	}
	return list
}

// ranges returns parts of an object of size bytes, whose frames begin at the
// offsets edges, that are likely to be got wrong.
func ranges(o *Object) [][2]int64 {
	size := int64(len(o.Bytes))
	edges := []int64{0, 1, 15, 16, 17, size - 1, size, size + 1, size + 5000}
	for i := range o.Header.Frames {
		at := o.Header.FrameOffset(i)
		edges = append(edges, at-1, at, at+1)
	}
	most := 24
	if testing.Short() {
		most = 10 // under the race detector, which finds nothing in one goroutine
	}
	if len(edges) > most { // many frames: some will do
		edges = append(edges[:most-6], edges[len(edges)-6:]...)
	}
	var list [][2]int64
	for _, from := range edges {
		for _, to := range edges {
			if to >= from {
				list = append(list, [2]int64{from, to - from})
			}
		}
	}
	return list
}

type readFunc func(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error)

// checkRange asks for one part and compares.
func checkRange(t *testing.T, read readFunc, o *Object, off, n int64) {
	t.Helper()
	const guard = 0xa5
	buf := bytes.Repeat([]byte{guard}, int(n)+8)
	got, err := read(context.Background(), o.ID, buf[:n:n], off)
	if err != nil {
		t.Fatalf("%d bytes at %d of %d: %v", n, off, len(o.Bytes), err)
	}
	size := int64(len(o.Bytes))
	want := o.Bytes[min(off, size):min(off+n, size)]
	if !bytes.Equal(buf[:got], want) {
		t.Fatalf("%d bytes at %d of %d: got %d bytes, want %d; or they differ", n, off, size, got, len(want))
	}
	if !bytes.Equal(buf[n:], bytes.Repeat([]byte{guard}, 8)) {
		t.Fatalf("%d bytes at %d: wrote past the buffer", n, off)
	}
}

// TestSource tests a source that holds the objects, and nothing under [Absent].
func TestSource(t *testing.T, src chunk.Source, objects []Object) {
	testRanges(t, src.Fetch, objects)
}

// TestReader tests a reader of chunks with the same names and sizes as a
// source.
func TestReader(t *testing.T, r chunk.Reader, objects []Object) {
	testRanges(t, r.ReadChunk, objects)
}

func testRanges(t *testing.T, read readFunc, objects []Object) {
	for _, c := range ReadTests(read, objects) {
		t.Run(c.Name, c.Run)
	}
}

// A ReadTest is one test of a suite.
type ReadTest struct {
	Name string
	Run  func(*testing.T)
}

// ReadTests returns the tests that TestSource and TestReader run, for whoever
// runs each in a bubble of testing/synctest, where there are no subtests.
func ReadTests(read func(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error), objects []Object) []ReadTest {
	return []ReadTest{
		{"Ranges", func(t *testing.T) {
			for i := range objects {
				for _, r := range ranges(&objects[i]) {
					checkRange(t, read, &objects[i], r[0], r[1])
				}
			}
		}},
		{"Absent", func(t *testing.T) {
			for _, off := range []int64{0, 100} {
				n, err := read(context.Background(), Absent, make([]byte, 400), off)
				if n != 0 || !errors.Is(err, chunk.ErrNotFound) {
					t.Errorf("at %d: %d, %v; want 0, ErrNotFound", off, n, err)
				}
			}
		}},
		{"NegativeOffset", func(t *testing.T) {
			if n, err := read(context.Background(), objects[0].ID, make([]byte, 10), -1); n != 0 || err == nil {
				t.Errorf("%d, %v; want an error", n, err)
			}
		}},
		{"Cancelled", func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			n, err := read(ctx, objects[0].ID, make([]byte, len(objects[0].Bytes)), 0)
			if err != nil && (n != 0 || !errors.Is(err, context.Canceled)) {
				t.Errorf("%d, %v; want 0 and the context's error, or success", n, err)
			}
		}},
		{"Concurrent", func(t *testing.T) { testConcurrent(t, read, objects) }},
	}
}

func testConcurrent(t *testing.T, read readFunc, objects []Object) {
	reads := 100
	if testing.Short() {
		reads = 25 // under the race detector, which needs few to find what there is
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 0))
			for range reads {
				o := &objects[rng.IntN(len(objects))]
				off := rng.Int64N(int64(len(o.Bytes)))
				want := o.Bytes[off : off+rng.Int64N(int64(len(o.Bytes))-off+1)]
				got := make([]byte, len(want))
				n, err := read(context.Background(), o.ID, got, off)
				if err != nil || n != len(want) || !bytes.Equal(got, want) {
					t.Errorf("%d bytes at %d of %d: %d, %v, or they differ", len(want), off, len(o.Bytes), n, err)
				}
			}
		})
	}
	wg.Wait()
}

func testSink(t *testing.T, s Store) {
	ctx := context.Background()
	for _, o := range Fill(t, s) {
		object := slices.Clone(o.Bytes)
		if added, err := s.Put(ctx, o.ID, object); err != nil || added {
			t.Errorf("second Put = %v, %v; want false, nil", added, err)
		}
		clear(object) // the store must not have kept it
		checkRange(t, s.Fetch, &o, 0, int64(len(o.Bytes)))
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	o := Random(99, 100, chunk.FrameSize)
	if _, err := s.Put(cancelled, o.ID, o.Bytes); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Put with an ended context: %v", err)
	}
}

// testSinkRefuses puts what is not what its name promises.
func testSinkRefuses(t *testing.T, s Store) {
	ctx := context.Background()
	o := Random(1, 100_000, chunk.FrameSize)
	flip := func(i int) []byte {
		b := slices.Clone(o.Bytes)
		b[i] ^= 1
		return b
	}
	for name, bad := range map[string][]byte{
		"empty":       {},
		"header only": o.Bytes[:o.Header.Len()],
		"short":       o.Bytes[:len(o.Bytes)-1],
		"long":        append(slices.Clone(o.Bytes), 0),
		"magic":       flip(0),
		"header":      flip(20),
		"first frame": flip(o.Header.Len()),
		"last frame":  flip(len(o.Bytes) - 1),
		"another":     Random(2, 100_000, chunk.FrameSize).Bytes,
	} {
		var corrupt *chunk.CorruptError
		if added, err := s.Put(ctx, o.ID, bad); added || !errors.As(err, &corrupt) || corrupt.ID != o.ID {
			t.Errorf("%s: Put = %v, %v; want a CorruptError", name, added, err)
		}
		if _, err := s.Stat(ctx, o.ID); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("%s: Stat = %v; want ErrNotFound", name, err)
		}
	}
}

func testSinkConcurrent(t *testing.T, s Store) {
	objects := Objects(3)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, o := range objects {
				if _, err := s.Put(context.Background(), o.ID, o.Bytes); err != nil {
					t.Errorf("Put: %v", err)
				}
				if err := s.Flush(context.Background()); err != nil {
					t.Errorf("Flush: %v", err)
				}
				got := make([]byte, len(o.Bytes))
				n, err := s.Fetch(context.Background(), o.ID, got, 0)
				if err != nil || !bytes.Equal(got[:n], o.Bytes) {
					t.Errorf("Fetch after Put: %d, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
}

// testRemove removes a chunk and puts it again.
func testRemove(t *testing.T, s Store) {
	ctx := context.Background()
	list := Fill(t, s)
	o := list[0]
	for range 2 { // what is gone may be removed again
		if err := s.Remove(ctx, o.ID); err != nil {
			t.Fatalf("Remove: %v", err)
		}
	}
	if _, err := s.Stat(ctx, o.ID); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Stat of a removed chunk: %v; want ErrNotFound", err)
	}
	if _, err := s.Fetch(ctx, o.ID, make([]byte, 100), 0); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Fetch of a removed chunk: %v; want ErrNotFound", err)
	}
	if added, err := s.Put(ctx, o.ID, o.Bytes); err != nil || !added {
		t.Errorf("Put after Remove = %v, %v; want true, nil", added, err)
	}
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range list {
		checkRange(t, s.Fetch, &list[i], 0, int64(len(list[i].Bytes)))
	}
}

func testStat(t *testing.T, s Store) {
	ctx := context.Background()
	for _, o := range Fill(t, s) {
		if size, err := s.Stat(ctx, o.ID); err != nil || size != int64(len(o.Bytes)) {
			t.Errorf("Stat = %d, %v; want %d", size, err, len(o.Bytes))
		}
	}
	if _, err := s.Stat(ctx, Absent); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Stat of an absent chunk: %v; want ErrNotFound", err)
	}
}

func testList(t *testing.T, s Store) {
	ctx := context.Background()
	list := func() map[chunk.ID]int64 {
		got := make(map[chunk.ID]int64)
		err := s.List(ctx, func(id chunk.ID, size int64) error {
			if _, twice := got[id]; twice {
				t.Errorf("%v listed twice", id)
			}
			got[id] = size
			return nil
		})
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		return got
	}
	if got := list(); len(got) != 0 {
		t.Errorf("empty store lists %d chunks", len(got))
	}
	objects := Fill(t, s)
	got := list()
	for _, o := range objects {
		if got[o.ID] != int64(len(o.Bytes)) {
			t.Errorf("listed size %d, want %d", got[o.ID], len(o.Bytes))
		}
	}
	if len(got) != len(objects) {
		t.Errorf("%d chunks listed, want %d", len(got), len(objects))
	}
	stop := errors.New("stop")
	calls := 0
	err := s.List(ctx, func(chunk.ID, int64) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("List = %v after %d calls; want fn's error after 1", err, calls)
	}
}
