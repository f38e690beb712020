package disk

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/seal"
)

// only returns a set of frames.
func only(list ...int) (s Frames) {
	for _, i := range list {
		s.Add(i)
	}
	return s
}

// touches collects what a disk tells of first reads.
type touches struct {
	mu   sync.Mutex
	list []Touch
}

func (s *touches) add(t Touch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, t)
}

// TestTouch reads frames in all ways that there are, many times, and wants each to be
// told of once, with how long it was waited for.
func TestTouch(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				im := newImage(t, 3, 3)
				r := im.reader()
				r.before = func(context.Context, int) error { time.Sleep(time.Millisecond); return nil }
				d := im.open(t, r, Options{Mode: mode.mode})
				var told touches
				d.OnTouch(told.add)
				begun := time.Now()
				together(4, func(int) { im.check(t, d, 2*frameSize-1, 2) })
				im.check(t, d, 0, 4*frameSize)
				im.check(t, d, 0, 4*frameSize)
				slices.SortFunc(told.list, func(a, b Touch) int { return a.Frame - b.Frame })
				var frames []int
				for _, touch := range told.list {
					frames = append(frames, touch.Frame)
					waits := mode.mode == SingleFrames || touch.Frame == 1 || touch.Frame == 2
					if touch.Chunk != 0 || touch.Begun.Before(begun) || waits != (touch.Waited > 0) {
						t.Errorf("touch %+v", touch)
					}
				}
				if !slices.Equal(frames, []int{0, 1, 2, 3}) {
					t.Errorf("frames %v are told of, want 0 to 3, once each", frames)
				}
				d.OnTouch(nil)
				im.check(t, d, 0, len(im.flat))
				touched, all := d.Touched()
				if s := d.Stats(); touched != all || s.Touched != all || len(told.list) != 4 {
					t.Errorf("%d frames of %d touched, stats %+v, %d told of", touched, all, s, len(told.list))
				}
			})
		})
	}
}

// TestTouchFailed wants no touch of what could not be read.
func TestTouchFailed(t *testing.T) {
	im := newImage(t, 1, 3)
	r := im.reader()
	r.before = func(context.Context, int) error { return chunk.ErrNotFound }
	d := im.open(t, r, Options{})
	if _, err := d.ReadAt(make([]byte, 1), 0); err == nil {
		t.Fatal("a chunk that is missing was read")
	}
	if n, _ := d.Touched(); n != 0 {
		t.Errorf("%d frames touched", n)
	}
}

// TestFetch wants frames that were fetched ahead to be hits, and counted as used when
// they are read and not before; what memory has, or was read, is not fetched.
func TestFetch(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			im := newImage(t, 3, 3)
			r := im.reader()
			d := im.open(t, r, Options{Mode: mode.mode})
			for range 2 {
				if b, err := d.Fetch(t.Context(), 0, only(1, 2, 5)); err != nil || b.Bytes > 3*frameSize+int64(chunk.HeaderLen(8)) {
					t.Errorf("brought %+v, %v", b, err)
				}
			}
			if n := r.calls.Load(); n != 3 { // header, two runs
				t.Errorf("%d requests for two runs of frames", n)
			}
			misses := d.Stats().Misses
			im.check(t, d, frameSize, 2*frameSize)
			s := d.Stats()
			if s.Misses != misses || s.Ahead != 3 || s.AheadUsed != 2 || s.AheadBytes != s.FetchedBytes || r.calls.Load() != 3 {
				t.Errorf("after reading two of three: %+v", s)
			}
			im.check(t, d, 0, frameSize) // by demand: no frame fetched ahead
			if b, err := d.Fetch(t.Context(), 0, only(0, 1, 2, 5)); err != nil || b != (Brought{}) {
				t.Errorf("brought %+v, %v of what there was", b, err)
			}
			if s := d.Stats(); s.Ahead != 3 || s.AheadUsed != 2 {
				t.Errorf("a read by demand counts as ahead: %+v", s)
			}
		})
	}
}

func TestFetchNearlyWhole(t *testing.T) {
	im := newImage(t, 3, 3)
	r := im.reader()
	d := im.open(t, r, Options{})
	b, err := d.Fetch(t.Context(), 0, only(0, 1, 2, 4, 5, 7))
	if err != nil || b.Bytes != int64(im.m.Chunk(0).Stored) || b.Frames != 6 || r.calls.Load() != 1 {
		t.Errorf("brought %+v by %d requests, %v; want the whole chunk by one", b, r.calls.Load(), err)
	}
	if s := d.Stats(); s.Ahead != 6 {
		t.Errorf("%d frames ahead, want those that were asked for", s.Ahead)
	}
}

// TestFetchWrong wants an error for what the disk does not have.
func TestFetchWrong(t *testing.T) {
	im := newImage(t, 3, 3)
	d := im.open(t, im.reader(), Options{})
	for what, fetch := range map[string]func() (Brought, error){
		"negative chunk": func() (Brought, error) { return d.Fetch(t.Context(), -1, only(0)) },
		"no such chunk":  func() (Brought, error) { return d.Fetch(t.Context(), im.m.Len(), only(0)) },
		"no such frame":  func() (Brought, error) { return d.Fetch(t.Context(), 0, only(8)) },
		"last frame":     func() (Brought, error) { return d.Fetch(t.Context(), 0, only(chunk.MaxFrames-1)) },
	} {
		if b, err := fetch(); err == nil || b != (Brought{}) {
			t.Errorf("%s: %+v, %v", what, b, err)
		}
	}
	if b, err := d.Fetch(t.Context(), 0, Frames{}); err != nil || b != (Brought{}) {
		t.Errorf("no frames: %+v, %v", b, err)
	}
}

// TestFetchJoins has reads and Fetches of overlapping frames at once: nothing is
// fetched twice, a read becomes a demand of what is queued, and each Fetch returns
// when its frames are there.
func TestFetchJoins(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				im := newImage(t, 3, 3)
				r := im.reader()
				r.before = func(ctx context.Context, call int) error {
					time.Sleep(time.Second)
					return nil
				}
				d := im.open(t, r, Options{Mode: mode.mode})
				var done sync.WaitGroup
				fetch := func(frames ...int) {
					done.Go(func() {
						if _, err := d.Fetch(t.Context(), 0, only(frames...)); err != nil {
							t.Error(err)
						}
						for _, i := range frames {
							c := im.m.Chunk(0)
							if key := d.key(&c, uint32(i)); !d.memory.has(&key) {
								t.Errorf("frame %d is not there", i)
							}
						}
					})
					synctest.Wait()
				}
				fetch(1, 2)
				fetch(1, 2, 3) // waits for the first
				done.Go(func() { im.check(t, d, 2*frameSize, 10) })
				synctest.Wait()
				d.mu.Lock()
				f := d.fetching(0, 2)
				demanded := f != nil && !f.demanded.IsZero() && f.urgency.Priority() == chunk.Demand
				d.mu.Unlock()
				if !demanded {
					t.Error("a read does not raise what is fetched ahead")
				}
				done.Wait()
				c := im.m.Chunk(0)
				if got, most := d.Stats().FetchedBytes, int64(3*frameSize+2*chunk.HeaderLen(d.frames(&c))); got > most {
					t.Errorf("%d bytes fetched of three frames, want at most %d", got, most)
				}
			})
		})
	}
}

// TestFetchEnds wants a Fetch to return when its context ends and when the disk is
// closed, and to say why it failed.
func TestFetchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImage(t, 8, 3)
		r := im.reader()
		r.before = hang
		opener, err := seal.NewOpener()
		if err != nil {
			t.Fatal(err)
		}
		defer opener.Close()
		d, err := Open(im.m, r, Options{Opener: opener, Fetches: 2})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := d.Fetch(ctx, 0, only(0)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the context: %v", err)
		}
		ended := make(chan error)
		for pos := range 3 { // one runs, the others are queued
			go func() {
				_, err := d.Fetch(t.Context(), pos, only(0))
				ended <- err
			}()
		}
		synctest.Wait()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		for range 3 {
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		}
		if _, err := d.Fetch(t.Context(), 0, only(0)); !errors.Is(err, ErrClosed) {
			t.Errorf("of a closed disk: %v", err)
		}
	})
}

func TestFetchFails(t *testing.T) {
	im := newImage(t, 3, 3)
	r := im.reader()
	r.before = func(context.Context, int) error { return chunk.ErrNotFound }
	d := im.open(t, r, Options{})
	if _, err := d.Fetch(t.Context(), 0, only(0)); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a missing chunk: %v", err)
	}
	if s := d.Stats(); s.Ahead != 0 || s.Errors != 0 {
		t.Errorf("%+v", s)
	}
}

// TestFetchNear wants nothing to be fetched that is near at hand.
func TestFetchNear(t *testing.T) {
	im := newImage(t, 3, 3)
	r := im.reader()
	near := &hookReader{chunks: objects{im.m.Chunk(1).ID: im.chunks[im.m.Chunk(1).ID]}}
	d := im.open(t, r, Options{Mode: SingleFrames, Near: near})
	if b, err := d.Fetch(t.Context(), 1, only(0)); err != nil || b != (Brought{}) || r.calls.Load() != 0 {
		t.Errorf("near: brought %+v by %d requests, %v", b, r.calls.Load(), err)
	}
	if b, err := d.Fetch(t.Context(), 0, only(0)); err != nil || b.Frames != 1 {
		t.Errorf("not near: brought %+v, %v", b, err)
	}
}

// TestFetchBehindReads wants reads to be served before what is fetched ahead, and half
// of the window to be left to them.
func TestFetchBehindReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImage(t, 30, 3)
		r := im.reader()
		r.before = func(context.Context, int) error { time.Sleep(time.Second); return nil }
		d := im.open(t, r, Options{Fetches: 4})
		var done sync.WaitGroup
		for pos := range 10 {
			done.Go(func() {
				if _, err := d.Fetch(t.Context(), pos, only(0)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if n := r.active.Load(); n != 2 {
			t.Errorf("%d fetches ahead at once, want half of 4", n)
		}
		begun := time.Now()
		c := im.m.Chunk(15)
		im.check(t, d, int(c.Index)*chunkSize, 10)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("a read took %v behind fetches ahead", took)
		}
		done.Wait()
	})
}

// TestOnward: where requests take long, a read that goes on through a chunk brings as many
// frames as were read before it, and no other does.
func TestOnward(t *testing.T) {
	for name, c := range map[string]struct {
		far    bool
		before Frames // fetched ahead
		read   []int
		want   int64 // frames in memory
	}{
		"goes on":          {far: true, read: []int{0, 1, 2}, want: 4},
		"goes on and on":   {far: true, read: []int{0, 1, 2, 3, 4}, want: 8},
		"to the end":       {far: true, read: []int{3, 4, 5, 6, 7}, want: 5},
		"backwards":        {far: true, read: []int{5, 4, 3}, want: 3},
		"here and there":   {far: true, read: []int{0, 2, 4, 6}, want: 4},
		"near":             {read: []int{0, 1, 2}, want: 3},
		"what was brought": {far: true, before: only(0, 1), read: []int{0, 1, 2}, want: 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				im := newImage(t, 3, 3)
				memory := NewMemory(DefaultMemory)
				d := im.open(t, im.reader(), Options{Mode: SingleFrames, Far: c.far, Memory: memory})
				if _, err := d.Fetch(t.Context(), 0, c.before); err != nil {
					t.Fatal(err)
				}
				for _, frame := range c.read {
					im.check(t, d, frame*frameSize, 100)
					synctest.Wait() // for what comes behind it
				}
				if got := memory.Used() / (frameSize + frameOverhead); got != c.want {
					t.Errorf("%d frames in memory, want %d", got, c.want)
				}
				if s := d.Stats(); s.Ahead != int64(c.before.Len()) {
					t.Errorf("%d frames count as fetched ahead, want %d", s.Ahead, c.before.Len())
				}
				im.check(t, d, 0, chunkSize)
			})
		})
	}
}

// TestOnwardHasItsFrame: a flight for a read brings that read's frame, though another disk has brought it to
// memory since the read looked there.
func TestOnwardHasItsFrame(t *testing.T) {
	im := newImage(t, 3, 3)
	d := im.open(t, im.reader(), Options{Mode: SingleFrames, Far: true})
	for i := range onwardFrom {
		im.check(t, d, i*frameSize, 100)
	}
	if _, err := d.Fetch(t.Context(), 0, only(onwardFrom)); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	on := d.onward(&piece{pos: 0, frame: onwardFrom, chunk: d.m.Chunk(0)})
	if !on.Has(onwardFrom) || on.Len() != onwardFrom {
		t.Errorf("frames %b, want %d from %d on", on[0], onwardFrom, onwardFrom)
	}
}

// TestLetGoMeanwhile: nothing of what comes while LetGo runs stays, or counts as used when it is read.
func TestLetGoMeanwhile(t *testing.T) {
	im := newImage(t, 1, 3)
	d := im.open(t, im.reader(), Options{Mode: SingleFrames})
	c := d.m.Chunk(0)
	key := d.key(&c, 0)
	for range 2000 {
		d.ebb.Store(false)
		f := &flight{unit: unit{0, someFrames}, chunk: c, urgency: chunk.NewUrgency(chunk.Prefetch), wanted: only(0), slots: make([]slot, d.frames(&c))}
		fr := d.memory.buffer(frameSize)
		var both sync.WaitGroup
		both.Go(func() { d.deliver(f, 0, fr) })
		both.Go(d.LetGo)
		both.Wait()
		fr.release()
		if d.memory.has(&key) || d.marks.get(0, 0) != 0 {
			t.Fatalf("in memory: %v, marks %b", d.memory.has(&key), d.marks.get(0, 0))
		}
	}
}

// TestLetGo: what was brought ahead and not read goes, also what comes after that; all else
// stays, and what went is read again.
func TestLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		im := newImage(t, 3, 3)
		memory := NewMemory(DefaultMemory)
		r := im.reader()
		d := im.open(t, r, Options{Mode: SingleFrames, Memory: memory})
		if _, err := d.Fetch(t.Context(), 0, only(1, 2, 5)); err != nil {
			t.Fatal(err)
		}
		im.check(t, d, frameSize, 100)
		im.check(t, d, 7*frameSize, 100)
		r.before = func(context.Context, int) error { time.Sleep(time.Second); return nil }
		late, cut := context.WithTimeout(t.Context(), time.Millisecond)
		defer cut()
		if _, err := d.Fetch(late, 1, only(3, 4)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		d.LetGo()
		time.Sleep(time.Minute)
		if used := memory.Used(); used != 2*(frameSize+frameOverhead) {
			t.Errorf("%d bytes in memory, want the two frames that were read", used)
		}
		misses := d.Stats().Misses
		im.check(t, d, frameSize, 100)
		im.check(t, d, 2*frameSize, 100)
		im.check(t, d, 11*frameSize, 100)
		s := d.Stats()
		if got := s.Misses - misses; got != 2 {
			t.Errorf("%d misses, want 2", got)
		}
		if s.Ahead != 5 || s.AheadUsed != 1 {
			t.Errorf("%d frames of %d count as used, want the one that was read before the others were let go", s.AheadUsed, s.Ahead)
		}
	})
}
