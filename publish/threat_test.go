package publish

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store/memory"
	"github.com/rivuletfs/rivulet/verify"
)

// The tests of this file show claims of doc/threat-model.md, those that are limits
// of the design among them.

// bigFile writes a folder with one file that has a chunk of its own, and returns
// the folder and the file's bytes.
func bigFile(t *testing.T, fill func(i int) byte) (tree string, body []byte) {
	t.Helper()
	tree, body = t.TempDir(), make([]byte, layout.Default.Chunk)
	for i := range body {
		body[i] = fill(i)
	}
	if err := os.WriteFile(filepath.Join(tree, "big"), body, 0o644); err != nil {
		t.Fatal(err)
	}
	return tree, body
}

func noise(i int) byte { return byte(i*i>>7 ^ i*31 | 1) }

func otherSalt(t *testing.T, domain string) *seal.Salt {
	t.Helper()
	s, err := seal.NewSalt(domain, 1)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSaltConfirmsAFile: whoever holds the salt can tell by a chunk's name that a
// file is in an image that is not locked for it; with another salt, nobody can.
func TestSaltConfirmsAFile(t *testing.T) {
	ctx, place := context.Background(), memory.New()
	tree, body := bigFile(t, noise)
	publishAs(t, place, newPerson(t).options(t, "a"), "dir:"+tree)
	for _, c := range []struct {
		salt *seal.Salt
		want bool
	}{{testSalt, true}, {otherSalt(t, seal.DefaultDomain), false}} {
		sealer, err := seal.NewSealer(seal.Options{Salt: c.salt})
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := sealer.Seal(body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := place.Generation(1).Stat(ctx, sealed.ID); (err == nil) != c.want {
			t.Errorf("with %v: found %v, want %v", c.salt, err == nil, c.want)
		}
	}
}

// recordOf returns the only segment record of a store as it is locked, and the
// layer that its pointer names.
func recordOf(t *testing.T, s origin.Store) (locked []byte, diffID origin.Digest) {
	t.Helper()
	ctx := context.Background()
	err := s.ListPointers(ctx, "segments/", func(key string) error {
		d, err := catalog.Get(ctx, s, key)
		if err != nil {
			return err
		}
		if locked, err = s.GetObject(ctx, d, maxRecordBytes); err != nil {
			return err
		}
		diffID, err = origin.ParseDigest("sha256:" + strings.Split(key, "/")[1])
		return err
	})
	if err != nil || locked == nil {
		t.Fatalf("no segment record: %v", err)
	}
	return locked[bytes.Index(locked, []byte("rvseglk1")):], diffID
}

// TestSaltHolderReadsLayers: a domain's publishers can read its layers by way of
// segment records, for whomever the image is locked; nobody else can.
func TestSaltHolderReadsLayers(t *testing.T) {
	ctx, place := context.Background(), memory.New()
	tree, body := bigFile(t, noise)
	publishAs(t, place, newPerson(t).options(t, "a"), "dir:"+tree)
	locked, diffID := recordOf(t, place.Generation(1))
	if _, err := seal.OpenRecord(otherSalt(t, seal.DefaultDomain), diffID, layout.Version, locked); err == nil {
		t.Error("opened with another salt")
	}
	b, err := seal.OpenRecord(testSalt, diffID, layout.Version, locked)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := decodeRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	opener, err := seal.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	defer opener.Close()
	object, plain, found := make([]byte, blockmap.MaxStored(len(body))+1), make([]byte, len(body)), false
	for _, c := range rec.Chunks {
		_, err := verify.ReadChunk(ctx, place.Generation(1), opener, &blockmap.Chunk{ID: c.ID, Key: c.Key, Stored: c.Stored, Size: c.Size}, object, plain)
		if err != nil {
			t.Fatal(err)
		}
		found = found || bytes.Equal(plain, body)
	}
	if !found {
		t.Error("the file's chunk was not read")
	}
}

// storedSizes returns the stored sizes of an image's chunks with index below the
// metadata.
func storedSizes(t *testing.T, place origin.Origin, name string) (sizes []string) {
	t.Helper()
	m := loadMap(t, place, name)
	l := m.Layers()[0]
	for i := range m.Len() {
		if c := m.Chunk(i); c.Index >= l.First && c.Index < l.First+l.Slot {
			sizes = append(sizes, fmt.Sprintf("%d of %d", c.Stored, c.Size))
		}
	}
	return sizes
}

// TestSizesTellOfContent: where chunks are compressed, their sizes tell files of
// one length apart; where a domain forbids that, they do not. How far a chunk is
// zeros shows in both.
func TestSizesTellOfContent(t *testing.T) {
	trees := map[string]string{}
	trees["noise"], _ = bigFile(t, noise)
	trees["text"], _ = bigFile(t, func(i int) byte { return "some text "[i%10] })
	trees["half"], _ = bigFile(t, func(i int) byte { return noise(i) * byte(1-i*2/layout.Default.Chunk) })
	sizes := map[string]string{}
	for _, policy := range []seal.Policy{seal.Adaptive, seal.NeverCode} {
		place, who := memory.New(), newPerson(t)
		for name, tree := range trees {
			o := who.options(t, name)
			o.Policy = policy
			publishAs(t, place, o, "dir:"+tree)
			sizes[fmt.Sprintf("%s %d", name, policy)] = strings.Join(storedSizes(t, place, name), ", ")
		}
	}
	if sizes["noise 0"] == sizes["text 0"] {
		t.Errorf("compressed, text and noise take equally much: %s", sizes["text 0"])
	}
	if sizes["noise 1"] != sizes["text 1"] {
		t.Errorf("not compressed, text and noise differ: %s; %s", sizes["text 1"], sizes["noise 1"])
	}
	if sizes["noise 1"] == sizes["half 1"] {
		t.Errorf("zeros at the end do not show: %s", sizes["half 1"])
	}
}

// TestWhatALockedMapShows: without its key, a block map shows layers and chunks, and
// neither a key of a chunk nor the image's configuration.
func TestWhatALockedMapShows(t *testing.T) {
	tree, place := makeTree(t, 40, 20), memory.New()
	alice := newPerson(t)
	publishAs(t, place, alice.options(t, "a"), "dir:"+tree)
	m := loadMap(t, place, "a")
	if info := m.Info(); len(info.Layers) != 1 || info.Layers[0].DiffID == (origin.Digest{}) || info.Source == (origin.Digest{}) || m.Len() == 0 || m.Chunk(0).ID == (chunk.ID{}) {
		t.Errorf("a locked map shows %+v", info)
	}
	open, err := seal.UnlockFor(context.Background(), m, place.Generation(1), alice.ids)
	if err != nil {
		t.Fatal(err)
	}
	hidden := map[string][]byte{"configuration": open.Info().Config}
	for i := range open.Len() {
		key := open.Chunk(i).Key
		hidden[fmt.Sprintf("key of chunk %d", i)] = key[:]
	}
	for what, b := range hidden {
		if len(b) < 16 || bytes.Contains(m.Bytes(), b) {
			t.Errorf("%s, %d bytes: is empty, or in the clear", what, len(b))
		}
	}
}

// TestPlantedHintsAreBounded: pointers to records of salts that nobody has keep a
// publisher busy for a while only, and hide no record that it can use.
func TestPlantedHintsAreBounded(t *testing.T) {
	ctx, tree, place := context.Background(), makeTree(t, 41, 10), memory.New()
	alice := newPerson(t)
	publishAs(t, place, alice.options(t, "a"), "dir:"+tree)
	s := place.Generation(1)
	_, diffID := recordOf(t, s)
	for i := range 2 * maxHints {
		key := catalog.SegmentKey(diffID, layout.Version, blockmap.SaltID{byte(i), byte(i >> 8)}, alice.signer.Public().ID())
		if _, err := catalog.Set(ctx, s, key, origin.Sum([]byte(key))); err != nil {
			t.Fatal(err)
		}
	}
	asked := 0
	o := alice.options(t, "b")
	o.OldSalt = func(context.Context, blockmap.SaltID) (*seal.Salt, error) { asked++; return nil, chunk.ErrNotFound }
	app := makeTree(t, 42, 2)
	if r := publishAs(t, place, o, "dir:"+tree, "dir:"+app); r.LayersKnown != 1 || asked != 0 {
		t.Errorf("%d layers known, %d salts asked for; want 1 and none", r.LayersKnown, asked)
	}
	o.Salt = otherSalt(t, "tenant")
	publishAs(t, place, o, "dir:"+tree)
	if asked > maxHints+1 || asked < maxHints {
		t.Errorf("%d salts asked for, want about %d", asked, maxHints)
	}
}

// TestRevokedPublisherPoisonsNothing: somebody who holds the salt of an earlier
// epoch, and may write to the store, gets nothing of its making into an image of
// the new epoch.
func TestRevokedPublisherPoisonsNothing(t *testing.T) {
	tree, place := makeTree(t, 43, 40), memory.New()
	alice, mallory := newPerson(t), newPerson(t)
	publishAs(t, place, mallory.options(t, "m"), "dir:"+tree)
	if n := poison(t, place, mallory, alice); n != 2 {
		t.Fatalf("%d pointers poisoned, want those of the chain and of the segment", n)
	}
	o := alice.options(t, "a")
	var err error
	if o.Salt, err = seal.NewSalt(seal.DefaultDomain, 2); err != nil {
		t.Fatal(err)
	}
	o.OldSalt = func(context.Context, blockmap.SaltID) (*seal.Salt, error) { return testSalt, nil }
	if r := publishAs(t, place, o, "dir:"+tree); r.LayersKnown != 0 {
		t.Errorf("a record that nobody trusted signed was sealed anew: %+v", r)
	}
	sameTree(t, alice.files(t, place, "a"), tree)
}
