package start

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// A keeper is a cache that notes what is read through it.
type keeper struct {
	mu    sync.Mutex
	reads map[chunk.ID]int
	low   bool // all had the lowest priority
	fail  func(id chunk.ID, try int) error
}

func (k *keeper) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reads[id]++
	k.low = k.low && chunk.PriorityOf(ctx) == chunk.Fill
	if k.fail != nil {
		if err := k.fail(id, k.reads[id]); err != nil {
			return 0, err
		}
	}
	return len(dst), ctx.Err()
}

// TestFill wants all of a disk to be read once, behind all else, at the rate that was
// asked for, and nothing while it is paused or the cache is away.
func TestFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMap(t, 100)
		k := &keeper{reads: make(map[chunk.ID]int), low: true}
		var away atomic.Bool
		away.Store(true)
		f := NewFill(m, k, FillOptions{Rate: 10 * chunk.Size / 2, Away: func(chunk.ID) bool { return away.Load() }})
		ended := make(chan error)
		begun := time.Now()
		go func() { ended <- f.Run(t.Context()) }()
		time.Sleep(10*time.Second + time.Millisecond)
		if p := f.Progress(); p.Done != 0 || p.Chunks != 100 {
			t.Errorf("while the cache is away: %+v", p)
		}
		away.Store(false)
		time.Sleep(3 * time.Second)
		f.Pause(true)
		f.Pause(true)
		synctest.Wait()
		before := f.Progress()
		if !before.Paused || before.Done < 30 || before.Done > 42 {
			t.Errorf("after 3 s of 10 chunks each: %+v", before)
		}
		time.Sleep(time.Hour)
		if p := f.Progress(); p.Done > before.Done+1 {
			t.Errorf("while it is paused: %+v, before that %+v", p, before)
		}
		f.Pause(false)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if p := f.Progress(); p.Done != 100 || p.Bytes != 100*chunk.Size/2 || p.Paused || !k.low || len(k.reads) != 100 {
			t.Errorf("%+v; %d chunks read, lowest priority: %v", p, len(k.reads), k.low)
		}
		if took := time.Since(begun) - time.Hour; took < 17*time.Second || took > 21*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A hoard is a cache that has an extract of each chunk, until it is asked for all frames.
type hoard struct {
	mu    sync.Mutex
	asked map[chunk.ID]chunk.Extract
}

func (h *hoard) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, _ int64) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked[id] |= chunk.ExtractOf(ctx)
	chunk.TraceOf(ctx).Add(chunk.Step{Tier: chunk.HostCache, ID: id})
	return len(dst), nil
}

// TestFillCompletes wants a cache that has a chunk's header to be asked for all of its frames:
// it may have no more than some.
func TestFillCompletes(t *testing.T) {
	m := newMap(t, 5)
	h := &hoard{asked: make(map[chunk.ID]chunk.Extract)}
	if err := NewFill(m, h, FillOptions{}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range m.Len() {
		c := m.Chunk(i)
		frames := (int(c.Size) + chunk.FrameSize - 1) / chunk.FrameSize
		if want := chunk.Extract(1)<<frames - 1; h.asked[c.ID] != want {
			t.Errorf("chunk %d: asked for frames %x, want %x", i, h.asked[c.ID], want)
		}
	}
}

// TestFillFails wants what fails to be tried again, and told of in the end.
func TestFillFails(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		fail func(id chunk.ID, try int) error
		want error
		done int
	}{
		{"for a while", func(id chunk.ID, try int) error {
			if id[0]%2 == 0 && try < fillPasses {
				return broken
			}
			return nil
		}, nil, 20},
		{"for good", func(id chunk.ID, _ int) error {
			if id[0] == 7 {
				return broken
			}
			return nil
		}, broken, 19},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := NewFill(newMap(t, 20), &keeper{reads: make(map[chunk.ID]int), fail: c.fail}, FillOptions{})
				if err := f.Run(t.Context()); !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if p := f.Progress(); p.Done != c.done || p.Failed != 20-c.done {
					t.Errorf("%+v", p)
				}
			})
		})
	}
}

// TestFillEnds wants a Fill to end with its context, wherever it waits.
func TestFillEnds(t *testing.T) {
	for name, opt := range map[string]FillOptions{
		"rate": {Rate: 1},
		"away": {Away: func(chunk.ID) bool { return true }},
		"":     {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := NewFill(newMap(t, 20), &keeper{reads: make(map[chunk.ID]int)}, opt)
				f.Pause(name == "")
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := f.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		})
	}
}
