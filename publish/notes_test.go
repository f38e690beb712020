package publish

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
)

func openNotes(t testing.TB, place origin.Origin, o Options) *Notes {
	t.Helper()
	n, err := OpenNotes(context.Background(), place, o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// found returns what n finds, and whose notes it refused.
func found(t testing.TB, n *Notes, of string) (value string, refused []string) {
	t.Helper()
	refused, err := n.Find(context.Background(), "kind", of, func(b []byte, _ bool) bool { value = string(b); return true })
	if err != nil {
		t.Fatal(err)
	}
	return value, refused
}

func TestNotes(t *testing.T) {
	ctx, place := context.Background(), memory.New()
	alice, bob := newPerson(t), newPerson(t)
	mine := openNotes(t, place, alice.options(t, ""))
	for range 2 { // the second changes nothing
		if err := mine.Put(ctx, "kind", "a", []byte("what is a")); err != nil {
			t.Fatal(err)
		}
	}
	if got, refused := found(t, mine, "a"); got != "what is a" || refused != nil {
		t.Errorf("one's own: %q, refused %v", got, refused)
	}
	if got, refused := found(t, mine, "b"); got != "" || refused != nil {
		t.Errorf("none: %q, refused %v", got, refused)
	}
	stranger := openNotes(t, place, bob.options(t, ""))
	if got, refused := found(t, stranger, "a"); got != "" || !slices.Equal(refused, []string{alice.signer.Public().ID()}) {
		t.Errorf("of somebody who is not trusted: %q, refused %v", got, refused)
	}
	o := bob.options(t, "")
	o.Trusted = []sign.PublicKey{alice.signer.Public()}
	if got, refused := found(t, openNotes(t, place, o), "a"); got != "what is a" || refused != nil {
		t.Errorf("of somebody who is trusted: %q, refused %v", got, refused)
	}
	o = alice.options(t, "")
	o.Salt, o.SaltID = otherSalt(t, seal.DefaultDomain), [16]byte{}
	if got, refused := found(t, openNotes(t, place, o), "a"); got != "" || refused != nil {
		t.Errorf("with another salt: %q, refused %v", got, refused)
	}
	if err := mine.Put(ctx, "kind", "c", make([]byte, MaxNoteBytes+1)); err == nil {
		t.Error("a note that is too long was stored")
	}
	// What is in the store tells nobody what it speaks of.
	if err := place.Generation(1).ListPointers(ctx, "notes/", func(key string) error {
		d, err := catalog.Get(ctx, place.Generation(1), key)
		if err != nil {
			return err
		}
		b, err := place.Generation(1).GetObject(ctx, d, MaxNoteBytes)
		if bytes.Contains(b, []byte("what is a")) {
			t.Error("a note can be read by whoever reads the store")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestForgedNotes has whoever can write to the store put other bytes in a note's place.
func TestForgedNotes(t *testing.T) {
	ctx := context.Background()
	alice, eve := newPerson(t), newPerson(t)
	for what, forge := range map[string]func(t *testing.T, note, other, byEve []byte) []byte{
		"changed":          func(_ *testing.T, note, _, _ []byte) []byte { b := bytes.Clone(note); b[len(b)-1] ^= 1; return b },
		"cut short":        func(_ *testing.T, note, _, _ []byte) []byte { return note[:len(note)-1] },
		"of another thing": func(_ *testing.T, _, other, _ []byte) []byte { return other },
		"of somebody else": func(_ *testing.T, _, _, byEve []byte) []byte { return byEve },
		"empty":            func(*testing.T, []byte, []byte, []byte) []byte { return nil },
		"not compressed": func(t *testing.T, _, _, _ []byte) []byte {
			name, err := testSalt.Name("kind", "a")
			if err != nil {
				t.Fatal(err)
			}
			b, err := seal.LockRecord(testSalt, name, layout.Version, []byte("what is a"))
			if err == nil {
				b, err = signRecord(alice.signer, b, "x")
			}
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
	} {
		t.Run(what, func(t *testing.T) {
			place := memory.New()
			s := place.Generation(1)
			n, hers := openNotes(t, place, alice.options(t, "")), openNotes(t, place, eve.options(t, ""))
			read := func(n *Notes, signer *sign.Key, of string) ([]byte, string) {
				if err := n.Put(ctx, "kind", of, []byte("what is "+of)); err != nil {
					t.Fatal(err)
				}
				name, err := testSalt.Name("kind", of)
				if err != nil {
					t.Fatal(err)
				}
				key := catalog.NoteKey(name, testSalt.ID(), signer.Public().ID())
				d, err := catalog.Get(ctx, s, key)
				if err != nil {
					t.Fatal(err)
				}
				b, err := s.GetObject(ctx, d, MaxNoteBytes)
				if err != nil {
					t.Fatal(err)
				}
				return b, key
			}
			note, key := read(n, alice.signer, "a")
			other, _ := read(n, alice.signer, "b")
			byEve, _ := read(hers, eve.signer, "a")
			d, err := s.PutObject(ctx, forge(t, note, other, byEve))
			if err == nil {
				_, err = catalog.Set(ctx, s, key, d)
			}
			if err != nil {
				t.Fatal(err)
			}
			got, refused := found(t, n, "a")
			if got != "" || !slices.Contains(refused, alice.signer.Public().ID()) {
				t.Errorf("got %q, refused %v", got, refused)
			}
			if err := n.Put(ctx, "kind", "a", []byte("what is a")); err != nil { // it mends
				t.Fatal(err)
			}
			if got, _ := found(t, n, "a"); got != "what is a" {
				t.Errorf("put again: %q", got)
			}
		})
	}
}

// TestHas asks for a layer whose chunks were collected, whose record was changed, and that
// somebody published who is not trusted.
func TestHas(t *testing.T) {
	ctx := context.Background()
	alice, bob := newPerson(t), newPerson(t)
	for what, c := range map[string]struct {
		who   *person
		spoil func(t *testing.T, s origin.Store)
		want  bool
	}{
		"whole":       {alice, func(*testing.T, origin.Store) {}, true},
		"not trusted": {bob, func(*testing.T, origin.Store) {}, false},
		"a chunk is gone": {alice, func(t *testing.T, s origin.Store) {
			locked, diffID := recordOf(t, s)
			b, err := seal.OpenRecord(testSalt, diffID, layout.Version, locked)
			if err != nil {
				t.Fatal(err)
			}
			rec, err := decodeRecord(b)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(rec.Chunks, func(c stored) bool { return !c.hole() })
			if err := s.(chunk.Remover).Remove(ctx, rec.Chunks[i].ID); err != nil {
				t.Fatal(err)
			}
		}, false},
		"the list of chunks was changed": {alice, func(t *testing.T, s origin.Store) {
			if err := s.ListPointers(ctx, "segments/", func(key string) error {
				d, err := catalog.Get(ctx, s, key)
				if err != nil {
					return err
				}
				b, err := s.GetObject(ctx, d, maxRecordBytes)
				if err != nil {
					return err
				}
				b = bytes.Clone(b)
				b[len(b)-20] ^= 1
				if d, err = s.PutObject(ctx, b); err == nil {
					_, err = catalog.Set(ctx, s, key, d)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(strings.ReplaceAll(what, " ", "-"), func(t *testing.T) {
			place := memory.New()
			tree, _ := bigFile(t, noise)
			publishAs(t, place, alice.options(t, "a"), "dir:"+tree)
			_, diffID := recordOf(t, place.Generation(1))
			id, err := v1.NewHash(diffID.String())
			if err != nil {
				t.Fatal(err)
			}
			c.spoil(t, place.Generation(1))
			if got, err := openNotes(t, place, c.who.options(t, "")).Has(ctx, id); err != nil || got != c.want {
				t.Errorf("has the layer: %v, %v; want %v", got, err, c.want)
			}
		})
	}
}

// FuzzNote: whatever stands in a note, reading it ends.
func FuzzNote(f *testing.F) {
	b, err := encodeNote([]byte(`{"key":"x"}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(noteMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		value, err := decodeNote(b)
		if err == nil && len(value) > MaxNoteBytes {
			t.Errorf("%d bytes", len(value))
		}
	})
}
