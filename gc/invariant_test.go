package gc_test

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/gc"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// check says what is wrong at this moment: an image without a chunk, a name that
// must be there and is not, or the other way round.
func (w *world) check() {
	l, err := generation.Load(ctx, w.origin)
	if err != nil {
		w.fail("%v", err)
		return
	}
	readable := l.Readable()
	held, whole := map[origin.Digest]bool{}, map[origin.Digest]bool{} // can be found; is there
	for _, e := range l {
		for _, i := range images {
			if e.State <= generation.StateDeleted && w.holds(e.ID, i) {
				whole[i.Digest()] = true
				held[i.Digest()] = held[i.Digest()] || e.State.Readable()
			}
		}
	}
	for _, name := range imageNames {
		s := w.names[name]
		if !s.must && !s.mustNot {
			continue
		}
		d, found := w.resolve(readable, name)
		switch {
		case s.mustNot && found:
			w.fail("name %s was removed and leads to %v", name, d)
		case s.must && !found:
			w.fail("name %s is gone", name)
		case s.must && !s.may[d]:
			w.fail("name %s leads to %v, which is not what was published last", name, d)
		case s.must && !held[d]:
			w.fail("name %s leads to %v, which no generation has", name, d)
		}
	}
	for d, p := range w.pins {
		if p.must && !whole[d] {
			w.fail("pinned image %v is in no generation", d)
		}
	}
	for _, r := range w.reads {
		if r.image != nil && !whole[r.image.Digest()] {
			w.fail("attached image %v is in no generation", r.image.Digest())
		}
	}
}

// holds reports whether a generation has an image, and fails if it has the block
// map and not all chunks.
func (w *world) holds(g origin.GenerationID, i *blockmaptest.Image) bool {
	s := w.origin.Generation(g)
	if _, err := s.GetObject(ctx, i.Digest(), 1<<20); errors.Is(err, chunk.ErrNotFound) {
		return false
	}
	for _, c := range i.Chunks {
		if _, err := s.Stat(ctx, c.ID); err != nil {
			w.fail("generation %v has image %v and not its chunk: %v", g, i.Digest(), err)
		}
	}
	return true
}

func (w *world) resolve(readable []origin.GenerationID, name string) (origin.Digest, bool) {
	for _, g := range readable {
		if d, err := catalog.Get(ctx, w.origin.Generation(g), catalog.NameKey(name)); err == nil {
			return d, true
		}
	}
	return origin.Digest{}, false
}

// settleRuns is how many runs, a day apart, see all marks grow old and then every
// generation that was there before replaced.
const settleRuns = 12

// settle runs a collector often enough, with nobody else about, and checks that
// the origin has then what is wanted and nothing else.
func (w *world) settle() {
	w.check()
	c := &gc.Collector{Origin: w.origin, Policy: policy, Copies: 1, Who: "model", Now: func() time.Time { return w.now }}
	for range settleRuns {
		w.clear()
		w.now = w.now.Add(25 * time.Hour)
		if _, err := c.Run(ctx); err != nil {
			w.fail("collector alone: %v", err)
		}
		if w.check(); w.failed != nil {
			return
		}
	}
	last, err := generation.Load(ctx, w.origin)
	if err != nil {
		w.fail("%v", err)
		return
	}
	wanted := w.wanted(last)
	err = w.origin.ListGenerations(ctx, func(g origin.GenerationID) error {
		if !last.State(g).Readable() {
			w.fail("generation %v is %v and not empty", g, last.State(g))
		}
		return nil
	})
	if err != nil {
		w.fail("%v", err)
	}
	w.exactly(last.Active(), wanted)
	w.granted(last.Active())
}

// wanted is what names and pins lead to; all marks are old by now.
func (w *world) wanted(l generation.List) map[origin.Digest]bool {
	wanted := map[origin.Digest]bool{}
	for _, name := range imageNames {
		if d, ok := w.resolve(l.Readable(), name); ok {
			wanted[d] = true
		}
	}
	pins, err := generation.Pins(ctx, w.origin)
	if err != nil {
		w.fail("%v", err)
	}
	for _, p := range pins {
		wanted[p.Image] = true
	}
	return wanted
}

// exactly checks that a generation has the wanted images, and no other object or
// chunk.
func (w *world) exactly(g origin.GenerationID, wanted map[origin.Digest]bool) {
	s := w.origin.Generation(g)
	want := map[chunk.ID]bool{}
	for d := range wanted {
		i := imageOf(d)
		if !w.holds(g, i) {
			w.fail("image %v is not in generation %v", d, g)
		}
		for _, c := range i.Chunks {
			want[c.ID] = true
		}
	}
	got := map[chunk.ID]bool{}
	err := s.List(ctx, func(id chunk.ID, _ int64) error {
		got[id] = true
		return nil
	})
	if err == nil {
		err = s.ListObjects(ctx, func(d origin.Digest, _ int64) error {
			if !wanted[d] {
				w.fail("image %v is not wanted and still in generation %v", d, g)
			}
			return nil
		})
	}
	if err != nil {
		w.fail("%v", err)
	}
	if !maps.Equal(got, want) {
		w.fail("generation %v has %d chunks, the images that are wanted %d", g, len(got), len(want))
	}
}

// granted checks that every attachment that was made is there.
func (w *world) granted(g origin.GenerationID) {
	var got [][]byte
	err := w.origin.Generation(g).ListAttachments(ctx, images[0].Digest(), "age", func(b []byte) error {
		got = append(got, b)
		return nil
	})
	if err != nil {
		w.fail("%v", err)
	}
	for _, want := range w.grants {
		if !slices.ContainsFunc(got, func(b []byte) bool { return string(b) == string(want) }) {
			w.fail("attachment %q is lost", want)
		}
	}
}
