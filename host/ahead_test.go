package host

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/seal"
)

// A lateOrigin answers each question a second later. In a bubble of synctest the seconds
// that something takes are the questions of its longest chain.
type lateOrigin struct{ origin.Origin }

type lateStore struct{ origin.Store }

func (o lateOrigin) GetPointer(ctx context.Context, name string) ([]byte, error) {
	time.Sleep(time.Second)
	return o.Origin.GetPointer(ctx, name)
}

func (o lateOrigin) SwapPointer(ctx context.Context, name string, old, value []byte) error {
	time.Sleep(time.Second)
	return o.Origin.SwapPointer(ctx, name, old, value)
}

func (o lateOrigin) Generation(id origin.GenerationID) origin.Store {
	return lateStore{o.Origin.Generation(id)}
}

func (s lateStore) GetPointer(ctx context.Context, name string) ([]byte, error) {
	time.Sleep(time.Second)
	return s.Store.GetPointer(ctx, name)
}

func (s lateStore) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	time.Sleep(time.Second)
	return s.Store.GetObject(ctx, d, max)
}

// ListAttachments takes two questions, as in a bucket: which there are, and what they have.
func (s lateStore) ListAttachments(ctx context.Context, subject origin.Digest, kind string, fn func([]byte) error) error {
	time.Sleep(2 * time.Second)
	return s.Store.ListAttachments(ctx, subject, kind, fn)
}

// TestAttachRounds: who has found an image's name needs two round trips more until it is
// open: the block map and what unlocks it come beside one another.
func TestAttachRounds(t *testing.T) {
	s := newSite(t)
	d, err := generation.NewView(s.origin, generation.Options{}).Find(t.Context(), "tree")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		if err := generation.Mark(ctx, s.origin, d, time.Now()); err != nil { // as somebody has today
			t.Fatal(err)
		}
		v := generation.NewView(lateOrigin{s.origin}, generation.Options{})
		begun := time.Now()
		if found, err := v.Find(ctx, "tree"); err != nil || found != d || time.Since(begun) != 2*time.Second {
			t.Fatalf("found %v, %v, after %v", found, err, time.Since(begun))
		}
		r := &Reader{Identity: func(context.Context) ([]seal.Unwrapper, error) { return []seal.Unwrapper{s.ids}, nil }}
		begun = time.Now()
		told := time.Duration(0)
		i, err := r.attach(ctx, v, d, func(*generation.Image) { told = time.Since(begun) })
		if took := time.Since(begun); err != nil || took != 2*time.Second || told != time.Second {
			t.Errorf("open after %v, told of after %v, %v", took, told, err)
		} else if i.Unlocked.Locked() {
			t.Error("it is locked")
		}
		if len(i.attachments) != 1 {
			t.Errorf("%d attachments are kept, want that which opened it", len(i.attachments))
		}
	})
}

// TestAttachmentsAhead: what was read ahead is used once it is all, else the search begins
// anew.
func TestAttachmentsAhead(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	v := generation.NewView(s.origin, generation.Options{})
	d, err := v.Find(ctx, "tree")
	if err != nil {
		t.Fatal(err)
	}
	for n := range maxAhead + 1 {
		if err := s.origin.Generation(1).Attach(ctx, d, usualKind, []byte{byte(n)}); err != nil {
			t.Fatal(err)
		}
	}
	r := &Reader{Identity: func(context.Context) ([]seal.Unwrapper, error) { return []seal.Unwrapper{s.ids}, nil }}
	ahead, err := r.attachmentsAhead(ctx, v, d)
	if err != nil {
		t.Fatal(err)
	}
	defer ahead.close()
	seen := map[string]bool{}
	err = ahead.at(v, 1).ListAttachments(ctx, d, usualKind, func(data []byte) error {
		seen[string(data)] = true
		return nil
	})
	if err != nil || len(seen) != maxAhead+2 {
		t.Errorf("%d attachments, %v; want %d", len(seen), err, maxAhead+2)
	}
	enough := errors.New("enough")
	if err := ahead.at(v, 1).ListAttachments(ctx, d, usualKind, func([]byte) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a search that ends: %v", err)
	}
	if _, ok := ahead.at(v, 2).(*aheadOf); ok {
		t.Error("what was read of one generation is used for another")
	}
}

// TestStartPack: what a start pack has is read out of it, and no chunk is asked for.
func TestStartPack(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	i, err := generation.NewView(s.origin, generation.Options{}).Open(ctx, "tree")
	if err != nil {
		t.Fatal(err)
	}
	apart := map[chunk.ID]bool{}
	for _, c := range pack.Outside(i.Map) {
		apart[c.ID] = true
	}
	rec := profile.Recording{Image: i.Map.Digest()}
	var wants []pack.Want
	for pos := range i.Map.Len() {
		if c := i.Map.Chunk(pos); !apart[c.ID] {
			rec.Touches = append(rec.Touches, profile.Touch{Frame: profile.Frame{Chunk: uint32(pos)}})
			wants = append(wants, pack.Want{Pos: pos, Frames: []uint16{0}})
		}
	}
	parts, err := pack.Start(ctx, i.Map, wants, chunk.NewDoor(i))
	if err == nil {
		err = generation.PutStartPack(ctx, s.origin, i.Map.Digest(), "", parts)
	}
	if err == nil {
		_, err = generation.AddProfile(ctx, s.origin, rec.Profile())
	}
	if err != nil || len(wants) == 0 {
		t.Fatalf("%d chunks: %v", len(wants), err)
	}
	for _, use := range []ProfileUse{ProfileReplay, ProfileOff} {
		far := &farOrigin{Origin: s.origin, chunks: make(map[chunk.ID]int)}
		cfg := s.config()
		cfg.State = ""
		cfg.Open = func(context.Context, string) (Source, error) {
			return Source{View: generation.NewView(far, generation.Options{})}, nil
		}
		h, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		sp := spec("tree", "a")
		sp.Profile = use
		s.attach(h, sp)
		h.mu.Lock()
		var d *Disk
		for _, shared := range h.disks {
			d = shared.Disk
		}
		h.mu.Unlock()
		if d.ahead != nil {
			d.ahead.Ended(ctx)
		}
		o, _ := s.front.last("a")
		if got := readFile(t, o); got != strings.Repeat("one", 1000) {
			t.Errorf("%s: reads %d bytes", use, len(got))
		}
		if _, other := far.asked(d); (other == 0) != (use == ProfileReplay) {
			t.Errorf("%s: %d requests for chunks", use, other)
		}
		s.close(h)
	}
}
