package gc_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/fsck"
	"github.com/rivuletfs/rivulet/gc"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/memory"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

const day = 24 * time.Hour

// lab is an origin with a collector whose clock is set by hand.
type lab struct {
	t   *testing.T
	o   origin.Origin
	now time.Time
	gc.Collector
}

func newLab(t *testing.T) *lab { return newLabOn(t, memory.New()) }

func newLabOn(t *testing.T, o origin.Origin) *lab {
	l := &lab{t: t, o: o, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	l.Collector = gc.Collector{Origin: l.o, Policy: gc.DefaultPolicy, Who: "test", Now: func() time.Time { return l.now }}
	_, err := generation.New(ctx, l.o, 0, l.now)
	l.ok(err)
	return l
}

func (l *lab) ok(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// run lets time pass, and collects.
func (l *lab) run(after time.Duration) *gc.Report {
	l.t.Helper()
	l.now = l.now.Add(after)
	r, err := l.Run(ctx)
	l.ok(err)
	return r
}

func (l *lab) publish(name string, i *blockmaptest.Image) {
	l.t.Helper()
	f := generation.Forwarder{Origin: l.o}
	_, _, err := f.Publish(ctx, name, func(_ context.Context, g origin.GenerationID) (origin.Digest, error) {
		return i.Digest(), i.Put(ctx, l.o.Generation(g))
	})
	l.ok(err)
}

func (l *lab) view() *generation.View {
	return generation.NewView(l.o, generation.Options{Who: "reader", Now: func() time.Time { return l.now }})
}

// states checks the list.
func (l *lab) states(want ...generation.State) {
	l.t.Helper()
	list, err := generation.Load(ctx, l.o)
	l.ok(err)
	var got []generation.State
	for _, e := range list {
		got = append(got, e.State)
	}
	if !slices.Equal(got, want) {
		l.t.Errorf("states %v, want %v", got, want)
	}
}

// chunks counts what lies in a generation.
func (l *lab) chunks(g origin.GenerationID) (n int) {
	l.t.Helper()
	l.ok(l.o.Generation(g).List(ctx, func(chunk.ID, int64) error { n++; return nil }))
	return n
}

// TestCycle takes one generation through its life by age, in every kind of store
// that can be written.
func TestCycle(t *testing.T) {
	for name, url := range map[string]func(t *testing.T) string{
		"directory": func(t *testing.T) string { return "dir:" + t.TempDir() },
		"bucket": func(t *testing.T) string {
			server := s3test.Start(t)
			return server.URL(server.NewBucket(t), "prefix")
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := store.Open(ctx, url(t), store.Options{Create: true})
			if err != nil {
				t.Fatal(err)
			}
			cycle(newLabOn(t, o))
			if r, err := fsck.Check(ctx, o, fsck.Options{Deep: true}); err != nil || !r.Sound() || r.Images != 1 || len(r.Leftovers) > 0 {
				t.Errorf("in the end: %+v, %v", r, err)
			}
		})
	}
	t.Run("memory", func(t *testing.T) { cycle(newLab(t)) })
}

func cycle(l *lab) {
	t := l.t
	kept, dropped := blockmaptest.Small(1, 3), blockmaptest.Small(2, 4)
	l.publish("kept", kept)
	l.publish("dropped", dropped)
	if r := l.run(29 * day); len(r.Made) != 0 || r.Images != 2 || r.Active != 1 {
		t.Errorf("before it is time: %+v", r)
	}
	l.ok(l.view().Remove(ctx, "dropped"))
	if r := l.run(day); !slices.Equal(r.Made, []origin.GenerationID{2}) || r.Carried != 1 || r.Copied != 3 {
		t.Errorf("new generation: %+v", r)
	}
	l.states(generation.StateRetired, generation.StateActive)
	if r := l.run(6 * day); len(r.Expired) != 0 || r.Copied != 0 {
		t.Errorf("too early: %+v", r)
	}
	if r := l.run(day); !slices.Equal(r.Expired, []origin.GenerationID{1}) || len(r.Deleted) != 0 {
		t.Errorf("expire: %+v", r)
	}
	l.states(generation.StateExpired, generation.StateActive)
	if n := l.chunks(1); n != 7 {
		t.Errorf("%d chunks before deletion", n)
	}
	if r := l.run(7 * day); !slices.Equal(r.Deleted, []origin.GenerationID{1}) {
		t.Errorf("delete: %+v", r)
	}
	if l.chunks(1) != 0 || l.chunks(2) != 3 {
		t.Errorf("%d and %d chunks", l.chunks(1), l.chunks(2))
	}
	l.states(generation.StateErased, generation.StateActive)
	img, err := l.view().Open(ctx, "kept")
	if err != nil || img.Generation() != 2 {
		t.Errorf("the kept image: %v, %v", img, err)
	}
	l.Policy.New = 1000 * day
	l.run(89 * day)
	l.states(generation.StateErased, generation.StateActive)
	l.run(2 * day)
	l.states(generation.StateActive)
}

// TestReadKeeps has an image that is read only by its digest.
func TestReadKeeps(t *testing.T) {
	l := newLab(t)
	img := blockmaptest.Small(1, 3)
	l.publish("x", img)
	at, err := l.view().Attach(ctx, "x")
	l.ok(err)
	l.ok(l.view().Remove(ctx, "x"))
	for range 60 { // days
		l.run(day)
		l.ok(generation.Mark(ctx, l.o, img.Digest(), l.now))
		for _, c := range img.Chunks {
			l.ok(readOne(at, c))
		}
	}
	if alarms, err := generation.Alarms(ctx, l.o); err != nil || len(alarms) != 0 {
		t.Errorf("alarms %+v, %v", alarms, err)
	}
	unmarked := 0
	for range 60 {
		unmarked += l.run(day).Unmarked
	}
	if unmarked != 1 {
		t.Errorf("%d marks removed", unmarked)
	}
	if _, err := l.view().Open(ctx, img.Digest().String()); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("nobody reads it any more, and it is there: %v", err)
	}
}

// expired makes generation 1 expired, with an image that nobody wants.
func expired(t *testing.T) (*lab, *blockmaptest.Image) {
	l := newLab(t)
	img := blockmaptest.Small(1, 3)
	l.publish("x", img)
	l.ok(l.view().Remove(ctx, "x"))
	l.run(30 * day)
	l.run(7 * day)
	l.states(generation.StateExpired, generation.StateActive)
	return l, img
}

func TestAlarmStopsDeletion(t *testing.T) {
	l, img := expired(t)
	_, err := l.view().Open(ctx, img.Digest().String())
	l.ok(err)
	for range 3 {
		if r := l.run(7 * day); len(r.Deleted) != 0 || len(r.Alarms) != 1 || r.Alarms[0].Reason != generation.ReasonExpired {
			t.Errorf("with an alarm: %+v", r)
		}
	}
	if _, err := l.Delete(ctx, 1); !errors.Is(err, gc.ErrAlarm) {
		t.Errorf("by hand: %v", err)
	}
	l.states(generation.StateExpired, generation.StateActive)
	alarms, err := generation.Alarms(ctx, l.o)
	l.ok(err)
	l.ok(generation.Clear(ctx, l.o, alarms[0].Name))
	if r := l.run(0); !slices.Equal(r.Deleted, []origin.GenerationID{1}) {
		t.Errorf("when it is cleared: %+v", r)
	}
}

// TestAlarmStopsErasing raises one when the generation is given up and not yet
// removed.
func TestAlarmStopsErasing(t *testing.T) {
	l, img := expired(t)
	for _, s := range []generation.State{generation.StateDeleted, generation.StateErased} {
		l.ok(generation.Advance(ctx, l.o, 1, s-1, s, l.now))
	}
	l.ok(generation.Raise(ctx, l.o, generation.Alarm{Generation: 1, Image: img.Digest().String()}))
	if r := l.run(0); len(r.Alarms) != 1 || l.chunks(1) != 3 {
		t.Errorf("%+v, %d chunks", r, l.chunks(1))
	}
	l.ok(generation.Clear(ctx, l.o, "1/"+chunk.ID(img.Digest()).String()))
	l.run(0)
	if l.chunks(1) != 0 {
		t.Errorf("%d chunks", l.chunks(1))
	}
}

// closed makes generation 1 closed, and its image wanted after all.
func closed(t *testing.T, want func(l *lab, img *blockmaptest.Image) error) (*lab, *blockmaptest.Image) {
	l, img := expired(t)
	l.ok(generation.Advance(ctx, l.o, 1, generation.StateExpired, generation.StateDeleted, l.now))
	l.ok(want(l, img))
	return l, img
}

// blind is an origin that shows no names and no marks.
type blind struct{ origin.Origin }

type blindStore struct{ origin.Store }

func (o blind) Generation(g origin.GenerationID) origin.Store {
	return blindStore{o.Origin.Generation(g)}
}

func (o blind) ListPointers(ctx context.Context, prefix string, fn func(string) error) error {
	if prefix == "marks/" {
		return nil
	}
	return o.Origin.ListPointers(ctx, prefix, fn)
}

func (blindStore) ListPointers(context.Context, string, func(string) error) error { return nil }

// TestLastLook has something become wanted between the copying and the closing of
// a generation: by a publisher that comes late, and by a mark.
func TestLastLook(t *testing.T) {
	for name, want := range map[string]func(l *lab, img *blockmaptest.Image) error{
		"name": func(l *lab, img *blockmaptest.Image) error {
			_, err := catalog.SetName(ctx, l.o.Generation(1), "late", img.Digest())
			return err
		},
		"mark": func(l *lab, img *blockmaptest.Image) error { return generation.Mark(ctx, l.o, img.Digest(), l.now) },
	} {
		t.Run(name, func(t *testing.T) {
			l, img := closed(t, want)
			l.Origin = blind{l.o} // a collector that skips the last look loses the image
			if r := l.run(0); !slices.Equal(r.Deleted, []origin.GenerationID{1}) {
				t.Errorf("blind: %+v", r)
			}
			if _, err := l.view().Open(ctx, img.Digest().String()); !errors.Is(err, chunk.ErrNotFound) {
				t.Errorf("blind: %v", err)
			}

			l, img = closed(t, want)
			r := l.run(0)
			if len(r.Deleted) != 0 || len(r.Alarms) != 1 || r.Alarms[0].Reason != generation.ReasonWanted {
				t.Errorf("%+v", r)
			}
			l.states(generation.StateExpired, generation.StateActive)
			l.ok(generation.Clear(ctx, l.o, r.Alarms[0].Name))
			if r := l.run(8 * day); !slices.Equal(r.Deleted, []origin.GenerationID{1}) {
				t.Errorf("when it was copied: %+v", r)
			}
			if _, err := l.view().Open(ctx, img.Digest().String()); err != nil {
				t.Error(err)
			}
		})
	}
}

// overtaken is an origin in which something happens while objects are listed.
type overtaken struct {
	origin.Origin
	happens func()
}

type overtakenStore struct {
	origin.Store
	happens func()
}

func (o overtaken) Generation(g origin.GenerationID) origin.Store {
	return overtakenStore{o.Origin.Generation(g), o.happens}
}

func (s overtakenStore) ListObjects(ctx context.Context, fn func(origin.Digest, int64) error) error {
	s.happens()
	return s.Store.ListObjects(ctx, fn)
}

// TestStaleLook has others make a new generation while a collector carries images
// to the one before: that must not expire by this run, which has not looked for
// what it has.
func TestStaleLook(t *testing.T) {
	l := newLab(t)
	l.publish("x", blockmaptest.Small(1, 3))
	l.Policy.New, l.Policy.Retired, l.Policy.Soak = day, 0, 0
	_, err := generation.New(ctx, l.o, 1, l.now)
	l.ok(err)
	late := blockmaptest.Small(2, 3)
	l.publish("late", late)
	l.Origin = overtaken{l.o, func() { // by many, each a new one
		list, err := generation.Load(ctx, l.o)
		l.ok(err)
		_, err = generation.New(ctx, l.o, list.Active(), l.now)
		l.ok(err)
	}}
	r := l.run(0)
	if !slices.Equal(r.Expired, []origin.GenerationID{1}) {
		t.Errorf("expired: %v", r.Expired)
	}
	list, err := generation.Load(ctx, l.o)
	if err != nil || list.State(2) != generation.StateRetired {
		t.Errorf("the generation that became retired meanwhile is %v, %v", list.State(2), err)
	}
	if _, err := l.view().Open(ctx, "late"); err != nil {
		t.Error(err)
	}
	if alarms, err := generation.Alarms(ctx, l.o); err != nil || len(alarms) > 0 {
		t.Errorf("alarms %+v, %v", alarms, err)
	}
}

// TestIncompleteImage has a chunk missing: nothing may expire.
func TestIncompleteImage(t *testing.T) {
	l := newLab(t)
	bad, good := blockmaptest.Small(1, 3), blockmaptest.Small(2, 3)
	l.publish("bad", bad)
	l.publish("good", good)
	l.ok(l.o.Generation(1).Remove(ctx, bad.Chunks[1].ID))
	for range 5 {
		l.now = l.now.Add(30 * day)
		if _, err := l.Run(ctx); !errors.Is(err, chunk.ErrNotFound) {
			t.Fatalf("Run: %v", err)
		}
	}
	list, err := generation.Load(ctx, l.o)
	l.ok(err)
	if list.State(1) != generation.StateRetired {
		t.Errorf("generation 1 is %v", list.State(1))
	}
	if img, err := l.view().Open(ctx, "good"); err != nil || img.Generation() != list.Active() {
		t.Errorf("the other image: %v, %v", img, err)
	}
	_, err = l.o.Generation(1).Put(ctx, bad.Chunks[1].ID, bad.Chunks[1].Bytes)
	l.ok(err)
	l.run(0)
}

// TestLost has a name whose image is nowhere: it is reported, and stops nothing.
func TestLost(t *testing.T) {
	l := newLab(t)
	_, err := catalog.SetName(ctx, l.o.Generation(1), "x", origin.Sum(nil))
	l.ok(err)
	if r := l.run(30 * day); !slices.Equal(r.Lost, []string{origin.Sum(nil).String()}) {
		t.Errorf("%+v", r)
	}
}

// TestLateWrites removes what is written into a generation that is gone.
func TestLateWrites(t *testing.T) {
	l, _ := expired(t)
	l.run(7 * day)
	l.ok(blockmaptest.Small(7, 2).Put(ctx, l.o.Generation(1)))
	l.Policy.Forget = 0
	l.run(day)
	l.states(generation.StateActive)
	l.ok(blockmaptest.Small(8, 2).Put(ctx, l.o.Generation(1)))
	l.ok(blockmaptest.Small(9, 2).Put(ctx, l.o.Generation(9))) // nobody's: not ours to remove
	l.run(0)
	if l.chunks(1) != 0 || l.chunks(9) != 2 {
		t.Errorf("%d and %d chunks", l.chunks(1), l.chunks(9))
	}
}

// TestFullList has as many generations as can be listed: runs make room.
func TestFullList(t *testing.T) {
	l := newLab(t)
	l.publish("x", blockmaptest.Small(1, 3))
	for id := origin.GenerationID(1); id < generation.MaxListed; id++ {
		_, err := generation.New(ctx, l.o, id, l.now)
		l.ok(err)
	}
	l.now = l.now.Add(40 * day)
	if r, err := l.Run(ctx); err == nil || len(r.Expired) != generation.MaxListed-1 {
		t.Errorf("%d expired, %v", len(r.Expired), err)
	}
	l.now = l.now.Add(8 * day)
	if r, err := l.Run(ctx); err == nil || len(r.Deleted) != generation.MaxListed-1 {
		t.Errorf("%d deleted, %v", len(r.Deleted), err)
	}
	if r := l.run(0); !slices.Equal(r.Made, []origin.GenerationID{generation.MaxListed + 1}) {
		t.Errorf("when there is room: %+v", r)
	}
	if _, err := l.view().Open(ctx, "x"); err != nil {
		t.Error(err)
	}
}

func TestByHand(t *testing.T) {
	l := newLab(t)
	l.publish("x", blockmaptest.Small(1, 3))
	for _, try := range []func(context.Context, origin.GenerationID) (*gc.Report, error){l.Expire, l.Delete} {
		if _, err := try(ctx, 1); !errors.Is(err, generation.ErrState) {
			t.Errorf("out of turn: %v", err)
		}
	}
	r, err := l.Retire(ctx, 1)
	if err != nil || !slices.Equal(r.Made, []origin.GenerationID{2}) || r.Copied != 3 {
		t.Errorf("Retire: %+v, %v", r, err)
	}
	if _, err := l.Retire(ctx, 5); !errors.Is(err, generation.ErrState) {
		t.Errorf("Retire of nothing: %v", err)
	}
	for _, step := range []func(context.Context, origin.GenerationID) (*gc.Report, error){l.Expire, l.Delete} {
		_, err := step(ctx, 1)
		l.ok(err)
	}
	l.states(generation.StateErased, generation.StateActive)
	l.Policy.Recent = day
	if _, err := l.Run(ctx); err == nil {
		t.Error("a policy that forgets readers within a day is accepted")
	}
}

func TestPlan(t *testing.T) {
	l := newLab(t)
	a, b := blockmaptest.Small(1, 3), blockmaptest.Small(2, 4)
	l.publish("a", a)
	l.publish("b", b)
	l.ok(l.view().Remove(ctx, "b"))
	_, err := generation.New(ctx, l.o, 1, l.now)
	l.ok(err)
	_, err = l.view().Attach(ctx, "a")
	l.ok(err)
	for _, start := range []profile.Recording{{Image: a.Digest()}, {Image: a.Digest(), Workload: "w"}, {Image: b.Digest()}} {
		_, err := generation.AddProfile(ctx, l.o, start.Profile())
		l.ok(err)
	}
	p, err := l.Plan(ctx)
	l.ok(err)
	if len(p.Generations) != 2 || len(p.Images) != 1 {
		t.Fatalf("%+v", p)
	}
	active, old := p.Generations[0], p.Generations[1]
	if active.ID != 2 || active.Images != 0 || !active.Due.Equal(l.now.Add(30*day)) {
		t.Errorf("active: %+v", active)
	}
	if old.ID != 1 || old.Images != 2 || old.Chunks != 7 || old.GoChunks != 4 || old.CopyBytes == 0 || old.CopyBytes+old.GoBytes != old.Bytes ||
		!slices.Equal(old.Unwanted, []string{b.Digest().String()}) || !old.Due.Equal(l.now.Add(7*day)) {
		t.Errorf("retired: %+v", old)
	}
	i := p.Images[0]
	if i.BlockMap != a.Digest().String() || !slices.Equal(i.Why.Names, []string{"a"}) || i.Why.Read == nil || i.Why.Pinned || !slices.Equal(i.In, []origin.GenerationID{1}) || i.Profiles != 2 {
		t.Errorf("image: %+v", i)
	}
	if _, err := json.Marshal(p); err != nil {
		t.Error(err)
	}
	l.states(generation.StateRetired, generation.StateActive)
	if l.chunks(2) != 0 {
		t.Error("planning has copied")
	}
}
