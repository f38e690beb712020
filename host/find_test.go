package host

import (
	"context"
	"errors"
	"testing"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/sign"
)

// TestFind finds an image by all that it is called, and attaches nothing.
func TestFind(t *testing.T) {
	s := newSite(t)
	h := s.start()
	byName, err := h.Find(t.Context(), Query{Store: "memory", Image: "tree"})
	if err != nil {
		t.Fatal(err)
	}
	if !byName.Locked || len(byName.Layers) != 1 || byName.Chain != byName.Layers[0] || byName.Size == 0 {
		t.Errorf("found %+v", byName)
	}
	for _, q := range []Query{
		{Image: byName.Digest}, {Image: byName.Disk}, {Chain: byName.Chain},
		{Chain: byName.Chain, Required: []string{s.signer.Public().String()}},
	} {
		q.Store = "memory"
		got, err := h.Find(t.Context(), q)
		if err != nil || got.Digest != byName.Digest {
			t.Errorf("%+v: found %+v, %v", q, got, err)
		}
	}
	if len(h.List()) != 0 || len(s.records()) != 0 || len(h.disks) != 0 {
		t.Error("something is attached")
	}

	stranger, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	none := origin.Sum([]byte("none")).String()
	for what, q := range map[string]Query{
		"nothing":         {},
		"two things":      {Image: "tree", Chain: byName.Chain},
		"no chain ID":     {Chain: "tree"},
		"unknown image":   {Image: none},
		"unknown chain":   {Chain: none},
		"other publisher": {Chain: byName.Chain, Required: []string{stranger.Public().String()}},
	} {
		q.Store = "memory"
		got, err := h.Find(t.Context(), q)
		if err == nil {
			t.Errorf("%s: found %+v", what, got)
		}
		if unknown := q.Image == none || q.Chain == none; errors.Is(err, chunk.ErrNotFound) != unknown {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.close(h)
}

// TestFindSparesALook: what was found a moment ago is not looked for again to be attached, and
// only where it was found.
func TestFindSparesALook(t *testing.T) {
	s := newSite(t)
	h := s.start()
	tree, err := h.Find(t.Context(), Query{Store: "memory", Image: "tree"})
	if err != nil {
		t.Fatal(err)
	}
	src, err := h.source(t.Context(), "memory")
	if err != nil {
		t.Fatal(err)
	}
	nobody, cancel := context.WithCancel(t.Context())
	cancel() // no look can succeed
	if d, err := h.digest(nobody, src.View, tree.Digest, "", "memory"); err != nil || d.String() != tree.Digest {
		t.Errorf("found %v, %v, want %s without a look", d, err, tree.Digest)
	}
	if _, err := h.digest(nobody, src.View, tree.Digest, "", "elsewhere"); err == nil {
		t.Error("found in a store where nobody has looked")
	}
	if _, err := h.digest(nobody, src.View, tree.Disk, "", "memory"); err == nil {
		t.Error("the digest of a disk was taken for that of a block map")
	}
	s.close(h)
}

// TestFindPassesOverLies has pointers of a chain ID that lead elsewhere.
func TestFindPassesOverLies(t *testing.T) {
	s := newSite(t)
	s.publish("other", "two")
	h := s.start()
	tree, err := h.Find(t.Context(), Query{Store: "memory", Image: "tree"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := h.Find(t.Context(), Query{Store: "memory", Image: "other"})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := origin.ParseDigest(tree.Chain)
	if err != nil {
		t.Fatal(err)
	}
	lie, err := origin.ParseDigest(other.Digest)
	if err != nil {
		t.Fatal(err)
	}
	store := s.origin.Generation(1)
	if _, err := catalog.Set(t.Context(), store, catalog.ChainPrefix(chain)+"0/first", lie); err != nil {
		t.Fatal(err)
	}
	if err := store.SwapPointer(t.Context(), catalog.ChainPrefix(chain)+"0/broken", nil, []byte("x")); err != nil {
		t.Fatal(err)
	}
	got, err := h.Find(t.Context(), Query{Store: "memory", Chain: tree.Chain})
	if err != nil || got.Digest != tree.Digest {
		t.Errorf("found %+v, %v", got, err)
	}
	s.close(h)
}
