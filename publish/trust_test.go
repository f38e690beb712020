package publish

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
	"github.com/rivuletfs/rivulet/verify"
)

// generationTime is when tests make generations.
var generationTime = time.Unix(1_800_000_000, 0)

// A person publishes for itself, with a signing key and an identity of its own.
type person struct {
	signer *sign.Key
	ids    *agewrap.Identities
}

func newPerson(t testing.TB) *person {
	t.Helper()
	k, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ids, err := agewrap.CreateIdentity(filepath.Join(t.TempDir(), "identity"))
	if err != nil {
		t.Fatal(err)
	}
	return &person{k, ids}
}

func (p *person) options(t testing.TB, name string) Options {
	o := options(t, name)
	o.Signer, o.Open = p.signer, false
	o.Recipients, o.Unwrappers = []seal.Recipient{p.ids.Recipients()[0]}, []seal.Unwrapper{p.ids}
	return o
}

func loadMap(t testing.TB, place origin.Origin, ref string) *blockmap.Map {
	t.Helper()
	i, err := generation.NewView(place, generation.Options{}).Open(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return i.Map
}

// unlock opens a published image as p does.
func (p *person) unlock(t testing.TB, place origin.Origin, name string) (*generation.Image, *blockmap.Map) {
	t.Helper()
	ctx := context.Background()
	i, err := generation.NewView(place, generation.Options{}).Open(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := seal.UnlockFor(ctx, i.Map, place.Generation(i.Generation()), p.ids)
	if err != nil {
		t.Fatal(err)
	}
	return i, m
}

// config returns the configuration of a published image, as p reads it.
func (p *person) config(t testing.TB, place origin.Origin, name string) string {
	t.Helper()
	_, m := p.unlock(t, place, name)
	return string(m.Info().Config)
}

// files opens the file system of a published image as p does, past package disk.
func (p *person) files(t testing.TB, place origin.Origin, name string) *ext4.FS {
	t.Helper()
	i, m := p.unlock(t, place, name)
	plain, err := verify.NewPlain(context.Background(), m, i)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plain.Close() })
	fsys, err := ext4.Open(plain, m.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

func TestLockedForRecipientsOnly(t *testing.T) {
	ctx := context.Background()
	tree, place := makeTree(t, 20, 60), memory.New()
	alice, bob, eve := newPerson(t), newPerson(t), newPerson(t)
	o := alice.options(t, "a")
	o.Recipients = append(o.Recipients, bob.ids.Recipients()[0])
	publishAs(t, place, o, "dir:"+tree)
	for _, p := range []*person{alice, bob} {
		sameTree(t, p.files(t, place, "a"), tree)
	}
	m := loadMap(t, place, "a")
	if !m.Locked() {
		t.Error("the block map is not locked")
	}
	if _, err := seal.UnlockFor(ctx, m, place.Generation(1), eve.ids); !errors.Is(err, seal.ErrNotRecipient) {
		t.Errorf("opened by somebody else: %v", err)
	}
	if _, err := sign.Require(ctx, m, place.Generation(1), alice.signer.Public()); err != nil {
		t.Errorf("signature: %v", err)
	}
	if _, err := sign.Require(ctx, m, place.Generation(1), bob.signer.Public()); !errors.Is(err, sign.ErrOtherKey) {
		t.Errorf("signature of somebody else: %v; want ErrOtherKey", err)
	}
}

// A known image is published again as it is if its locked configuration is the
// same, and else only its block map is made anew.
func TestNewConfiguration(t *testing.T) {
	place, alice := memory.New(), newPerson(t)
	layer := layerOf(t, sortedMembers(9, 20))
	one, two := writeImage(t, v1.Config{Cmd: []string{"one"}}, layer), writeImage(t, v1.Config{Cmd: []string{"two"}}, layer)
	first := publishAs(t, place, alice.options(t, "a"), one)
	if again := publishAs(t, place, alice.options(t, "a"), one); again.BlockMap != first.BlockMap {
		t.Errorf("the same again: %+v; first %+v", again, first)
	}
	second := publishAs(t, place, alice.options(t, "b"), two)
	if second.BlockMap == first.BlockMap || second.Digest != first.Digest || second.NewChunks != 0 || second.LayersKnown != 1 {
		t.Errorf("another configuration: %+v; first %+v", second, first)
	}
	for name, want := range map[string]string{"a": `"Cmd":["one"]`, "b": `"Cmd":["two"]`} {
		if got := alice.config(t, place, name); !strings.Contains(got, want) {
			t.Errorf("%s: configuration %s, want %s in it", name, got, want)
		}
	}
}

// Publishing a known image for one more recipient changes nothing that is there.
func TestNewRecipientRewritesNothing(t *testing.T) {
	tree, place := makeTree(t, 21, 40), memory.New()
	alice, bob := newPerson(t), newPerson(t)
	first := publishAs(t, place, alice.options(t, "a"), "dir:"+tree)
	o := alice.options(t, "a")
	o.Recipients = append(o.Recipients, bob.ids.Recipients()[0])
	for range 2 {
		again := publishAs(t, place, o, "dir:"+tree)
		if again.BlockMap != first.BlockMap || again.NewChunks != 0 || again.LayersKnown != 1 {
			t.Errorf("again: %+v; first %+v", again, first)
		}
	}
	sameTree(t, bob.files(t, place, "a"), tree)
	wraps := 0
	d := loadMap(t, place, "a").Digest()
	if err := place.Generation(1).ListAttachments(context.Background(), d, agewrap.Kind, func([]byte) error { wraps++; return nil }); err != nil || wraps != 2 {
		t.Errorf("%d wrapped keys, %v; want 2", wraps, err)
	}
}

// Two publishers with one salt store their chunks once, with two salts twice.
func TestChunksAreSharedBySalt(t *testing.T) {
	tree, place := makeTree(t, 22, 60), memory.New()
	alice, bob := newPerson(t), newPerson(t)
	first := publishAs(t, place, alice.options(t, "a"), "dir:"+tree)
	same := publishAs(t, place, bob.options(t, "b"), "dir:"+tree)
	if same.NewChunks != 0 || same.LayersKnown != 0 || same.Digest != first.Digest {
		t.Errorf("with the same salt: %+v; first %+v", same, first)
	}
	o := bob.options(t, "c")
	var err error
	if o.Salt, err = seal.NewSalt("tenant", 1); err != nil {
		t.Fatal(err)
	}
	other := publishAs(t, place, o, "dir:"+tree)
	if other.NewChunks != first.NewChunks || other.Digest != first.Digest {
		t.Errorf("with another salt: %+v; first %+v", other, first)
	}
	sameTree(t, bob.files(t, place, "c"), tree)
}

// poison makes mallory's pointers look like victim's: what a publisher with the
// same salt, or whoever may write to the store, can do.
func poison(t *testing.T, place origin.Origin, mallory, victim *person) (n int) {
	t.Helper()
	ctx, s := context.Background(), place.Generation(1)
	from, to := bytes.ToLower([]byte(mallory.signer.Public().ID())), bytes.ToLower([]byte(victim.signer.Public().ID()))
	var keys []string
	for _, prefix := range []string{"chains/", "segments/"} {
		if err := s.ListPointers(ctx, prefix, func(key string) error { keys = append(keys, key); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range keys {
		aim := string(bytes.Replace([]byte(key), from, to, 1))
		if aim == key {
			continue
		}
		value, err := s.GetPointer(ctx, key)
		if err == nil {
			err = s.SwapPointer(ctx, aim, nil, value)
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// A record of somebody who is not trusted never enters another's image.
func TestPoisonedRecordsAreNotUsed(t *testing.T) {
	tree, place := makeTree(t, 23, 60), memory.New()
	alice, mallory := newPerson(t), newPerson(t)
	o := mallory.options(t, "m") // locked for alice too, so that nothing but trust is in the way
	o.Recipients = append(o.Recipients, alice.ids.Recipients()[0])
	publishAs(t, place, o, "dir:"+tree)
	if n := poison(t, place, mallory, alice); n != 2 {
		t.Fatalf("%d pointers poisoned, want those of the chain and of the segment", n)
	}
	o = alice.options(t, "a")
	r := publishAs(t, place, o, "dir:"+tree)
	if r.LayersKnown != 0 || r.FetchedBytes == 0 {
		t.Errorf("an untrusted record was used: %+v", r)
	}
	sameTree(t, alice.files(t, place, "a"), tree)
	if again := publishAs(t, place, o, "dir:"+tree); again.LayersKnown != 1 {
		t.Errorf("own records were not found afterwards: %+v", again)
	}
}

// A trusted publisher's records save the layer, and its image is not one's own:
// it cannot be read, so a new block map is made.
func TestTrustedRecordsAreUsed(t *testing.T) {
	tree, place := makeTree(t, 24, 60), memory.New()
	alice, bob := newPerson(t), newPerson(t)
	first := publishAs(t, place, bob.options(t, "b"), "dir:"+tree)
	o := alice.options(t, "a")
	o.Trusted = []sign.PublicKey{bob.signer.Public()}
	r := publishAs(t, place, o, "dir:"+tree)
	if r.LayersKnown != 1 || r.FetchedBytes != 0 || r.NewChunks != 0 || r.Digest != first.Digest || r.BlockMap == first.BlockMap {
		t.Errorf("with a trusted publisher's record: %+v; its own %+v", r, first)
	}
	sameTree(t, alice.files(t, place, "a"), tree)
}

// In a new epoch a known segment is sealed anew from its old chunks, without its
// layer.
func TestNewEpochNeedsNoLayer(t *testing.T) {
	tree, place := makeTree(t, 25, 60), memory.New()
	alice := newPerson(t)
	first := publishAs(t, place, alice.options(t, "a"), "dir:"+tree)
	o := alice.options(t, "b")
	var err error
	if o.Salt, err = seal.NewSalt(seal.DefaultDomain, 2); err != nil {
		t.Fatal(err)
	}
	asked := 0
	o.OldSalt = func(_ context.Context, id blockmap.SaltID) (*seal.Salt, error) {
		if asked++; id != testSalt.ID() {
			return nil, chunk.ErrNotFound
		}
		return testSalt, nil
	}
	r := publishAs(t, place, o, "dir:"+tree)
	if r.LayersKnown != 1 || r.FetchedBytes != 0 || r.Digest != first.Digest || r.NewChunks != first.NewChunks || asked == 0 {
		t.Errorf("in a new epoch: %+v; first %+v", r, first)
	}
	for _, name := range []string{"a", "b"} { // old images go on being read
		sameTree(t, alice.files(t, place, name), tree)
	}
	if again := publishAs(t, place, o, "dir:"+tree); again.NewChunks != 0 || again.LayersKnown != 1 {
		t.Errorf("again in the new epoch: %+v", again)
	}
	o.OldSalt, o.Name = nil, "c"
	if o.Salt, err = seal.NewSalt("tenant", 1); err != nil {
		t.Fatal(err)
	}
	if r := publishAs(t, place, o, "dir:"+tree); r.LayersKnown != 0 {
		t.Errorf("in another domain: %+v", r)
	}
}

// What an older generation has is carried forward, not published anew.
func TestNewGenerationNeedsNoLayer(t *testing.T) {
	ctx := context.Background()
	tree, app, place := makeTree(t, 26, 60), makeTree(t, 27, 5), memory.New()
	alice := newPerson(t)
	first := publishAs(t, place, alice.options(t, "a"), "dir:"+tree)
	g, err := generation.Active(ctx, place)
	if err != nil {
		t.Fatal(err)
	}
	next, err := generation.New(ctx, place, g, generationTime)
	if err != nil {
		t.Fatal(err)
	}
	r := publishAs(t, place, alice.options(t, "app"), "dir:"+tree, "dir:"+app)
	if r.LayersKnown != 1 {
		t.Errorf("a layer of the older generation was read again: %+v", r)
	}
	again := publishAs(t, place, alice.options(t, "a"), "dir:"+tree)
	if again.BlockMap != first.BlockMap || again.FetchedBytes != 0 {
		t.Errorf("an image of the older generation: %+v; first %+v", again, first)
	}
	if err := place.DeleteGeneration(ctx, g, func(int) {}); err != nil {
		t.Fatal(err)
	}
	sameTree(t, alice.files(t, place, "a"), tree)
	sameTree(t, alice.files(t, place, "app"), app)
	if _, err := catalog.Open(ctx, place.Generation(next), "app"); err != nil {
		t.Errorf("in the new generation: %v", err)
	}
}

// A generation that is deleted while it is published into is published into the
// next one.
func TestGenerationDeletedMeanwhile(t *testing.T) {
	ctx := context.Background()
	tree, place := makeTree(t, 29, 40), memory.New()
	alice := newPerson(t)
	o := alice.options(t, "a")
	done := false
	o.Progress = func(e Event) {
		if e.Stage != Stored || done {
			return
		}
		done = true
		if _, err := generation.New(ctx, place, 1, generationTime); err != nil {
			t.Error(err)
		}
		for from := generation.StateRetired; from < generation.StateErased; from++ {
			if err := generation.Advance(ctx, place, 1, from, from+1, generationTime); err != nil {
				t.Error(err)
			}
		}
		if err := place.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
			t.Error(err)
		}
	}
	publishAs(t, place, o, "dir:"+tree)
	if !done {
		t.Fatal("the generation was not deleted while publishing")
	}
	sameTree(t, alice.files(t, place, "a"), tree)
	if err := place.DeleteGeneration(ctx, 1, func(int) {}); err != nil { // what came too late
		t.Fatal(err)
	}
	sameTree(t, alice.files(t, place, "a"), tree)
}

// An image that is carried on while another recipient is added to it is locked for
// that one too where it is now.
func TestCarriedWhileGranted(t *testing.T) {
	ctx := context.Background()
	tree, place := makeTree(t, 31, 20), memory.New()
	alice, bob := newPerson(t), newPerson(t)
	first := publishAs(t, place, alice.options(t, "a"), "dir:"+tree)
	d, err := origin.ParseDigest(first.BlockMap)
	if err != nil {
		t.Fatal(err)
	}
	o := alice.options(t, "a")
	o.Recipients = append(o.Recipients, bob.ids.Recipients()[0])
	done := false
	o.Progress = func(e Event) {
		if e.Stage != Known || done {
			return
		}
		done = true
		next, err := generation.New(ctx, place, 1, generationTime)
		forward := generation.Forwarder{Origin: place}
		if err == nil {
			_, err = forward.Forward(ctx, d, 1, next)
		}
		if err == nil {
			err = forward.ForwardName(ctx, "a", 1, next)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if again := publishAs(t, place, o, "dir:"+tree); again.BlockMap != first.BlockMap || !done {
		t.Fatalf("again: %+v; first %+v", again, first)
	}
	if err := place.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	sameTree(t, bob.files(t, place, "a"), tree)
}

// What is known of an image is looked for before its salt is open, and used only
// once the salt is, and is the one that was looked for.
func TestSaltIsOpenedBeforeAnythingIsWritten(t *testing.T) {
	place, src := memory.New(), "dir:"+makeTree(t, 23, 20)
	first := publishAs(t, place, options(t, "a"), src)
	refused := errors.New("refused")
	for _, c := range []struct {
		what string
		open func() (*seal.Salt, error)
		ok   bool
	}{
		{"refused", func() (*seal.Salt, error) { return nil, refused }, false},
		{"other salt", func() (*seal.Salt, error) { return otherSalt(t, "tenant"), nil }, false},
		{"right", func() (*seal.Salt, error) { return testSalt, nil }, true},
	} {
		o := options(t, "b")
		asked := 0
		o.Salt, o.SaltID = nil, testSalt.ID()
		o.OpenSalt = func(context.Context) (*seal.Salt, error) { asked++; return c.open() }
		far := memory.New()
		for where, to := range map[string]origin.Origin{"known": place, "new": far} {
			r, err := Image(context.Background(), to, []string{src}, o)
			_, named := catalog.Get(context.Background(), to.Generation(1), catalog.NameKey("b"))
			if (err == nil) != c.ok || (named == nil) != c.ok {
				t.Errorf("%s, %s: published: %v, named: %v", c.what, where, err, named)
			}
			if c.ok && (r.Digest != first.Digest || where == "known" && (r.NewChunks != 0 || r.LayersKnown != 1)) {
				t.Errorf("%s, %s: %+v; first %+v", c.what, where, r, first)
			}
		}
		if asked != 2 {
			t.Errorf("%s: the salt was opened %d times for two images", c.what, asked)
		}
		if err := far.Generation(1).List(context.Background(), func(id chunk.ID, _ int64) error { return errors.New("a chunk") }); (err == nil) == c.ok {
			t.Errorf("%s: chunks in the other store: %v", c.what, err)
		}
	}
}
