package gc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/gc"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// publish begins a publication of an image under a name.
func (w *world) publish(name string, i *blockmaptest.Image) {
	s, token := w.names[name], new(int)
	removals := s.removals
	s.mustNot = false
	overlap := map[origin.Digest]bool{i.Digest(): true}
	s.running[token] = i.Digest()
	for _, d := range s.running {
		overlap[d] = true
	}
	s.may[i.Digest()] = true
	begun := s.started
	s.started++
	w.add("publish "+name, func(a *actor) error {
		return w.publishInto(gate(a, w.origin, nil), name, i)
	}, func(err error) {
		delete(s.running, token)
		if err != nil {
			if !errors.Is(err, errCrash) {
				w.fail("publish %s: %v", name, err)
			}
			return
		}
		if s.started != begun+1 { // others began meanwhile; their images are in may
			for d := range s.may {
				overlap[d] = true
			}
		}
		if s.removing == 0 && s.removals == removals {
			s.must, s.may = true, overlap
		}
	})
}

// publishInto is a publisher, as package publish is one.
func (w *world) publishInto(o origin.Origin, name string, i *blockmaptest.Image) error {
	if w.faults.skipSettle {
		g, err := generation.Active(ctx, o)
		if err == nil {
			err = put(o.Generation(g), i)
		}
		if err == nil {
			_, err = catalog.SetName(ctx, o.Generation(g), name, i.Digest())
		}
		return err
	}
	f := generation.Forwarder{Origin: o, Copies: 1}
	if done, err := w.published(&f, name, i); done || err != nil {
		return err
	}
	_, _, err := f.Publish(ctx, name, func(_ context.Context, g origin.GenerationID) (origin.Digest, error) {
		return i.Digest(), put(o.Generation(g), i)
	})
	return err
}

// published is a publisher that looks whether there is anything to do.
func (w *world) published(f *generation.Forwarder, name string, i *blockmaptest.Image) (bool, error) {
	g, err := generation.Active(ctx, f.Origin)
	if err != nil {
		return false, err
	}
	s := f.Origin.Generation(g)
	_, err = s.GetObject(ctx, i.Digest(), 1<<20)
	if errors.Is(err, chunk.ErrNotFound) {
		return false, nil
	}
	return err == nil && f.Settled(ctx, name, i.Digest(), g), err
}

func put(s origin.Store, i *blockmaptest.Image) error {
	_, err := s.GetObject(ctx, i.Digest(), 1<<20)
	if errors.Is(err, chunk.ErrNotFound) { // else the generation has the image, chunks and all
		for _, c := range i.Chunks {
			_, err := s.Stat(ctx, c.ID)
			if errors.Is(err, chunk.ErrNotFound) {
				_, err = s.Put(ctx, c.ID, c.Bytes)
			}
			if err != nil {
				return err
			}
		}
		if err := s.Attach(ctx, i.Digest(), "age", []byte("key")); err != nil {
			return err
		}
		_, err = s.PutObject(ctx, i.Map.Bytes())
	}
	return err
}

// remove begins to take a name away.
func (w *world) remove(name string) {
	s := w.names[name]
	s.must = false
	s.removing++
	s.removals++
	started, quiet, clock := s.started, len(s.running) == 0, w.clock()
	w.add("rm "+name, func(a *actor) error {
		o := gate(a, w.origin, nil)
		if w.faults.newestFirst {
			return removeNewestFirst(o, name)
		}
		return view(o, clock).Remove(ctx, name)
	}, func(err error) {
		s.removing--
		s.removals++
		if err != nil && !errors.Is(err, errCrash) && !errors.Is(err, chunk.ErrNotFound) {
			w.fail("rm %s: %v", name, err)
		}
		if !errors.Is(err, errCrash) && quiet && s.started == started {
			s.mustNot = true
		}
	})
}

func removeNewestFirst(o origin.Origin, name string) error {
	l, err := generation.Load(ctx, o)
	if err != nil {
		return err
	}
	for _, g := range l.Readable() {
		if err := catalog.Remove(ctx, o.Generation(g), name); err != nil && !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
	}
	return nil
}

// read begins a reader: it attaches, reads, marks, and leaves.
func (w *world) read(ref string) {
	r := &reading{marked: w.now}
	n, first, clock := 4+w.draw(200), w.draw(2), w.clock()
	w.add("read "+ref, func(a *actor) error {
		w.reads[a] = r
		v := view(gate(a, w.origin, nil), clock)
		img, err := w.attach(v, ref)
		if err != nil {
			return err
		}
		i := imageOf(img.Map.Digest())
		if i == nil {
			return fmt.Errorf("attached to %v, which nobody published", img.Map.Digest())
		}
		r.image = i
		for k := range n {
			if err := readOne(img, i.Chunks[(first+k)%len(i.Chunks)]); err != nil {
				return err
			}
			if err := generation.Mark(ctx, v.Origin(), i.Digest(), w.now); err != nil {
				return err
			}
			r.marked = w.now
		}
		return nil
	}, func(err error) {
		attached := r.image != nil
		r.image = nil
		if err != nil && !errors.Is(err, errCrash) && (attached || !errors.Is(err, chunk.ErrNotFound)) {
			w.fail("read %s: %v", ref, err)
		}
	})
}

func (w *world) attach(v *generation.View, ref string) (*generation.Image, error) {
	if !w.faults.skipClaim {
		return v.Attach(ctx, ref)
	}
	i, err := v.Open(ctx, ref)
	if err == nil {
		err = generation.Mark(ctx, v.Origin(), i.Map.Digest(), w.now)
	}
	return i, err
}

func readOne(src chunk.Source, c chunktest.Object) error {
	buf := make([]byte, len(c.Bytes)+1)
	n, err := src.Fetch(ctx, c.ID, buf, 0)
	if err != nil {
		return err
	}
	if !bytes.Equal(buf[:n], c.Bytes) {
		return fmt.Errorf("chunk %v has other bytes", c.ID)
	}
	return nil
}

func imageOf(d origin.Digest) *blockmaptest.Image {
	for _, i := range images {
		if i.Digest() == d {
			return i
		}
	}
	return nil
}

// pin begins to pin an image by what a name leads to.
func (w *world) pin(ref string) {
	var d origin.Digest
	changes, clock := map[origin.Digest]int{}, w.clock()
	for d, p := range w.pins {
		changes[d] = p.changes
	}
	w.add("pin "+ref, func(a *actor) error {
		i, err := view(gate(a, w.origin, nil), clock).Pin(ctx, ref)
		if err == nil {
			d = i.Map.Digest()
		}
		return err
	}, func(err error) {
		switch {
		case err == nil:
			if p := w.pins[d]; p.busy == 0 && p.changes == changes[d] {
				p.must = true
			}
		case !errors.Is(err, errCrash) && !errors.Is(err, chunk.ErrNotFound):
			w.fail("pin %s: %v", ref, err)
		}
	})
}

func (w *world) unpin(i *blockmaptest.Image) {
	p := w.pins[i.Digest()]
	p.must = false
	p.changes++
	p.busy++
	w.add("unpin", func(a *actor) error {
		return generation.Unpin(ctx, gate(a, w.origin, nil), i.Digest())
	}, func(err error) {
		p.busy--
		p.changes++
		if err != nil && !errors.Is(err, errCrash) && !errors.Is(err, chunk.ErrNotFound) {
			w.fail("unpin: %v", err)
		}
	})
}

// grant begins to attach something to images[0].
func (w *world) grant() {
	data := fmt.Appendf(nil, "grant %d", w.steps)
	w.add("grant", func(a *actor) error {
		return generation.Attach(ctx, gate(a, w.origin, nil), images[0].Digest(), "age", data)
	}, func(err error) {
		switch {
		case err == nil:
			w.grants = append(w.grants, data)
		case !errors.Is(err, errCrash):
			w.fail("grant: %v", err)
		}
	})
}

func (w *world) collector(a *actor, clock func() time.Time) *gc.Collector {
	b := w.faults.collector
	if w.faults.stale {
		b = &bend{believe: map[string][]byte{}}
	}
	return &gc.Collector{Origin: gate(a, w.origin, b), Policy: policy, Copies: 1, Who: "model", Now: clock}
}

func (w *world) collect() {
	clock := w.clock()
	w.add("gc", func(a *actor) error {
		_, err := w.collector(a, clock).Run(ctx)
		return err
	}, w.collected)
}

// retire begins a change of generation by hand.
func (w *world) retire() {
	clock := w.clock()
	w.add("retire", func(a *actor) error {
		c := w.collector(a, clock)
		l, err := generation.Load(ctx, c.Origin)
		if err == nil {
			_, err = c.Retire(ctx, l.Active())
		}
		return err
	}, w.collected)
}
