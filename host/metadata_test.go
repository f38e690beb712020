package host

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
)

// A farOrigin counts what is read of it.
type farOrigin struct {
	origin.Origin
	packs atomic.Int64 // metadata objects
	lost  atomic.Bool  // it has none

	mu     sync.Mutex
	chunks map[chunk.ID]int
}

func (o *farOrigin) Generation(id origin.GenerationID) origin.Store {
	return &farStore{o.Origin.Generation(id), o}
}

type farStore struct {
	origin.Store
	far *farOrigin
}

func (s *farStore) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	s.far.mu.Lock()
	s.far.chunks[id]++
	s.far.mu.Unlock()
	return s.Store.Fetch(ctx, id, dst, off)
}

func (s *farStore) GetObject(ctx context.Context, d origin.Digest, max int64) ([]byte, error) {
	if max == pack.MaxMetadataObject {
		s.far.packs.Add(1)
		if s.far.lost.Load() {
			return nil, chunk.ErrNotFound
		}
	}
	return s.Store.GetObject(ctx, d, max)
}

// asked returns how many requests for chunks there were, of the metadata and of others.
func (o *farOrigin) asked(d *Disk) (metadata, other int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := 0
	for _, n := range o.chunks {
		all += n
	}
	for _, c := range pack.Outside(d.Map()) {
		metadata += o.chunks[c.ID]
	}
	return metadata, all - metadata
}

// TestMetadata: of a far store the metadata come in one object, asked for before anybody
// reads; through a cache, when that has not got them; and in chunks if there is none.
func TestMetadata(t *testing.T) {
	cold := func() Cache { return &warmCache{chunks: make(map[chunk.ID]map[int64][]byte)} }
	warm := cold()
	tests := []struct {
		name     string
		near     bool
		lost     bool
		cache    Cache
		packs    int64
		atOnce   bool
		metadata bool // read by the chunk
	}{
		{name: "far", packs: 1, atOnce: true},
		{name: "lost", lost: true, packs: 1, atOnce: true, metadata: true},
		{name: "near", near: true, metadata: true},
		{name: "cold cache", cache: warm, packs: 1, atOnce: true},
		{name: "warm cache", cache: warm},
	}
	s := newSite(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			far := &farOrigin{Origin: s.origin, chunks: make(map[chunk.ID]int)}
			far.lost.Store(tt.lost)
			cfg := s.config()
			cfg.State, cfg.Cache = "", tt.cache
			cfg.Open = func(context.Context, string) (Source, error) {
				return Source{View: generation.NewView(far, generation.Options{}), Near: tt.near}, nil
			}
			h, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			s.attach(h, spec("tree", "a"))
			if tt.atOnce {
				eventually(t, "the object", func() bool { return far.packs.Load() == 1 })
			} else if n := far.packs.Load(); n != 0 {
				t.Errorf("%d objects asked for before anybody read", n)
			}
			o, _ := s.front.last("a")
			if got := readFile(t, o); got != strings.Repeat("one", 1000) {
				t.Errorf("reads %d bytes", len(got))
			}
			h.mu.Lock()
			var d *Disk
			for _, shared := range h.disks {
				d = shared.Disk
			}
			h.mu.Unlock()
			metadata, other := far.asked(d)
			if n := far.packs.Load(); n != tt.packs || (metadata > 0) != tt.metadata || (other > 0) != (tt.name != "warm cache") {
				t.Errorf("%d objects, %d chunks of metadata and %d others; want %d objects", n, metadata, other, tt.packs)
			}
			s.close(h)
		})
	}
}

// requests counts those that were made.
type requests struct{ made int }

func (r *requests) Request(context.Context, chunk.ID) (origin.Request, error) {
	r.made++
	return origin.Request{}, nil
}

// TestUnpacked: a cache gets no request for a chunk that comes with the object, as long as
// that may come.
func TestUnpacked(t *testing.T) {
	in, out := chunk.ID{1}, chunk.ID{2}
	fails := make(chan struct{})
	f := pack.NewFetch([]chunk.ID{in}, func(context.Context) ([]byte, error) {
		<-fails
		return nil, chunk.ErrNotFound
	}, nil)
	defer f.Close()
	var r requests
	u := unpacked{&r, f}
	if _, err := u.Request(t.Context(), out); err != nil || r.made != 1 {
		t.Errorf("another chunk: %v, %d requests", err, r.made)
	}
	if _, err := u.Request(t.Context(), in); !errors.Is(err, errPacked) || r.made != 1 {
		t.Errorf("a chunk of the object: %v, %d requests", err, r.made)
	}
	f.Start()
	close(fails)
	eventually(t, "a request for a chunk of the object that failed", func() bool {
		_, err := u.Request(t.Context(), in)
		return err == nil
	})
}
