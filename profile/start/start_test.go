package start

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const framesPerChunk = chunk.Size / chunk.FrameSize

// newMap returns the block map of a disk of n full chunks, each stored in half of its
// size.
func newMap(t testing.TB, n int) *blockmap.Map {
	t.Helper()
	var list []blockmap.Chunk
	for i := range n {
		list = append(list, blockmap.Chunk{Index: uint32(i), Stored: chunk.Size / 2, Size: chunk.Size, ID: chunk.ID{byte(i), byte(i >> 8), 1}, Key: blockmap.Key{1}})
	}
	b, err := blockmap.Encode(&blockmap.Info{Layout: 1, Size: int64(n) * chunk.Size, ChunkLog2: 19, FrameLog2: 16, SaltID: blockmap.SaltID{1}}, list)
	if err != nil {
		t.Fatal(err)
	}
	m, err := blockmap.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A link is a disk whose store is far: fetches take a delay and then their turn on a
// line of some bandwidth.
type link struct {
	m      *blockmap.Map
	delay  time.Duration
	second float64 // bytes in one
	fail   error   // of every fetch; nil: none

	mu        sync.Mutex
	free      time.Time // when the line is
	under     int64     // bytes
	most      int64     // of them
	fetches   []int     // positions, in the order in which they were asked for
	delivered int64
	behind    time.Duration // the longest that a fetch waited for the line
}

func (l *link) Map() *blockmap.Map { return l.m }

func (l *link) Fetch(ctx context.Context, pos int, frames disk.Frames) (disk.Brought, error) {
	n := int64(frames.Len()) * chunk.FrameSize / 2
	l.mu.Lock()
	l.fetches = append(l.fetches, pos)
	l.under += n
	l.most = max(l.most, l.under)
	l.mu.Unlock()
	time.Sleep(l.delay)
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	l.behind = max(l.behind, l.free.Sub(now))
	l.free = l.free.Add(time.Duration(float64(n) / l.second * 1e9))
	arrives := l.free
	l.mu.Unlock()
	time.Sleep(time.Until(arrives))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.under -= n
	if l.fail != nil {
		return disk.Brought{}, l.fail
	}
	l.delivered += n
	return disk.Brought{Frames: frames.Len(), Bytes: n}, ctx.Err()
}

// ofMap returns a profile of a disk's frames of one start, the first of them of each
// chunk, a millisecond after the other.
func ofMap(m *blockmap.Map, chunks, frames int) *profile.Profile {
	p := &profile.Profile{Image: m.Digest(), Starts: 1}
	for c := range chunks {
		for f := range frames {
			p.Entries = append(p.Entries, profile.Entry{Frame: profile.Frame{Chunk: uint32(c), Number: uint16(f)}, Starts: 1, At: time.Duration(len(p.Entries)) * time.Millisecond})
		}
	}
	return p
}

func newReplay(t *testing.T, d Disk, p *profile.Profile, o ReplayOptions) *Replay {
	t.Helper()
	r, err := NewReplay(d, p, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestReplayFillsTheWay wants ways of many shapes to be used nearly whole, without more
// waiting in line than the way is long.
func TestReplayFillsTheWay(t *testing.T) {
	for _, way := range []struct {
		name    string
		delay   time.Duration
		mbit    float64
		chunks  int
		frames  int
		percent int64 // of the bandwidth, at least
	}{
		{"near", 200 * time.Microsecond, 1000, 400, 4, 85},
		{"a region", 30 * time.Millisecond, 1000, 1000, 4, 70},
		{"a region, whole chunks", 30 * time.Millisecond, 1000, 1000, 8, 75},
		{"slow line", 30 * time.Millisecond, 50, 100, 4, 85},
		{"far", 150 * time.Millisecond, 200, 800, 8, 60},
	} {
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &link{m: newMap(t, way.chunks), delay: way.delay, second: way.mbit * 1e6 / 8}
				r := newReplay(t, l, ofMap(l.m, way.chunks, way.frames), ReplayOptions{Unread: 1 << 20})
				begun := time.Now()
				if err := r.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				took := time.Since(begun)
				if used := int64(float64(l.delivered) / took.Seconds() / l.second * 100); used < way.percent {
					t.Errorf("%d %% of the bandwidth used, in %v", used, took)
				}
				holds := int64(l.second * way.delay.Seconds())
				if l.most > max(4*holds, 2*FirstWindow)+chunk.Size {
					t.Errorf("%d KiB under way, of a way that holds %d KiB", l.most>>10, holds>>10)
				}
				if p := r.Progress(); p.Fetched != p.Planned || p.Bytes != l.delivered || p.Brought != p.Planned {
					t.Errorf("%+v", p)
				}
			})
		})
	}
}

// TestReplayOrder wants chunks in the order of the profile, their frames together, and
// rare frames not at all.
func TestReplayOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{m: newMap(t, 10), delay: time.Millisecond, second: 1e9}
		p := &profile.Profile{Image: l.m.Digest(), Starts: 4}
		for _, e := range []struct {
			chunk  uint32
			number uint16
			starts uint32
		}{{7, 1, 4}, {2, 0, 4}, {7, 3, 2}, {9, 0, 3}, {4, 0, 1}, {2, 5, 1}} {
			p.Entries = append(p.Entries, profile.Entry{Frame: profile.Frame{Chunk: e.chunk, Number: e.number}, Starts: e.starts})
		}
		r := newReplay(t, l, p, ReplayOptions{})
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		var planned []int
		for _, w := range r.plan {
			planned = append(planned, w.pos)
		}
		slices.Sort(l.fetches)
		if !slices.Equal(planned, []int{7, 2, 9}) || !slices.Equal(l.fetches, []int{2, 7, 9}) {
			t.Errorf("chunks %v were planned and %v fetched, want 7, 2, 9", planned, l.fetches)
		}
		if p := r.Progress(); p.Planned != 4 || p.Bytes != 4*chunk.FrameSize/2 {
			t.Errorf("%+v", p)
		}
	})
}

// TestReplayWaitsForReaders wants no more frames ahead than may be unread, and more when
// some are read.
func TestReplayWaitsForReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &link{m: newMap(t, 50), delay: time.Millisecond, second: 1e9}
		r := newReplay(t, l, ofMap(l.m, 50, 2), ReplayOptions{Unread: 20})
		ended := make(chan error)
		go func() { ended <- r.Run(t.Context()) }()
		time.Sleep(time.Minute)
		ahead := r.Progress().Brought
		if ahead < 20 || ahead > 20+MaxFetches*2 {
			t.Errorf("%d frames are ahead, want about 20", ahead)
		}
		for c := range 50 {
			r.Touch(disk.Touch{Chunk: c, Frame: 0})
			r.Touch(disk.Touch{Chunk: c, Frame: 1})
			synctest.Wait()
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if p := r.Progress(); p.Brought != 100 || p.Read != 100 || p.Named != 100 {
			t.Errorf("%+v", p)
		}
	})
}

// TestReplayEnds wants it to end, and say why, when it does not help.
func TestReplayEnds(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		opt  ReplayOptions
		fail error // of all fetches
		do   func(t *testing.T, r *Replay, cancel func())
		want error
		most int // chunks asked for
	}{
		{name: "another way", want: ErrStrange, most: 200, do: func(t *testing.T, r *Replay, _ func()) {
			for i := range judgedFrom {
				r.Touch(disk.Touch{Chunk: 900, Frame: i % framesPerChunk})
			}
		}},
		{name: "another way, in part", want: nil, most: 600, do: func(t *testing.T, r *Replay, _ func()) {
			for i := range judgedFrom {
				c := 900
				if i%3 == 0 {
					c = 0
				}
				r.Touch(disk.Touch{Chunk: c, Frame: i % framesPerChunk})
			}
		}},
		{name: "budget", opt: ReplayOptions{Budget: 10 * chunk.Size / 2}, want: ErrBudget, most: 10 + 4*FirstWindow/(chunk.Size/2)},
		{name: "failing", fail: broken, want: ErrFailing, most: 2*maxFailures + FirstWindow/(chunk.Size/2)},
		{name: "closed", fail: disk.ErrClosed, want: disk.ErrClosed, most: 1 + FirstWindow/(chunk.Size/2)},
		{name: "over", want: context.Canceled, most: 400, do: func(_ *testing.T, _ *Replay, cancel func()) { cancel() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &link{m: newMap(t, 1000), delay: 10 * time.Millisecond, second: 1e8, fail: c.fail}
				c.opt.Unread = 1 << 20
				r := newReplay(t, l, ofMap(l.m, 600, framesPerChunk), c.opt)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error)
				go func() { ended <- r.Run(ctx) }()
				time.Sleep(100 * time.Millisecond)
				if c.do != nil {
					c.do(t, r, cancel)
				}
				if err := <-ended; !errors.Is(err, c.want) {
					t.Errorf("ended with %v, want %v", err, c.want)
				}
				if len(l.fetches) > c.most {
					t.Errorf("%d chunks asked for, want at most %d", len(l.fetches), c.most)
				}
			})
		})
	}
}

// TestReplayMisfit wants a profile of another image, or with frames that there are not,
// to be refused.
func TestReplayMisfit(t *testing.T) {
	m := newMap(t, 2)
	for what, p := range map[string]*profile.Profile{
		"another image":  {Image: origin.Digest{1}, Starts: 1},
		"too many":       ofMap(m, 3, 1),
		"too many parts": ofMap(m, 1, framesPerChunk+1),
	} {
		if _, err := NewReplay(&link{m: m}, p, ReplayOptions{}); !errors.Is(err, profile.ErrMismatch) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// record tells a recorder of n frames, each the same time after the other.
func record(r *Recorder, n int, apart time.Duration) {
	for i := range n {
		r.Touch(disk.Touch{Chunk: i / framesPerChunk, Frame: i % framesPerChunk, Begun: time.Now(), Waited: time.Duration(i)})
		time.Sleep(apart)
	}
}

func TestRecorder(t *testing.T) {
	for _, c := range []struct {
		name   string
		do     func(r *Recorder)
		frames int
		length time.Duration
		after  time.Duration // when it is over
	}{
		{"quiet", func(r *Recorder) { record(r, 100, time.Second) }, 100, 99 * time.Second, 99*time.Second + DefaultQuiet},
		{"limit", func(r *Recorder) { record(r, 300, 700*time.Millisecond) }, 203, 202 * 700 * time.Millisecond, (DefaultLeast-1)*700*time.Millisecond + DefaultLimit},
		{"marked", func(r *Recorder) { record(r, 3, time.Second); r.Stop(); record(r, 9, time.Second) }, 3, 2 * time.Second, 3 * time.Second},
		{"mounted, and used later", func(r *Recorder) {
			record(r, DefaultLeast-1, time.Second)
			time.Sleep(time.Hour)
			record(r, 9, time.Second)
		}, DefaultLeast + 8, time.Hour + (DefaultLeast+7)*time.Second, time.Hour + (DefaultLeast+7)*time.Second + DefaultQuiet},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := NewRecorder(origin.Digest{7}, "work", RecordOptions{})
				if _, ok := r.Recording(); ok {
					t.Error("a recording before the start is over")
				}
				begun := time.Now()
				var reads sync.WaitGroup
				defer reads.Wait()
				reads.Go(func() { c.do(r) })
				<-r.Over()
				if took := time.Since(begun); took != c.after {
					t.Errorf("over after %v, want %v", took, c.after)
				}
				rec, ok := r.Recording()
				if !ok || rec.Image != (origin.Digest{7}) || rec.Workload != "work" || len(rec.Touches) != c.frames || rec.Length != c.length {
					t.Errorf("%d frames in %v, %v; want %d in %v", len(rec.Touches), rec.Length, ok, c.frames, c.length)
				}
				if n := r.Frames(); n != c.frames {
					t.Errorf("it tells of %d frames", n)
				}
				if _, ok := r.Recording(); ok {
					t.Error("a recording twice")
				}
				if last := rec.Touches[len(rec.Touches)-1]; last.Chunk != uint32((c.frames-1)/framesPerChunk) && c.name != "mounted, and used later" || last.At > rec.Length {
					t.Errorf("last frame %+v", last)
				}
			})
		})
	}
}

func TestRecorderUnread(t *testing.T) {
	r := NewRecorder(origin.Digest{7}, "", RecordOptions{})
	r.Stop()
	r.Stop()
	if rec, ok := r.Recording(); ok {
		t.Errorf("%+v of a disk that nobody read", rec)
	}
}

// TestRecorderBounded wants no more to be kept than a profile has, and what comes after
// the end to be ignored.
func TestRecorderBounded(t *testing.T) {
	r := NewRecorder(origin.Digest{7}, "", RecordOptions{})
	for i := range maxTouches + 10 {
		r.Touch(disk.Touch{Chunk: i, Begun: time.Now()})
	}
	r.Stop()
	r.Touch(disk.Touch{})
	if rec, ok := r.Recording(); !ok || len(rec.Touches) != maxTouches {
		t.Errorf("%d frames kept", len(rec.Touches))
	}
}
