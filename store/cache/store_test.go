package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// store makes the cache what chunktest tests.
type store struct{ *Cache }

func (s store) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	h, err := s.Acquire(id)
	if err != nil {
		return 0, err
	}
	defer h.Release()
	dst = dst[:max(0, min(int64(len(dst)), h.Size()-off))]
	n, err := h.File().ReadAt(dst, off)
	if err == io.EOF && n == len(dst) {
		err = nil
	}
	return n, err
}

func (s store) Put(ctx context.Context, id chunk.ID, object []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if _, err := chunk.Verify(id, object); err != nil {
		return false, err
	}
	for {
		h, err := deposit(s.Cache, &chunktest.Object{ID: id, Bytes: object}, len(object))
		if err == nil {
			h.Release()
			return true, nil
		}
		if !errors.Is(err, ErrExists) {
			return false, err
		}
		if h, err := s.Acquire(id); err == nil { // else another deposit is under way
			h.Release()
			return false, nil
		}
		runtime.Gosched()
	}
}

func (s store) Flush(ctx context.Context) error { return ctx.Err() }

func (s store) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	h, err := s.Acquire(id)
	if err != nil {
		return 0, err
	}
	defer h.Release()
	return h.Size(), nil
}

func (s store) Remove(ctx context.Context, id chunk.ID) error {
	if err := s.Evict(ctx, id); !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	return nil
}

func (s store) List(ctx context.Context, fn func(id chunk.ID, size int64) error) (err error) {
	lerr := s.Cache.List(ctx, chunk.ID{}, func(e Entry) bool {
		err = fn(e.ID, e.Size)
		return err == nil
	})
	return errors.Join(err, lerr)
}

func TestStore(t *testing.T) {
	chunktest.TestStore(t, func(t *testing.T) chunktest.Store {
		return store{open(t, Config{Dir: t.TempDir()})}
	})
}

// TestListAfter goes on after each chunk.
func TestListAfter(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir()})
	for i := range uint64(9) {
		put(t, c, small(i))
	}
	ids := c.sorted(chunk.ID{})
	for i, after := range ids {
		var rest []chunk.ID
		if err := c.List(ctx, after, func(e Entry) bool { rest = append(rest, e.ID); return true }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(rest, ids[i+1:]) {
			t.Errorf("after the %d-th of %d: %v", i, len(ids), rest)
		}
	}
}

func BenchmarkSource(b *testing.B) {
	chunktest.BenchmarkSource(b, store{open(b, Config{Dir: b.TempDir()})})
}

// BenchmarkAcquire is a hit: of a chunk that nobody else uses, whose file is
// opened, and of one that is in use.
func BenchmarkAcquire(b *testing.B) {
	c := open(b, Config{Dir: b.TempDir()})
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	put(b, c, &o)
	run := func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			h, err := c.Acquire(o.ID)
			if err != nil {
				b.Fatal(err)
			}
			h.Release()
		}
	}
	b.Run("Idle", run)
	h, err := c.Acquire(o.ID)
	if err != nil {
		b.Fatal(err)
	}
	defer h.Release()
	b.Run("InUse", run)
}

func BenchmarkDeposit(b *testing.B) {
	c := open(b, Config{Dir: b.TempDir(), MaxBytes: 64 << 20})
	var objects []chunktest.Object
	for i := range 256 { // twice what the cache holds
		objects = append(objects, chunktest.Random(uint64(i), chunk.Size, chunk.FrameSize))
	}
	b.SetBytes(int64(len(objects[0].Bytes)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		put(b, c, &objects[i%len(objects)])
	}
}

// BenchmarkOpen opens a directory of many chunks, after a clean stop with the
// index and without.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		dir := b.TempDir()
		c := open(b, Config{Dir: dir})
		makeFiles(b, c, n)
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		for _, index := range []bool{true, false} {
			b.Run(fmt.Sprintf("chunks=%d/index=%v", n, index), func(b *testing.B) {
				b.ReportAllocs()
				var walls, cpus []time.Duration
				for b.Loop() {
					wall, cpu := benchmarkOpen(b, dir, n, index)
					walls, cpus = append(walls, wall), append(cpus, cpu)
				}
				slices.Sort(walls)
				slices.Sort(cpus)
				b.ReportMetric(walls[len(walls)/2].Seconds()*1000, "ms-median")
				b.ReportMetric(walls[len(walls)-1].Seconds()*1000, "ms-worst")
				b.ReportMetric(cpus[len(cpus)/2].Seconds()*1000, "cpu-ms-median")
			})
		}
	}
}
