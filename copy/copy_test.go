package copy_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/copy"
	"github.com/rivuletfs/rivulet/fsck"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store"
	"github.com/rivuletfs/rivulet/store/memory"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

var ctx = context.Background()

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var (
	shared = chunktest.Random(100, 1000, chunk.FrameSize)
	a      = blockmaptest.New(1, chunktest.Random(1, 70_000, chunk.FrameSize), shared, chunktest.Random(2, 10, chunk.FrameSize))
	b      = blockmaptest.New(2, shared, chunktest.Random(3, 10, chunk.FrameSize), shared)
)

// source is an origin with images a and b.
func source(t *testing.T) *memory.Origin {
	t.Helper()
	o := memory.New()
	s := o.Generation(1)
	for name, i := range map[string]*blockmaptest.Image{"a": a, "b": b} {
		ok(t, i.Put(ctx, s))
		ok(t, s.Attach(ctx, i.Digest(), "age", []byte("key of "+name)))
		_, err := catalog.Set(ctx, s, catalog.DigestKey(i.Map.Info().Disk), i.Digest())
		ok(t, err)
		_, err = catalog.SetName(ctx, s, name, i.Digest())
		ok(t, err)
	}
	return o
}

func TestImage(t *testing.T) {
	defer goleak.VerifyNone(t)
	from, to := source(t), memory.New()
	v := generation.NewView(from, generation.Options{})
	var last copy.Progress
	r, err := copy.Image(ctx, v, to, "a", copy.Options{Tell: func(p copy.Progress) { last = p }})
	ok(t, err)
	size := int64(0)
	for _, c := range a.Chunks {
		size += int64(len(c.Bytes))
	}
	if want := (copy.Result{Name: "a", BlockMap: a.Digest().String(), Generation: 1, Chunks: 3, NewChunks: 3, NewBytes: size}); *r != want {
		t.Errorf("%+v, want %+v", *r, want)
	}
	if want := (copy.Progress{Done: 3, Total: 3, Sent: size}); last != want {
		t.Errorf("told %+v, want %+v", last, want)
	}

	// Of another image, what is there is not sent.
	r, err = copy.Image(ctx, v, to, b.Map.Info().Disk.String(), copy.Options{Name: "other"})
	ok(t, err)
	if r.Chunks != 2 || r.NewChunks != 1 || r.Name != "other" {
		t.Errorf("%+v", *r)
	}
	if r, err := copy.Image(ctx, v, to, "b", copy.Options{}); err != nil || r.NewChunks != 0 {
		t.Errorf("again: %+v, %v", r, err)
	}
	if r, err := fsck.Check(ctx, to, fsck.Options{Deep: true}); err != nil || !r.Sound() || r.Attachments != 2 || r.OrphanChunks != 0 {
		t.Errorf("the copy: %+v, %v", r, err)
	}
	w := generation.NewView(to, generation.Options{})
	for ref, want := range map[string]*blockmaptest.Image{"a": a, "b": b, "other": b, a.Map.Info().Disk.String(): a} {
		if d, err := w.Find(ctx, ref); err != nil || d != want.Digest() {
			t.Errorf("%s: %v, %v", ref, d, err)
		}
	}
	var keys []string
	ok(t, to.Generation(1).ListAttachments(ctx, a.Digest(), "age", func(data []byte) error {
		keys = append(keys, string(data))
		return nil
	}))
	if !slices.Equal(keys, []string{"key of a"}) {
		t.Errorf("attachments %q", keys)
	}
}

// TestThroughABucket copies an image into a bucket, and from there on.
func TestThroughABucket(t *testing.T) {
	server := s3test.Start(t)
	bucket, err := store.Open(ctx, server.URL(server.NewBucket(t), ""), store.Options{Create: true})
	ok(t, err)
	to := memory.New()
	for _, c := range []struct{ from, to origin.Origin }{{source(t), bucket}, {bucket, to}} {
		r, err := copy.Image(ctx, generation.NewView(c.from, generation.Options{}), c.to, "a", copy.Options{})
		if err != nil || r.NewChunks != 3 {
			t.Fatalf("%+v, %v", r, err)
		}
		if r, err := fsck.Check(ctx, c.to, fsck.Options{Deep: true}); err != nil || !r.Sound() || r.Images != 1 || r.Attachments != 1 {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// TestFromWebServer copies an image out of a directory behind a plain web server, which
// can list nothing: it is found by its chain ID where it comes to, all the same.
func TestFromWebServer(t *testing.T) {
	path := t.TempDir()
	near, err := store.Open(ctx, "dir:"+path, store.Options{Create: true})
	ok(t, err)
	s, info := near.Generation(1), a.Map.Info()
	ok(t, a.Put(ctx, s))
	signer, err := sign.NewKey()
	ok(t, err)
	signature, err := signer.SignMap(a.Map)
	ok(t, err)
	ok(t, s.Attach(ctx, a.Digest(), sign.Kind, signature))
	ok(t, s.Attach(ctx, a.Digest(), sign.Kind, []byte("no signature")))
	chain := catalog.ChainKey(info.ChainID, info.Layout, info.SaltID, 0, signer.Public().ID())
	for _, key := range []string{catalog.DigestKey(info.Source), catalog.DigestKey(info.Disk), chain, catalog.NameKey("a")} {
		_, err := catalog.Set(ctx, s, key, a.Digest())
		ok(t, err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(path)))
	defer server.Close()
	web, err := store.Open(ctx, server.URL, store.Options{})
	ok(t, err)
	to := memory.New()
	r, err := copy.Image(ctx, generation.NewView(web, generation.Options{}), to, "a", copy.Options{})
	if err != nil || r.NewChunks != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := fsck.Check(ctx, to, fsck.Options{Deep: true}); err != nil || !r.Sound() || r.Images != 1 || r.Attachments != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, key := range []string{catalog.DigestKey(info.Disk), chain} {
		if d, err := catalog.Get(ctx, to.Generation(1), key); err != nil || d != a.Digest() {
			t.Errorf("%s leads to %v, %v", key, d, err)
		}
	}
	if got, err := generation.NewView(to, generation.Options{}).Chain(ctx, info.ChainID); err != nil || len(got) != 1 || got[0] != a.Digest() {
		t.Errorf("the chain ID leads to %v, %v", got, err)
	}
}

// altered is an origin that returns wrong bytes of one chunk.
type altered struct {
	origin.Origin
	id chunk.ID
}

type alteredStore struct {
	origin.Store
	id chunk.ID
}

func (o altered) Generation(g origin.GenerationID) origin.Store {
	return alteredStore{o.Origin.Generation(g), o.id}
}

func (s alteredStore) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	n, err := s.Store.Fetch(ctx, id, dst, off)
	if id == s.id && n > 0 {
		dst[n-1] ^= 1
	}
	return n, err
}

// TestDoor has a store that returns wrong bytes: they must not arrive, and no
// name must lead to an image without them.
func TestDoor(t *testing.T) {
	to := memory.New()
	id := a.Chunks[0].ID
	v := generation.NewView(altered{source(t), id}, generation.Options{})
	_, err := copy.Image(ctx, v, to, "a", copy.Options{})
	var corrupt *chunk.CorruptError
	if !errors.As(err, &corrupt) || corrupt.ID != id {
		t.Errorf("copy: %v", err)
	}
	if _, err := to.Generation(1).Stat(ctx, id); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("the altered chunk: %v", err)
	}
	if _, err := generation.NewView(to, generation.Options{}).Find(ctx, "a"); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("the name: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	from, to := source(t), memory.New()
	v := generation.NewView(from, generation.Options{})
	if _, err := copy.Image(ctx, v, to, a.Digest().String(), copy.Options{}); err == nil || !strings.Contains(err.Error(), "name") {
		t.Errorf("without a name: %v", err)
	}
	if _, err := copy.Image(ctx, v, to, "a", copy.Options{Name: "a//b"}); err == nil {
		t.Error("a name that cannot be")
	}
	if _, err := copy.Image(ctx, v, to, "none", copy.Options{}); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := copy.Image(ended, v, to, "a", copy.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("when the caller has left: %v", err)
	}
}

// TestMarks sees to it that an image is not collected while it is copied.
func TestMarks(t *testing.T) {
	from := source(t)
	_, err := copy.Image(ctx, generation.NewView(from, generation.Options{}), memory.New(), "a", copy.Options{})
	ok(t, err)
	marked := false
	ok(t, generation.Marks(ctx, from, time.Now(), func(d origin.Digest, _ time.Time) error {
		marked = marked || d == a.Digest()
		return nil
	}))
	if !marked {
		t.Error("the image was not marked as in use")
	}
}

// TestIntoTheNextGeneration has the other origin change its generation while an
// image arrives.
func TestIntoTheNextGeneration(t *testing.T) {
	from, to := source(t), memory.New()
	v := generation.NewView(from, generation.Options{})
	_, err := generation.Active(ctx, to)
	ok(t, err)
	r, err := copy.Image(ctx, v, to, "a", copy.Options{Workers: 1, Tell: func(p copy.Progress) {
		if p.Done == 2 {
			_, err := generation.New(ctx, to, 1, time.Now())
			ok(t, err)
		}
	}})
	ok(t, err)
	if r.Generation != 2 {
		t.Errorf("it is in generation %v", r.Generation)
	}
	buf := make([]byte, len(a.Chunks[0].Bytes))
	n, err := to.Generation(2).Fetch(ctx, a.Chunks[0].ID, buf, 0)
	if err != nil || !bytes.Equal(buf[:n], a.Chunks[0].Bytes) {
		t.Errorf("chunk: %d bytes, %v", n, err)
	}
}
