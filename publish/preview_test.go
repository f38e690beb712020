package publish

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

// A watched store counts what is fetched of it.
type watched struct {
	origin.Store
	fetches atomic.Int64
}

func (w *watched) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	w.fetches.Add(1)
	return w.Store.Fetch(ctx, id, dst, off)
}

func unbound(src chunk.Source) chunk.Source { return src }

// previewFiles opens the files that a preview shows.
func previewFiles(t *testing.T, v *Preview) *ext4.FS {
	d, err := disk.Open(v.Data, chunk.NewDoor(v.Chunks(unbound)), disk.Options{})
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { _ = d.Close() })
	fsys, err := ext4.Open(v.Over(d), d.Size())
	if err != nil {
		t.Error(err)
		return nil
	}
	return fsys
}

// TestPreview: while an image is published its files can be read, with Keep without asking
// the origin for what was just put.
func TestPreview(t *testing.T) {
	tree := makeTree(t, 61, 120)
	for name, keep := range map[string]bool{"kept": true, "from the origin": false} {
		t.Run(name, func(t *testing.T) {
			place := memory.New()
			store := &watched{Store: place.Generation(1)}
			o := newPerson(t).options(t, "a")
			o.Keep = keep
			var shown *blockmap.Map
			calls := 0
			o.Preview = func(ctx context.Context, v *Preview) {
				calls++
				sameTree(t, previewFiles(t, v), tree)
				for i := range v.Data.Len() {
					if c := v.Data.Chunk(i); v.AtHand(c.ID) != keep {
						t.Errorf("chunk %v at hand: %v", c.ID, !keep)
					}
				}
				m, err := v.Map(ctx)
				if err != nil || m.Locked() {
					t.Errorf("block map %v, locked %v: %v", m, m.Locked(), err)
				}
				shown = m
			}
			r := publishAs(t, wrapped{place, store}, o, "dir:"+tree)
			if calls != 1 || shown == nil || shown.Digest().String() != r.BlockMap {
				t.Fatalf("%d previews, of %v; published is %v", calls, shown, r.BlockMap)
			}
			if n := store.fetches.Load(); keep != (n == 0) {
				t.Errorf("%d chunks were fetched", n)
			}
			publishAs(t, wrapped{place, store}, o, "dir:"+tree)
			if calls != 1 {
				t.Error("an image that is there was previewed")
			}
		})
	}
}

// A mapless store takes no block maps.
type mapless struct{ origin.Store }

func (s mapless) PutObject(ctx context.Context, data []byte) (origin.Digest, error) {
	if _, err := blockmap.Parse(data); err == nil {
		return origin.Digest{}, errFull
	}
	return s.Store.PutObject(ctx, data)
}

// TestPreviewOfFailure: publishing that fails ends the preview, and waits for it.
func TestPreviewOfFailure(t *testing.T) {
	place := memory.New()
	o := options(t, "a")
	ended := false
	o.Preview = func(ctx context.Context, _ *Preview) {
		<-ctx.Done()
		ended = true
	}
	_, err := Image(context.Background(), wrapped{place, mapless{place.Generation(1)}}, []string{"dir:" + makeTree(t, 62, 20)}, o)
	if !errors.Is(err, errFull) || !ended {
		t.Errorf("%v; the preview has ended: %v", err, ended)
	}
}

// TestKept: what finds no room is read from the origin.
func TestKept(t *testing.T) {
	a, b, c := chunktest.Random(1, 200<<10, chunk.FrameSize), chunktest.Random(2, 100<<10, chunk.FrameSize), chunktest.Random(3, 1, chunk.FrameSize)
	store := &watched{Store: memory.New().Generation(1)}
	k := newKept(t.TempDir())
	if k == nil {
		t.Fatal("nothing can be kept")
	}
	k.room = int64(len(a.Bytes)) + 10
	src := keptOver{k, store}
	for i, o := range []chunktest.Object{a, a, b, c} {
		if _, err := store.Put(t.Context(), o.ID, o.Bytes); err != nil {
			t.Fatal(err)
		}
		k.add(o.ID, o.Bytes)
		if k.has(o.ID) != (i < 2) {
			t.Errorf("chunk %d is kept: %v", i, i >= 2)
		}
		for _, off := range []int64{0, 100, int64(len(o.Bytes)), int64(len(o.Bytes)) + 1} {
			buf := make([]byte, len(o.Bytes)+1)
			n, err := src.Fetch(t.Context(), o.ID, buf, off)
			if want := o.Bytes[min(off, int64(len(o.Bytes))):]; err != nil || !bytes.Equal(buf[:n], want) {
				t.Errorf("chunk %d from %d on: %d bytes, %v", i, off, n, err)
			}
		}
	}
	if n := store.fetches.Load(); n != 8 {
		t.Errorf("%d requests to the origin, want 8", n)
	}
	if _, err := src.Fetch(t.Context(), a.ID, nil, -1); err == nil {
		t.Error("an offset before the chunk was taken")
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	k.room, k.full = maxKept, false
	if k.add(b.ID, b.Bytes); k.has(b.ID) {
		t.Error("a chunk that could not be written is kept")
	}
}

// TestKeptRoom: what is kept leaves most of the free room to others.
func TestKeptRoom(t *testing.T) {
	for free, want := range map[int64]int64{0: 0, 1 << 30: 256 << 20, 1 << 40: maxKept} {
		if got := keptRoom(free); got != want {
			t.Errorf("where %d bytes are free, %d are kept, want %d", free, got, want)
		}
	}
}
