package pack

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// A far source has the three chunks, and counts who asks.
type far struct{ asked atomic.Int64 }

func (s *far) ReadChunk(_ context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	s.asked.Add(1)
	for _, o := range []*chunktest.Object{&chunkA, &chunkB, &chunkC} {
		if o.ID == id {
			return copy(dst, o.Bytes[min(off, int64(len(o.Bytes))):]), nil
		}
	}
	return 0, chunk.ErrNotFound
}

// late returns a pack of A and B after a while, which honours its context.
func late(t *testing.T, after time.Duration, err error) func(context.Context) ([]byte, error) {
	var b Builder
	addObject(t, &b, &chunkA)
	addObject(t, &b, &chunkB)
	return func(ctx context.Context) ([]byte, error) {
		select {
		case <-time.After(after):
			return b.Bytes(), err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

var covered = []chunk.ID{chunkA.ID, chunkB.ID}

func read(t *testing.T, r chunk.Reader, o *chunktest.Object, off int64, n int) {
	t.Helper()
	dst := make([]byte, n)
	got, err := r.ReadChunk(t.Context(), o.ID, dst, off)
	if err != nil || !bytes.Equal(dst[:got], o.Bytes[off:min(off+int64(n), int64(len(o.Bytes)))]) {
		t.Errorf("read of %d bytes at %d: %d bytes, %v", n, off, got, err)
	}
}

// TestFetch: reads of what the pack covers begin it, wait for it and are answered out
// of it, each chunk until it was read whole.
func TestFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFetch(covered, late(t, 100*time.Millisecond, nil), nil)
		defer f.Close()
		var next far
		r := f.Reader(&next)
		begin := time.Now()
		read(t, r, &chunkC, 0, len(chunkC.Bytes)) // not in it
		if took := time.Since(begin); took != 0 || next.asked.Load() != 1 {
			t.Errorf("another chunk waited %v, and was asked for %d times", took, next.asked.Load())
		}
		if !f.Has(chunkA.ID) || f.Has(chunkC.ID) {
			t.Error("Has before it is here")
		}
		read(t, r, &chunkA, 10, 20)
		if took := time.Since(begin); took != 100*time.Millisecond {
			t.Errorf("waited %v", took)
		}
		read(t, r, &chunkA, int64(len(chunkA.Bytes)), 20)
		read(t, r, &chunkA, 0, len(chunkA.Bytes))
		read(t, r, &chunkB, 0, len(chunkB.Bytes)+1)
		if n := next.asked.Load(); n != 1 {
			t.Errorf("%d reads passed on, want 1", n)
		}
		read(t, r, &chunkB, 0, 5) // was read before
		if n := next.asked.Load(); n != 2 || f.Has(chunkB.ID) {
			t.Errorf("%d reads passed on, want 2", n)
		}
	})
}

// TestFetchStartUnless: a fetch is begun, once, when somebody has not got the chunks, and not by who has.
func TestFetchStartUnless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fetched, asked atomic.Int64
		get := late(t, time.Second, nil)
		f := NewFetch(covered, func(ctx context.Context) ([]byte, error) { fetched.Add(1); return get(ctx) }, nil)
		has := func(answer bool) func(context.Context) bool {
			return func(ctx context.Context) bool {
				asked.Add(1)
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
				return answer
			}
		}
		for _, step := range []struct {
			answer         bool
			asked, fetched int64
		}{{true, 1, 0}, {false, 2, 1}, {false, 2, 1}} {
			begin := time.Now()
			f.StartUnless(has(step.answer))
			if took := time.Since(begin); took != 0 {
				t.Errorf("waited %v", took)
			}
			time.Sleep(1500 * time.Millisecond)
			if asked.Load() != step.asked || fetched.Load() != step.fetched {
				t.Errorf("%d were asked, and it was fetched %d times; want %d, %d", asked.Load(), fetched.Load(), step.asked, step.fetched)
			}
		}
		f.Close()
		f = NewFetch(covered, get, nil)
		begin := time.Now()
		f.StartUnless(has(false))
		f.StartUnless(has(false))
		synctest.Wait()
		f.Close()
		f.StartUnless(has(false))
		if took := time.Since(begin); took != 0 || asked.Load() != 4 || f.begun {
			t.Errorf("closed after %v, %d were asked, begun: %v", took, asked.Load(), f.begun)
		}
	})
}

// TestFetchDrops: what nobody reads is dropped.
func TestFetchDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFetch(covered, late(t, 0, nil), nil)
		defer f.Close()
		f.Start()
		f.Start()
		time.Sleep(keepTime / 2)
		if !f.Has(chunkA.ID) {
			t.Error("not there")
		}
		time.Sleep(keepTime)
		var next far
		read(t, f.Reader(&next), &chunkA, 0, 100)
		if f.Has(chunkA.ID) || next.asked.Load() != 1 {
			t.Error("kept for ever")
		}
	})
}

// TestFetchFails: reads go on without a pack that is late, away, damaged, or has not
// got what it was said to have.
func TestFetchFails(t *testing.T) {
	damaged := func(context.Context) ([]byte, error) {
		b := wholeVector(t)
		b[len(b)-1] ^= 1
		return b, nil
	}
	tests := []struct {
		name string
		get  func(context.Context) ([]byte, error)
		wait time.Duration
	}{
		{"late", late(t, time.Hour, nil), patience},
		{"away", late(t, time.Millisecond, errors.New("away")), time.Millisecond},
		{"damaged", damaged, 0},
		{"empty", func(context.Context) ([]byte, error) { return new(Builder).Bytes(), nil }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := NewFetch(covered, tt.get, nil)
				defer f.Close()
				var next far
				r, begin := f.Reader(&next), time.Now()
				read(t, r, &chunkA, 0, len(chunkA.Bytes))
				if took := time.Since(begin); took != tt.wait || next.asked.Load() != 1 {
					t.Errorf("waited %v, want %v", took, tt.wait)
				}
				time.Sleep(2 * fetchTime)
				if f.Has(chunkA.ID) {
					t.Error("it is given up, and has chunks all the same")
				}
				begin = time.Now()
				read(t, r, &chunkA, 0, len(chunkA.Bytes))
				if took := time.Since(begin); took != 0 {
					t.Errorf("waited %v for what had failed", took)
				}
			})
		})
	}
}

// TestFetchClose: Close ends the fetch and whoever waits for it.
func TestFetchClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFetch(covered, late(t, time.Hour, nil), nil)
		var next far
		r, done := f.Reader(&next), make(chan struct{})
		go func() {
			defer close(done)
			read(t, r, &chunkA, 0, len(chunkA.Bytes))
		}()
		synctest.Wait()
		f.Close()
		<-done
		f.Start()
		read(t, r, &chunkB, 0, len(chunkB.Bytes))
		if n := next.asked.Load(); n != 2 {
			t.Errorf("%d reads passed on, want 2", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f.Reader(chunk.NewDoor(nothing{})).ReadChunk(ctx, chunkA.ID, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v of a read that was given up", err)
		}
	})
}

type nothing struct{}

func (nothing) Fetch(ctx context.Context, _ chunk.ID, _ []byte, _ int64) (int, error) {
	return 0, errors.Join(ctx.Err(), chunk.ErrNotFound)
}

// TestFetchReader has a reader before a pack pass the suite of readers.
func TestFetchReader(t *testing.T) {
	objects := chunktest.Objects(7)
	var b Builder
	var ids []chunk.ID
	src := make(sources)
	for _, o := range objects {
		src[o.ID] = o.Bytes
		if len(ids) < len(objects)/2 {
			addObject(t, &b, &o)
			ids = append(ids, o.ID)
		}
	}
	f := NewFetch(ids, func(context.Context) ([]byte, error) { return b.Bytes(), nil }, nil)
	defer f.Close()
	chunktest.TestReader(t, f.Reader(chunk.NewDoor(src)), objects)
}

type sources map[chunk.ID][]byte

func (s sources) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	b, ok := s[id]
	if !ok {
		return 0, chunk.ErrNotFound
	}
	return copy(dst, b[min(off, int64(len(b))):]), ctx.Err()
}
