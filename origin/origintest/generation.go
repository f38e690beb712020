package origintest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

// TestOrigin tests an origin and its generations. open returns an empty one.
func TestOrigin(t *testing.T, open func(t *testing.T) origin.Origin) {
	TestStore(t, func(t *testing.T) origin.Store { return open(t).Generation(1) })
	t.Run("Origin", func(t *testing.T) {
		testAllPointers(t, func(t *testing.T) origin.Pointers { return open(t) })
	})
	t.Run("Generations", func(t *testing.T) { testGenerations(t, open(t)) })
	t.Run("DeleteGeneration", func(t *testing.T) { testDelete(t, open(t)) })
	t.Run("CopyChunk", func(t *testing.T) { testCopy(t, open(t)) })
}

func generations(t *testing.T, o origin.Origin) []origin.GenerationID {
	t.Helper()
	var got []origin.GenerationID
	err := o.ListGenerations(context.Background(), func(id origin.GenerationID) error {
		got = append(got, id)
		return nil
	})
	if err != nil {
		t.Fatalf("ListGenerations: %v", err)
	}
	slices.Sort(got)
	return got
}

// fill puts one thing of each sort into a generation.
func fill(t *testing.T, s origin.Store, content string) (chunktest.Object, origin.Digest) {
	t.Helper()
	ctx := context.Background()
	c := chunktest.Random(uint64(len(content)), 5000, chunk.FrameSize)
	if _, err := s.Put(ctx, c.ID, c.Bytes); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	d, err := s.PutObject(ctx, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	attach(t, s, d, "note", content)
	mustSwap(t, s, "names/a", nil, []byte(content))
	return c, d
}

// holds checks that a generation has what fill put there, or nothing of it.
func holds(t *testing.T, s origin.Store, c *chunktest.Object, d origin.Digest, content string, want bool) {
	t.Helper()
	ctx := context.Background()
	var missing []error
	_, err := s.Stat(ctx, c.ID)
	missing = append(missing, err)
	_, err = s.GetObject(ctx, d, origin.MaxObjectBytes)
	missing = append(missing, err)
	v, err := s.GetPointer(ctx, "names/a")
	missing = append(missing, err)
	for i, err := range missing {
		if want && err != nil || !want && !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("chunk, object, pointer (%d): %v; there: %v", i, err, want)
		}
	}
	if want && string(v) != content {
		t.Errorf("pointer = %q, want %q", v, content)
	}
	if got := attachments(t, s, d, "note"); (len(got) == 1) != want {
		t.Errorf("attachments %q; there: %v", got, want)
	}
}

func testGenerations(t *testing.T, o origin.Origin) {
	if got := generations(t, o); len(got) != 0 {
		t.Errorf("an empty origin lists generations %v", got)
	}
	mustSwap(t, o, "names/a", nil, []byte("the origin's own"))
	if got := generations(t, o); len(got) != 0 {
		t.Errorf("with a pointer only, generations %v", got)
	}
	c1, d1 := fill(t, o.Generation(1), "one")
	c2, d2 := fill(t, o.Generation(12), "number twelve")
	for range 2 {
		holds(t, o.Generation(1), &c1, d1, "one", true)
		holds(t, o.Generation(12), &c2, d2, "number twelve", true)
		if _, err := o.Generation(12).Stat(context.Background(), c1.ID); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("a chunk of another generation: %v; want ErrNotFound", err)
		}
	}
	wantPointer(t, o, "names/a", []byte("the origin's own"))
	if got := generations(t, o); !slices.Equal(got, []origin.GenerationID{1, 12}) {
		t.Errorf("generations %v, want 1 and 12", got)
	}
}

func testDelete(t *testing.T, o origin.Origin) {
	ctx := context.Background()
	mustSwap(t, o, "kept", nil, []byte("x"))
	c1, d1 := fill(t, o.Generation(1), "one")
	c2, d2 := fill(t, o.Generation(2), "second")
	for i := range 2 { // what is gone may be deleted again
		told := 0
		if err := o.DeleteGeneration(ctx, 1, func(n int) { told = n }); err != nil {
			t.Fatalf("DeleteGeneration: %v", err)
		}
		if (told > 0) != (i == 0) {
			t.Errorf("deletion %d told of %d things", i, told)
		}
		holds(t, o.Generation(1), &c1, d1, "one", false)
		holds(t, o.Generation(2), &c2, d2, "second", true)
	}
	if got := generations(t, o); !slices.Equal(got, []origin.GenerationID{2}) {
		t.Errorf("generations %v, want 2", got)
	}
	wantPointer(t, o, "kept", []byte("x"))
	fill(t, o.Generation(1), "one") // whoever writes there does no harm
	holds(t, o.Generation(2), &c2, d2, "second", true)
}

func testCopy(t *testing.T, o origin.Origin) {
	ctx := context.Background()
	objects := chunktest.Fill(t, o.Generation(1))
	to := o.Generation(2)
	for i := range 2 {
		for _, c := range objects {
			added, err := o.CopyChunk(ctx, c.ID, 1, 2)
			if err != nil || added != (i == 0) {
				t.Fatalf("CopyChunk = %v, %v; want %v, nil", added, err, i == 0)
			}
		}
		if err := to.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.CopyChunk(ctx, chunktest.Absent, 1, 2); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("CopyChunk of an absent one: %v; want ErrNotFound", err)
	}
	if err := o.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	for _, c := range objects {
		got := make([]byte, len(c.Bytes)+1)
		n, err := to.Fetch(ctx, c.ID, got, 0)
		if err != nil || !bytes.Equal(got[:n], c.Bytes) {
			t.Errorf("after deleting where it came from: %d bytes, %v", n, err)
		}
	}
}
