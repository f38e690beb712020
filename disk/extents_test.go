package disk

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/chunk"
)

// extents collects the runs of a range, and checks that they cover it.
func extents(t *testing.T, d *Disk, off, length int64) []blockdev.Extent {
	t.Helper()
	var list []blockdev.Extent
	at := off
	err := d.Extents(context.Background(), off, length, func(e blockdev.Extent) bool {
		if e.Offset != at || e.Length < 1 {
			t.Errorf("run %+v, want one at %d", e, at)
		}
		if n := len(list); n > 0 && list[n-1].Hole == e.Hole && list[n-1].Local == e.Local {
			t.Errorf("runs %+v and %+v are not merged", list[n-1], e)
		}
		at += e.Length
		list = append(list, e)
		return true
	})
	if err != nil || at != off+length {
		t.Errorf("extents of %d at %d end at %d: %v", length, off, at, err)
	}
	return list
}

func TestExtents(t *testing.T) {
	im := newImage(t, 12, 20)
	d := im.open(t, im.reader(), Options{})
	size, data := d.Size(), int64(0)
	for _, e := range extents(t, d, 0, size) {
		if e.Local != e.Hole {
			t.Errorf("%+v: nothing was read yet", e)
		}
		if !e.Hole {
			data += e.Length
		} else if zeros := im.flat[e.Offset:][:e.Length]; len(bytes.TrimLeft(zeros, "\x00")) != 0 {
			t.Errorf("%+v is no hole", e)
		}
	}
	want := int64(0)
	for i := range im.m.Len() {
		want += (int64(im.m.Chunk(i).Size) + 511) / 512 * 512
	}
	if data != want {
		t.Errorf("%d bytes of data, want %d", data, want)
	}

	im.check(t, d, chunkSize, 2*chunkSize)
	whole := extents(t, d, 0, size)
	rng := rand.New(rand.NewPCG(3, 3))
	for range 200 { // any part of the range says the same
		off := rng.Int64N(size)
		length := rng.Int64N(size - off)
		for _, e := range extents(t, d, off, length) {
			for _, w := range whole {
				from, to := max(e.Offset, w.Offset), min(e.Offset+e.Length, w.Offset+w.Length)
				if from < to && (e.Hole != w.Hole || e.Local != w.Local) {
					t.Errorf("%+v differs from %+v", e, w)
				}
			}
		}
	}
	im.check(t, d, 0, len(im.flat))
	for _, e := range extents(t, d, 0, size) {
		if !e.Local {
			t.Errorf("%+v: all was read", e)
		}
	}
}

func TestExtentsStopsAndRefuses(t *testing.T) {
	im := newImage(t, 12, 20)
	d := im.open(t, im.reader(), Options{})
	ctx, calls := context.Background(), 0
	if err := d.Extents(ctx, 0, d.Size(), func(blockdev.Extent) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("%d calls after false, error %v", calls, err)
	}
	never := func(e blockdev.Extent) bool { t.Errorf("called with %+v", e); return false }
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, d.Size() + 1}, {d.Size(), 1}, {1, 1<<63 - 1}, {d.Size() + 1, 0}} {
		if d.Extents(ctx, r[0], r[1], never) == nil {
			t.Errorf("%d bytes at %d accepted", r[1], r[0])
		}
	}
	if err := d.Extents(ctx, d.Size(), 0, never); err != nil {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if d.Extents(gone, 0, 1, never) == nil || d.Prefetch(gone, 0, 1) == nil {
		t.Error("an ended context is not seen")
	}
}

func TestPrefetchMakesLocal(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				im := newImage(t, 6, 21)
				d := im.open(t, im.reader(), Options{Mode: mode.mode})
				if err := d.Prefetch(context.Background(), 0, chunkSize); err != nil {
					t.Fatal(err)
				}
				if err := d.Prefetch(context.Background(), -1<<62, 1<<63-1); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				for _, e := range extents(t, d, 0, d.Size()) {
					if !e.Local {
						t.Errorf("%+v after prefetch", e)
					}
				}
				before := d.Stats()
				im.check(t, d, 0, len(im.flat))
				if s := d.Stats(); s.Fetches != before.Fetches || s.Prefetches != s.Fetches || s.Misses != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestReadsGoBeforePrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImage(t, 40, 22)
		r := im.reader()
		r.before = func(context.Context, int) error { time.Sleep(time.Second); return nil }
		d := im.open(t, r, Options{Fetches: 4})
		if err := d.Prefetch(context.Background(), 0, d.Size()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if active := r.active.Load(); active != 2 {
			t.Errorf("prefetch takes %d places of 4", active)
		}
		begun := time.Now()
		im.check(t, d, 36*chunkSize, 512) // late in the queue
		if took := time.Since(begun); took != time.Second {
			t.Errorf("read took %v behind prefetch, want a second", took)
		}
		im.check(t, d, 0, len(im.flat))
		if s := d.Stats(); s.Fetches != int64(im.m.Len()) {
			t.Errorf("%d fetches of %d chunks", s.Fetches, im.m.Len())
		}
	})
}

func TestPrefetchDropsWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImage(t, 50, 23)
		r := im.reader()
		r.before = hang
		d := im.open(t, r, Options{Mode: SingleFrames, Fetches: 2})
		if err := d.Prefetch(context.Background(), 0, d.Size()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := d.Stats(); s.Prefetches != MaxBackground+1 || s.Dropped != 1 || s.Fetches != 1 {
			t.Errorf("%+v: want one fetch under way, %d queued, the rest dropped", s, MaxBackground)
		}
	})
}

func TestFailedPrefetchIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im, log := newImage(t, 1, 24), new(logCount)
		r := im.reader()
		r.before = failFirst(1000, errNetwork)
		d := im.open(t, r, Options{Logger: log.logger()})
		if err := d.Prefetch(context.Background(), 0, d.Size()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s := d.Stats(); s.Errors != 0 || log.n.Load() != 0 {
			t.Errorf("%+v, %d log lines", s, log.n.Load())
		}
		synctest.Wait()
		r.before = nil
		im.check(t, d, 0, len(im.flat))
	})
}

func TestReadThatJoinsPrefetchLateHasItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImage(t, 1, 25)
		r, begun := im.reader(), time.Now()
		r.before = func(context.Context, int) error {
			if time.Since(begun) < 45*time.Second {
				return errNetwork
			}
			return nil
		}
		d := im.open(t, r, Options{Timeout: 30 * time.Second})
		if err := d.Prefetch(context.Background(), 0, 512); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * time.Second)
		im.check(t, d, 0, 512)
	})
}

// TestPriorities checks what a fetch tells of who waits for it.
func TestPriorities(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				im := newImage(t, 6, 23)
				r := im.reader()
				var mu sync.Mutex
				count := map[chunk.Priority]int{}
				r.before = func(ctx context.Context, _ int) error {
					time.Sleep(time.Second) // when it has waited in line
					mu.Lock()
					defer mu.Unlock()
					count[chunk.PriorityOf(ctx)]++
					return nil
				}
				d := im.open(t, r, Options{Mode: mode.mode})
				check := func(what string, demand, prefetch bool) {
					t.Helper()
					time.Sleep(time.Minute)
					mu.Lock()
					defer mu.Unlock()
					if count[chunk.Demand] > 0 != demand || count[chunk.Prefetch] > 0 != prefetch {
						t.Errorf("%s: %v", what, count)
					}
					clear(count)
				}
				prefetch := func(chunk int64) {
					if err := d.Prefetch(context.Background(), chunk*chunkSize, 512); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				im.check(t, d, 0, 512)
				check("read", true, false)
				prefetch(4)
				check("prefetch", false, true)
				prefetch(2)
				im.check(t, d, 2*chunkSize, 512) // joins it
				check("prefetch that a read joins", true, false)
			})
		})
	}
}
