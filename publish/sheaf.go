package publish

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
)

// A sheaf gathers the metadata object of an image while its chunks are sealed and put,
// and puts it as soon as the last of them is sealed: beside the last chunks, so that it
// takes no round trip of its own. It holds little more than the object. Its methods may
// be called by any number of goroutines.
type sheaf struct {
	put func(ctx context.Context, data []byte) (origin.Digest, error)

	mu      sync.Mutex // guards what follows
	left    int        // chunks to come
	objects map[uint32][]byte
	bytes   int64
	full    bool   // limit holds
	limit   uint32 // index of a chunk that does not fit, nor do those behind it

	putting sync.WaitGroup
	digest  origin.Digest // after putting
	err     error
}

// newSheaf returns the sheaf of n chunks.
func newSheaf(n int, put func(ctx context.Context, data []byte) (origin.Digest, error)) *sheaf {
	return &sheaf{put: put, left: n, objects: make(map[uint32][]byte)}
}

// add adds the stored form of the chunk at an index of the disk, none if it is a hole.
// It does not keep object.
func (s *sheaf) add(ctx context.Context, index uint32, object []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(object) > 0 && (!s.full || index < s.limit) {
		s.objects[index] = slices.Clone(object)
		s.bytes += int64(len(object))
		s.trim()
	}
	if s.left--; s.left == 0 {
		s.putting.Go(func() { s.digest, s.err = s.tie(ctx) })
	}
}

// trim drops the chunks that pack.Fit leaves out, whatever is still to come.
func (s *sheaf) trim() {
	for s.bytes > pack.MaxMetadataBytes {
		last := slices.Max(slices.Collect(maps.Keys(s.objects)))
		s.bytes -= int64(len(s.objects[last]))
		delete(s.objects, last)
		s.full, s.limit = true, last
	}
}

// tie makes and puts the object.
func (s *sheaf) tie(ctx context.Context) (origin.Digest, error) {
	var b pack.Builder
	for _, index := range slices.Sorted(maps.Keys(s.objects)) {
		if err := b.AddObject(s.objects[index]); err != nil {
			return origin.Digest{}, err
		}
	}
	s.objects = nil
	if b.Frames() == 0 {
		return origin.Digest{}, nil
	}
	d, err := s.put(ctx, b.Bytes())
	if err != nil {
		return origin.Digest{}, fmt.Errorf("store metadata object: %w", err)
	}
	return d, nil
}

// wait returns the digest of the object when it was put; of none, zeros. All chunks
// must have been added, or it waits for nothing and returns none.
func (s *sheaf) wait() (origin.Digest, error) {
	s.putting.Wait()
	return s.digest, s.err
}

// A changedSheaf is the sheaf of a disk that was written to. Which chunks hold the file
// system's own blocks is known of the base alone; so it has those that lie where the
// chunks of the base's object lay.
type changedSheaf struct {
	*sheaf
	places map[uint32]bool // of those that were written to
}

// touched adds a chunk that was written to, if it is one of them.
func (s *changedSheaf) touched(ctx context.Context, index uint32, object []byte) {
	if s.places[index] {
		s.add(ctx, index, object)
	}
}

// sheaf returns the sheaf of a commit, with the chunks that stay; base is what the base
// lies in. If the base has no metadata object, or none that can be read, nor has what
// is committed.
func (m *commit) sheaf(ctx context.Context, base origin.Objects) *changedSheaf {
	objects := metadataOf(ctx, m.Base, base)
	stays, places := make(map[uint32][]byte), make(map[uint32]bool)
	for i, c := range pack.Outside(m.Base) {
		if objects[c.ID] == nil {
			continue
		}
		if _, ok := slices.BinarySearch(m.taken, i); ok {
			stays[c.Index] = objects[c.ID]
		} else if _, ok := slices.BinarySearch(m.touched, c.Index); ok {
			places[c.Index] = true
		}
	}
	s := &changedSheaf{newSheaf(len(stays)+len(places), m.store.PutObject), places}
	for index, object := range stays {
		s.add(ctx, index, object)
	}
	return s
}

// metadataOf returns the chunks of an image's metadata object, none if there is none
// that can be read.
func metadataOf(ctx context.Context, m *blockmap.Map, from origin.Objects) map[chunk.ID][]byte {
	d := m.Info().Metadata
	if d == (origin.Digest{}) {
		return nil
	}
	b, err := from.GetObject(ctx, d, pack.MaxMetadataObject)
	if err != nil {
		return nil
	}
	dec, err := pack.NewDecoder(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	objects := make(map[chunk.ID][]byte, len(dec.Index.Chunks))
	err = dec.Objects(func(id chunk.ID, object []byte) error {
		objects[id] = object
		return nil
	})
	if err != nil {
		return nil
	}
	return objects
}
