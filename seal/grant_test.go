package seal_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/store/memory"
)

func list(t *testing.T, s origin.Attachments, m *blockmap.Map, kind string) (all [][]byte) {
	t.Helper()
	err := s.ListAttachments(context.Background(), m.Digest(), kind, func(b []byte) error { all = append(all, b); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// lockedMap returns a locked block map with its key, and two identities.
func lockedMap(t *testing.T) (m *blockmap.Map, key seal.ImageKey, ids [2]*agewrap.Identities) {
	t.Helper()
	info := &blockmap.Info{Layout: 1, Size: 1 << 20, ChunkLog2: 19, FrameLog2: 16, SaltID: blockmap.SaltID{1}}
	m, key, err := seal.Lock(info, []blockmap.Chunk{{Stored: 100, Size: 10, ID: chunk.ID{1}, Key: blockmap.Key{2}}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range ids {
		if ids[i], err = agewrap.CreateIdentity(filepath.Join(t.TempDir(), "id")); err != nil {
			t.Fatal(err)
		}
	}
	return m, key, ids
}

// TestGrant locks a map for one, then for another with the help of the first.
func TestGrant(t *testing.T) {
	ctx := context.Background()
	m, key, ids := lockedMap(t)
	store := memory.New().Generation(1)
	first, second := ids[0].Recipients()[0], ids[1].Recipients()[0]
	if n, err := seal.Grant(ctx, m, key, []seal.Recipient{first, first}, store); err != nil || n != 1 {
		t.Fatalf("Grant = %d, %v; want 1", n, err)
	}
	if _, _, err := seal.UnlockKey(ctx, m, store, ids[1]); !errors.Is(err, seal.ErrNotRecipient) {
		t.Errorf("unlocked before it was granted: %v", err)
	}
	open, found, err := seal.UnlockKey(ctx, m, store, ids[1], ids[0])
	if err != nil || found != key || open.Chunk(0).Key != (blockmap.Key{2}) {
		t.Fatalf("UnlockKey: %v", err)
	}
	for i, want := range []int{1, 0} {
		if n, err := seal.Grant(ctx, open, found, []seal.Recipient{first, second}, store); err != nil || n != want {
			t.Errorf("Grant %d = %d, %v; want %d", i, n, err, want)
		}
	}
	if _, _, err := seal.UnlockKey(ctx, m, store, ids[1]); err != nil {
		t.Errorf("granted, and not unlocked: %v", err)
	}
	if w, r := len(list(t, store, m, agewrap.Kind)), len(list(t, store, m, seal.RecipientKind)); w != 2 || r != 2 {
		t.Errorf("%d wrapped keys, %d tags; want two of each", w, r)
	}
}

// TestGrantAgain: a tag whose wrapped key was lost, or is another one, keeps nobody
// from being granted the key anew.
func TestGrantAgain(t *testing.T) {
	ctx := context.Background()
	m, key, ids := lockedMap(t)
	to := []seal.Recipient{ids[0].Recipients()[0], ids[1].Recipients()[0]}
	store := memory.New().Generation(1)
	if _, err := seal.Grant(ctx, m, key, to, store); err != nil {
		t.Fatal(err)
	}
	wraps, tags := list(t, store, m, agewrap.Kind), list(t, store, m, seal.RecipientKind)
	mine, ok := bytes.CutPrefix(tags[0], hash(wraps[0]))
	other := append(hash(wraps[1]), mine...) // of the first recipient, with the wrapped key of the second
	for what, c := range map[string]struct {
		wraps, tags [][]byte
		want        int
	}{
		"all is there":         {wraps, tags, 0},
		"one is lost":          {wraps[1:], tags, 1},
		"all are lost":         {nil, tags, 2},
		"tags are lost":        {wraps, nil, 2},
		"one's tag is another": {wraps, [][]byte{other, tags[1]}, 1},
	} {
		store := memory.New().Generation(1)
		for kind, data := range map[string][][]byte{agewrap.Kind: c.wraps, seal.RecipientKind: c.tags} {
			for _, b := range data {
				if err := store.Attach(ctx, m.Digest(), kind, b); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, want := range []int{c.want, 0} {
			if n, err := seal.Grant(ctx, m, key, to, store); err != nil || n != want || !ok {
				t.Errorf("%s: Grant %d = %d, %v; want %d", what, i, n, err, want)
			}
		}
		for i, id := range ids {
			if _, _, err := seal.UnlockKey(ctx, m, store, id); err != nil {
				t.Errorf("%s: recipient %d: %v", what, i, err)
			}
		}
	}
}

func hash(b []byte) []byte {
	d := origin.Sum(b)
	return d[:]
}

func TestLockSalt(t *testing.T) {
	before, err := seal.NewSalt("d", 2)
	if err != nil {
		t.Fatal(err)
	}
	s, err := seal.NewSalt("d", 3)
	if err != nil {
		t.Fatal(err)
	}
	locked, key := seal.LockSalt(s, before)
	got, err := seal.OpenSalt(locked, key, s.ID())
	if err != nil || string(got.Bytes()) != string(s.Bytes()) {
		t.Fatalf("OpenSalt = %v, %v", got, err)
	}
	if again, other := seal.LockSalt(s, before); string(again) == string(locked) || other == key {
		t.Error("two locks are equal")
	}
	wrong := key
	wrong[0] ^= 1
	if _, err := seal.OpenSalt(locked, wrong, s.ID()); !errors.Is(err, seal.ErrSaltKey) {
		t.Errorf("another key: %v; want ErrSaltKey", err)
	}
	if _, err := seal.OpenSalt(locked, key, blockmap.SaltID{1}); !errors.Is(err, seal.ErrSaltKey) {
		t.Errorf("another ID: %v; want ErrSaltKey", err)
	}
	for i := range locked {
		bent := append([]byte{}, locked...)
		bent[i] ^= 0x40
		if _, err := seal.OpenSalt(bent, key, s.ID()); err == nil {
			t.Fatalf("byte %d changed, and opened", i)
		}
		if _, err := seal.OpenSalt(locked[:i], key, s.ID()); err == nil {
			t.Fatalf("cut to %d bytes, and opened", i)
		}
	}
}

// TestSucceeds: nobody who lacks a domain's salt makes one that comes after it.
func TestSucceeds(t *testing.T) {
	salt := func(domain string, epoch uint32) *seal.Salt {
		s, err := seal.NewSalt(domain, epoch)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, stranger, next := salt("d", 1), salt("d", 1), salt("d", 2)
	good, _ := seal.LockSalt(next, first)
	forged, _ := seal.LockSalt(next, stranger)
	none, _ := seal.LockSalt(next, nil)
	other, _ := seal.LockSalt(salt("d", 2), first)
	if id := first.ID(); seal.Before(good) != id || seal.Before(none) != (blockmap.SaltID{}) || seal.Before(nil) != (blockmap.SaltID{}) {
		t.Errorf("Before = %x, want %x", seal.Before(good), id)
	}
	for what, c := range map[string]struct {
		s, before *seal.Salt
		locked    []byte
		want      bool
	}{
		"made after it":            {next, first, good, true},
		"made by a stranger":       {next, first, forged, false},
		"made as a first":          {next, first, none, false},
		"another salt's proof":     {next, first, other, false},
		"no locked salt":           {next, first, good[:40], false},
		"two epochs later":         {salt("d", 3), first, good, false},
		"of another domain":        {salt("e", 2), first, good, false},
		"proof by the same ID":     {next, stranger, good, false},
		"the salt before its self": {first, next, good, false},
	} {
		if got := c.s.Succeeds(c.before, c.locked); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
	if a, b := first.Vouch("a", []byte("m")), first.Vouch("b", []byte("m")); a == b {
		t.Error("two labels give one proof")
	}
}

func FuzzOpenSalt(f *testing.F) {
	s, _ := seal.NewSalt("d", 1)
	locked, key := seal.LockSalt(s, nil)
	f.Add(locked)
	f.Add([]byte("rvsltlk1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := seal.OpenSalt(b, key, s.ID()); err == nil && string(got.Bytes()) != string(s.Bytes()) {
			t.Errorf("opened as %v", got)
		}
	})
}
