package publish

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/pack"
	"github.com/rivuletfs/rivulet/store/memory"
)

// inObject returns where on the disk the chunks lie that the metadata object of m has.
func inObject(t *testing.T, m *blockmap.Map, store origin.Store) []uint32 {
	t.Helper()
	objects := metadataOf(t.Context(), m, store)
	var at []uint32
	for i := range m.Len() {
		c := m.Chunk(i)
		object := objects[c.ID]
		if object == nil {
			continue
		}
		at = append(at, c.Index)
		stored := make([]byte, c.Stored+1)
		if n, err := store.Fetch(t.Context(), c.ID, stored, 0); err != nil || !bytes.Equal(stored[:n], object) {
			t.Errorf("chunk %v has other bytes in the object than by itself (%v)", c.ID, err)
		}
	}
	return at
}

func outside(m *blockmap.Map) (at []uint32) {
	for _, c := range pack.Outside(m) {
		at = append(at, c.Index)
	}
	return at
}

// TestMetadataObject: an image has its metadata in an object, the same whoever makes
// it again, and the disk's digest does not depend on it.
func TestMetadataObject(t *testing.T) {
	place := memory.New()
	tree := makeTree(t, 51, 80)
	mustPublish(t, place, "a", "dir:"+tree)
	i, m := openMap(t, place, "a")
	store := i.Store()
	want := m.Info().Metadata
	if got := inObject(t, m, store); want == (origin.Digest{}) || !slices.Equal(got, outside(m)) {
		t.Errorf("metadata object %v has the chunks at %v, want those at %v", want, got, outside(m))
	}
	again, err := pack.Metadata(m, func(c *blockmap.Chunk) ([]byte, error) {
		b := make([]byte, c.Stored)
		_, err := store.Fetch(t.Context(), c.ID, b, 0)
		return b, err
	})
	if err != nil || origin.Sum(again) != want {
		t.Errorf("made again out of the chunks it is %v, %v; want %v", origin.Sum(again), err, want)
	}
	other := memory.New()
	o := options(t, "a")
	o.Workers, o.Puts = 1, 1
	publishAs(t, other, o, "dir:"+tree)
	if _, n := openMap(t, other, "a"); n.Info().Metadata != want || n.Info().Disk != m.Info().Disk {
		t.Errorf("published elsewhere: %v, want %v", n.Info().Metadata, want)
	}
}

// noMetadata cannot store metadata objects.
type noMetadata struct{ origin.Store }

var errNoRoom = errors.New("no room")

func (s noMetadata) PutObject(ctx context.Context, data []byte) (origin.Digest, error) {
	if _, err := pack.NewDecoder(bytes.NewReader(data)); err == nil {
		return origin.Digest{}, errNoRoom
	}
	return s.Store.PutObject(ctx, data)
}

// TestMetadataObjectFails: a block map names nothing that could not be stored.
func TestMetadataObjectFails(t *testing.T) {
	place := memory.New()
	full := wrapped{place, noMetadata{place.Generation(1)}}
	if _, err := Image(t.Context(), full, []string{"dir:" + makeTree(t, 52, 5)}, options(t, "a")); !errors.Is(err, errNoRoom) {
		t.Errorf("error %v, want %v", err, errNoRoom)
	}
}

// TestCommitMetadata: what is committed has the object's chunks where the base had
// them, also those that were written to.
func TestCommitMetadata(t *testing.T) {
	place := memory.New()
	publishAs(t, place, small(t, "base"), "dir:"+makeTree(t, 53, 40))
	s := copyOf(t, place, "base", 0)
	s.write(t, rand.New(rand.NewPCG(53, 0)), 0, 1)                         // the first chunk
	s.write(t, rand.New(rand.NewPCG(53, 1)), testDisk/2+chunk.Size, 2*128) // where there is nothing
	if _, err := Commit(t.Context(), place, s.change(), options(t, "second")); err != nil {
		t.Fatal(err)
	}
	i, m := openMap(t, place, "second")
	if got := inObject(t, m, i.Store()); !slices.Equal(got, outside(s.base)) {
		t.Errorf("committed: chunks at %v, want %v", got, outside(s.base))
	}
	if m.Info().Metadata == s.base.Info().Metadata {
		t.Error("the object is the base's")
	}

	// The chunks whose places are zeros now are left out.
	again := copyOf(t, place, "second", 0)
	again.write(t, nil, 0, chunk.Size/page)
	if _, err := Commit(t.Context(), place, again.change(), options(t, "third")); err != nil {
		t.Fatal(err)
	}
	i, m = openMap(t, place, "third")
	if got := inObject(t, m, i.Store()); !slices.Equal(got, outside(s.base)[1:]) {
		t.Errorf("committed once more: chunks at %v, want %v", got, outside(s.base)[1:])
	}

	// A base whose object is lost.
	if err := i.Store().RemoveObject(t.Context(), m.Info().Metadata); err != nil {
		t.Fatal(err)
	}
	last := copyOf(t, place, "third", 0)
	if _, err := Commit(t.Context(), place, last.change(), options(t, "fourth")); err != nil {
		t.Fatal(err)
	}
	if _, m = openMap(t, place, "fourth"); m.Info().Metadata != (origin.Digest{}) {
		t.Error("an object out of nothing")
	}
}

// TestSheafIsBounded: whatever the order in which chunks come, the object has the first
// that fit, and what is held on the way is little more.
func TestSheafIsBounded(t *testing.T) {
	rng := rand.New(rand.NewPCG(54, 0))
	sizes := make([]uint32, 40)
	for i := range sizes {
		sizes[i] = uint32(1 + rng.IntN(pack.MaxMetadataBytes/8))
	}
	want := pack.Fit(slices.Values(sizes))
	if want == 0 || want == len(sizes) {
		t.Fatalf("all or none fit: %d", want)
	}
	for range 20 {
		s := newSheaf(len(sizes)+1, nil)
		for _, i := range rng.Perm(len(sizes)) {
			s.add(t.Context(), uint32(i), make([]byte, sizes[i]))
			if s.bytes > pack.MaxMetadataBytes {
				t.Fatalf("holds %d bytes", s.bytes)
			}
		}
		if len(s.objects) != want {
			t.Fatalf("has %d chunks, want %d", len(s.objects), want)
		}
		for i := range want {
			if s.objects[uint32(i)] == nil {
				t.Fatalf("chunk %d of %d is missing", i, want)
			}
		}
	}
}
