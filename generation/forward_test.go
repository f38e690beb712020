package generation

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/memory"
)

func attachments(t *testing.T, s origin.Store, d origin.Digest, kind string) []string {
	t.Helper()
	var got []string
	check(t, s.ListAttachments(ctx, d, kind, func(b []byte) error {
		got = append(got, string(b))
		return nil
	}))
	slices.Sort(got)
	return got
}

func TestForward(t *testing.T) {
	o := memory.New()
	img := blockmaptest.Small(1, 40)
	publish(t, o, 1, "x", img)
	for _, kind := range Kinds {
		check(t, o.Generation(1).Attach(ctx, img.Digest(), kind, []byte(kind)))
	}
	g2 := renew(t, o)
	var told atomic.Int64
	f := Forwarder{Origin: o, Tell: func(n int) { told.Add(int64(n)) }}
	for i := range 2 {
		n, err := f.Forward(ctx, img.Digest(), 1, g2)
		if want := []int{len(img.Chunks), 0}[i]; n != want || err != nil {
			t.Fatalf("Forward = %d, %v; want %d", n, err, want)
		}
	}
	if int(told.Load()) != len(img.Chunks) {
		t.Errorf("told of %d chunks", told.Load())
	}
	check(t, o.DeleteGeneration(ctx, 1, func(int) {}))
	s := o.Generation(g2)
	b, err := s.GetObject(ctx, img.Digest(), 1<<20)
	if err != nil || !bytes.Equal(b, img.Map.Bytes()) {
		t.Errorf("block map: %d bytes, %v", len(b), err)
	}
	for _, c := range img.Chunks {
		if n, err := s.Stat(ctx, c.ID); err != nil || n != int64(len(c.Bytes)) {
			t.Errorf("chunk: %d, %v", n, err)
		}
	}
	for _, kind := range Kinds {
		if got := attachments(t, s, img.Digest(), kind); !slices.Equal(got, []string{kind}) {
			t.Errorf("attachments %s: %q", kind, got)
		}
	}
	info := img.Map.Info()
	for _, key := range []string{catalog.DigestKey(info.Source), catalog.DigestKey(info.Disk), catalog.ChainPrefix(info.ChainID) + "1/0/default"} {
		if d, err := catalog.Get(ctx, s, key); err != nil || d != img.Digest() {
			t.Errorf("%s leads to %v, %v", key, d, err)
		}
	}
	if _, err := catalog.Get(ctx, s, catalog.NameKey("x")); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("the name was carried too: %v", err)
	}
}

// TestForwardChain carries an image whose chain ID leads to another one, which stays
// behind: it is found by its chain ID all the same.
func TestForwardChain(t *testing.T) {
	o := memory.New()
	img := blockmaptest.Small(1, 3)
	publish(t, o, 1, "x", img)
	chain := img.Map.Info().ChainID
	other := origin.Sum([]byte("built later of the same layers"))
	_, err := catalog.Set(ctx, o.Generation(1), catalog.ChainPrefix(chain)+"1/0/default", other)
	check(t, err)
	g2 := renew(t, o)
	f := Forwarder{Origin: o}
	check(t, func() error { _, err := f.Forward(ctx, img.Digest(), 1, g2); return err }())
	check(t, o.DeleteGeneration(ctx, 1, func(int) {}))
	var keys []string
	check(t, o.Generation(g2).ListPointers(ctx, catalog.ChainPrefix(chain), func(key string) error {
		keys = append(keys, key)
		return nil
	}))
	if want := []string{catalog.CarriedChainKey(chain, img.Digest())}; !slices.Equal(keys, want) {
		t.Errorf("pointers %q, want %q", keys, want)
	}
	got, err := NewView(o, Options{}).Chain(ctx, chain)
	if err != nil || !slices.Equal(got, []origin.Digest{img.Digest()}) {
		t.Errorf("the chain ID leads to %v, %v", got, err)
	}
}

// TestForwardMetadata carries the object that a block map names, and an image that has
// lost it all the same.
func TestForwardMetadata(t *testing.T) {
	plain := blockmaptest.Small(1, 3)
	info, object := plain.Map.Info(), []byte("tables and directories")
	info.Metadata = origin.Sum(object)
	var chunks []blockmap.Chunk
	for i := range plain.Map.Len() {
		chunks = append(chunks, plain.Map.Chunk(i))
	}
	b, err := blockmap.Encode(&info, chunks)
	check(t, err)
	m, err := blockmap.Parse(b)
	check(t, err)
	img := &blockmaptest.Image{Map: m, Chunks: plain.Chunks}
	for _, lost := range []bool{false, true} {
		o := memory.New()
		publish(t, o, 1, "x", img)
		if !lost {
			_, err := o.Generation(1).PutObject(ctx, object)
			check(t, err)
		}
		g2 := renew(t, o)
		f := Forwarder{Origin: o}
		_, err := f.Forward(ctx, img.Digest(), 1, g2)
		check(t, err)
		if _, err := o.Generation(g2).GetObject(ctx, img.Digest(), 1<<20); err != nil {
			t.Errorf("block map, with the object lost %v: %v", lost, err)
		}
		if got, err := o.Generation(g2).GetObject(ctx, info.Metadata, 100); lost != errors.Is(err, chunk.ErrNotFound) || !lost && !bytes.Equal(got, object) {
			t.Errorf("object, lost %v: %q, %v", lost, got, err)
		}
	}
}

// killed is an origin that fails from the n-th change of a pointer on.
type killed struct {
	origin.Origin
	left int
}

type killedStore struct {
	origin.Store
	o *killed
}

var errKilled = errors.New("killed")

func (k *killed) Generation(id origin.GenerationID) origin.Store {
	return killedStore{k.Origin.Generation(id), k}
}

func (s killedStore) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	if s.o.left == 0 {
		return errKilled
	}
	s.o.left--
	return s.Store.SwapPointer(ctx, name, old, new)
}

// TestForwardIsFinished kills whoever carries an image after each change of a
// pointer: the next one makes up for what is missing, but only once.
func TestForwardIsFinished(t *testing.T) {
	img := blockmaptest.Small(1, 2)
	for n := range 5 {
		o := memory.New()
		publish(t, o, 1, "x", img)
		g2 := renew(t, o)
		dying := Forwarder{Origin: &killed{o, n}}
		if _, err := dying.Forward(ctx, img.Digest(), 1, g2); (err == nil) != (n == 4) { // digests, chain, the last word
			t.Fatalf("with %d changes: %v", n, err)
		}
		check(t, o.Generation(1).Attach(ctx, img.Digest(), "age", []byte("added")))
		f := Forwarder{Origin: o}
		_, err := f.Forward(ctx, img.Digest(), 1, g2)
		check(t, err)
		s := o.Generation(g2)
		if got, err := catalog.Get(ctx, s, catalog.ChainPrefix(img.Map.Info().ChainID)+"1/0/default"); err != nil || got != img.Digest() {
			t.Errorf("with %d changes: chain leads to %v, %v", n, got, err)
		}
		if got := attachments(t, s, img.Digest(), "age"); (len(got) == 1) != (n < 4) {
			t.Errorf("with %d changes: attachments %q", n, got)
		}
	}
}

// TestForwardIncomplete has a chunk missing: no block map may appear.
func TestForwardIncomplete(t *testing.T) {
	o := memory.New()
	img := blockmaptest.Small(1, 5)
	publish(t, o, 1, "x", img)
	check(t, o.Generation(1).Remove(ctx, img.Chunks[3].ID))
	g2 := renew(t, o)
	f := Forwarder{Origin: o}
	if _, err := f.Forward(ctx, img.Digest(), 1, g2); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Forward: %v", err)
	}
	if err := f.ForwardName(ctx, "x", 1, g2); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("ForwardName: %v", err)
	}
	if _, err := o.Generation(g2).GetObject(ctx, img.Digest(), 1<<20); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("block map: %v", err)
	}
	if _, err := f.Forward(ctx, origin.Sum(nil), 1, g2); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Forward of nothing: %v", err)
	}
}

// TestForwardFromErased erases a generation while an image is carried out of it:
// what was there last might be without its attachments.
func TestForwardFromErased(t *testing.T) {
	o := memory.New()
	img := blockmaptest.Small(1, 2)
	publish(t, o, 1, "x", img)
	g2 := renew(t, o)
	f := Forwarder{Origin: o, Copies: 1, Tell: func(int) {
		if mustLoad(t, o).State(1) == StateRetired {
			advance(t, o, 1, StateExpired, StateDeleted, StateErased)
		}
	}}
	if _, err := f.Forward(ctx, img.Digest(), 1, g2); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Forward: %v", err)
	}
	if _, err := o.Generation(g2).GetObject(ctx, img.Digest(), 1<<20); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("block map: %v", err)
	}
}

func TestForwardName(t *testing.T) {
	a, b := blockmaptest.Small(1, 2), blockmaptest.Small(2, 2)
	key := catalog.NameKey("x")
	for name, c := range map[string]struct {
		there []byte // in the new generation before
		want  *blockmaptest.Image
	}{
		"nothing there":              {nil, a},
		"published there":            {catalog.Value(b.Digest()), b},
		"reserved by one killed":     {catalog.Reserved(a.Digest(), 1, 7), a},
		"reserved for another image": {catalog.Reserved(b.Digest(), 1, 7), a},
	} {
		o := memory.New()
		publish(t, o, 1, "x", a)
		g2 := renew(t, o)
		check(t, b.Put(ctx, o.Generation(g2)))
		if c.there != nil {
			check(t, o.Generation(g2).SwapPointer(ctx, key, nil, c.there))
		}
		f := Forwarder{Origin: o}
		check(t, f.ForwardName(ctx, "x", 1, g2))
		if got, err := catalog.Get(ctx, o.Generation(g2), key); err != nil || got != c.want.Digest() {
			t.Errorf("%s: leads to %v, %v", name, got, err)
		}
		wantName(t, NewView(o, Options{}), "x", c.want)
		check(t, f.ForwardName(ctx, "none", 1, g2)) // removed meanwhile
	}
}

// TestReservedIsNoName has a name that was being carried when it was removed.
func TestReservedIsNoName(t *testing.T) {
	o := memory.New()
	a := blockmaptest.Small(1, 2)
	publish(t, o, 1, "x", a)
	g2 := renew(t, o)
	s := o.Generation(g2)
	mine := catalog.Reserved(a.Digest(), 1, 7)
	check(t, s.SwapPointer(ctx, catalog.NameKey("x"), nil, mine))
	v := NewView(o, Options{})
	wantName(t, v, "x", a)
	check(t, v.Remove(ctx, "x"))
	wantName(t, v, "x", nil)
	if err := settleName(ctx, catalog.NameKey("x"), a.Digest(), mine, o.Generation(1), s); err != nil && !errors.Is(err, origin.ErrConflict) {
		t.Error(err)
	}
	wantName(t, v, "x", nil)
}

func TestSettle(t *testing.T) {
	a, b := blockmaptest.Small(1, 2), blockmaptest.Small(2, 2)
	o := memory.New()
	f := Forwarder{Origin: o}
	publish(t, o, 1, "x", a)
	if g, err := f.Settle(ctx, "x", a.Digest(), 1); g != 1 || err != nil {
		t.Fatalf("Settle = %v, %v", g, err)
	}
	g2 := renew(t, o)
	check(t, f.ForwardName(ctx, "x", 1, g2))
	publish(t, o, 1, "x", b) // late
	g3 := renew(t, o)
	if g, err := f.Settle(ctx, "x", b.Digest(), 1); g != g3 || err != nil {
		t.Fatalf("Settle = %v, %v", g, err)
	}
	wantName(t, NewView(o, Options{}), "x", b)

	advance(t, o, 1, StateExpired, StateDeleted)
	if _, err := f.Settle(ctx, "x", b.Digest(), 1); !errors.Is(err, ErrDeleted) {
		t.Errorf("Settle in a deleted generation: %v", err)
	}
	if _, err := f.Settle(ctx, "x", b.Digest(), 9); err == nil || errors.Is(err, ErrDeleted) {
		t.Errorf("Settle in a generation that never was: %v", err)
	}
}

// TestPublishAgain deletes the generation under a publication.
func TestPublishAgain(t *testing.T) {
	a := blockmaptest.Small(1, 2)
	o := memory.New()
	f := Forwarder{Origin: o}
	var into []origin.GenerationID
	d, g, err := f.Publish(ctx, "x", func(_ context.Context, g origin.GenerationID) (origin.Digest, error) {
		into = append(into, g)
		check(t, a.Put(ctx, o.Generation(g)))
		if g == 1 {
			renew(t, o)
			advance(t, o, 1, StateExpired, StateDeleted, StateErased)
			check(t, o.DeleteGeneration(ctx, 1, func(int) {}))
			return origin.Digest{}, errors.New("everything goes wrong")
		}
		return a.Digest(), nil
	})
	if err != nil || g != 2 || d != a.Digest() || !slices.Equal(into, []origin.GenerationID{1, 2}) {
		t.Errorf("Publish = %v, %v, %v into %v", d, g, err, into)
	}
	failed := errors.New("broken")
	if _, _, err := f.Publish(ctx, "x", func(context.Context, origin.GenerationID) (origin.Digest, error) {
		return origin.Digest{}, failed
	}); !errors.Is(err, failed) {
		t.Errorf("Publish: %v", err)
	}
}

func TestAttach(t *testing.T) {
	a := blockmaptest.Small(1, 2)
	o := memory.New()
	publish(t, o, 1, "x", a)
	g2 := renew(t, o)
	if err := Attach(ctx, o, origin.Sum(nil), "age", nil); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("attach to nothing: %v", err)
	}
	f := Forwarder{Origin: o}
	_, err := f.Forward(ctx, a.Digest(), 1, g2)
	check(t, err)
	check(t, Attach(ctx, o, a.Digest(), "age", []byte("new")))
	for _, g := range []origin.GenerationID{1, g2} {
		if got := attachments(t, o.Generation(g), a.Digest(), "age"); !slices.Equal(got, []string{"new"}) {
			t.Errorf("generation %v: %q", g, got)
		}
	}
}

func TestSampler(t *testing.T) {
	defer goleak.VerifyNone(t)
	o := memory.New()
	img := blockmaptest.Small(1, 2)
	publish(t, o, 1, "x", img)
	check(t, o.Generation(1).Remove(ctx, img.Chunks[1].ID))
	i, err := NewView(o, Options{}).Open(ctx, "x")
	check(t, err)
	missing := make(chan chunk.ID, 1)
	s := NewSampler(i, 1, func(id chunk.ID) { missing <- id })
	for _, c := range img.Chunks {
		if !s.Pick() {
			t.Error("of all, one is left out")
		}
		s.Look(c.ID)
	}
	if id := <-missing; id != img.Chunks[1].ID {
		t.Errorf("%v is missing", id)
	}
	if alarms, err := Alarms(ctx, o); err != nil || len(alarms) != 1 {
		t.Errorf("alarms %v, %v", alarms, err)
	}
	check(t, s.Close())

	never := NewSampler(nil, 0, nil)
	for range 100 {
		if never.Pick() {
			t.Error("of none, one is picked")
		}
	}
	check(t, never.Close())
}

// TestSettled: a publication is over only if the name was there before the states
// were read, and its generation is the active one.
func TestSettled(t *testing.T) {
	d := origin.Digest{1}
	for what, c := range map[string]struct {
		value           []byte
		before, between bool // the generation is retired before the name is read, or just then
		want            bool
	}{
		"there":             {value: catalog.Value(d), want: true},
		"absent":            {},
		"another":           {value: catalog.Value(origin.Digest{2})},
		"reserved":          {value: catalog.Reserved(d, 1, 1)},
		"damaged":           {value: []byte("x")},
		"retired before":    {value: catalog.Value(d), before: true},
		"retired meanwhile": {value: catalog.Value(d), between: true},
	} {
		o := memory.New()
		_, err := Enter(ctx, o)
		check(t, err)
		check(t, o.Generation(1).SwapPointer(ctx, catalog.NameKey("a"), nil, c.value))
		if c.before {
			renew(t, o)
		}
		f := Forwarder{Origin: origintest.Hooked{Origin: o, Get: func(in origin.GenerationID, _ string) error {
			if in != 0 && c.between {
				renew(t, o)
			}
			return nil
		}}}
		if got := f.Settled(ctx, "a", d, 1); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}
