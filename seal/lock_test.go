package seal_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/store/memory"
)

// config is the configuration of mapOf's map.
const config = `{"os":"linux","config":{"Env":["TOKEN=c0ffee"]}}`

// mapOf returns what a block map of n made-up chunks consists of.
func mapOf(n int) (*blockmap.Info, []blockmap.Chunk) {
	info := &blockmap.Info{
		Layout: 1, Size: int64(max(n, 1)) << 19, ChunkLog2: 19, FrameLog2: 16,
		SaltID: blockmap.SaltID{1}, Source: origin.Sum([]byte("source")), Config: []byte(config),
	}
	var chunks []blockmap.Chunk
	for i := range n {
		sum := sha256.Sum256([]byte{byte(i)})
		chunks = append(chunks, blockmap.Chunk{Index: uint32(i), Stored: 1000, Size: 900, ID: chunk.ID(sum), Key: seal.Key(sha256.Sum256(sum[:]))})
	}
	return info, chunks
}

func lock(t testing.TB, n int) (*blockmap.Map, seal.ImageKey, []blockmap.Chunk) {
	t.Helper()
	info, chunks := mapOf(n)
	m, key, err := seal.Lock(info, chunks)
	if err != nil {
		t.Fatal(err)
	}
	if info.Lock != (blockmap.Lock{}) {
		t.Error("Lock changed the info")
	}
	return m, key, chunks
}

func TestLock(t *testing.T) {
	for _, n := range []int{0, 1, 100} {
		m, key, chunks := lock(t, n)
		if !m.Locked() || !errors.Is(seal.CheckReadable(m), seal.ErrLocked) {
			t.Errorf("%d chunks: not locked", n)
		}
		open, err := seal.Unlock(m, key)
		if err != nil {
			t.Fatal(err)
		}
		if open.Locked() || open.Digest() != m.Digest() || !bytes.Equal(open.Bytes(), m.Bytes()) || seal.CheckReadable(open) != nil || !m.Locked() {
			t.Errorf("%d chunks: the view is not one of the stored map", n)
		}
		if m.Info().Config != nil || bytes.Contains(m.Bytes(), []byte(config)) || string(open.Info().Config) != config {
			t.Errorf("%d chunks: configuration %q locked, %q unlocked", n, m.Info().Config, open.Info().Config)
		}
		for i, c := range chunks {
			if open.Chunk(i) != c {
				t.Errorf("chunk %d of %d differs", i, n)
			}
			if got, found := open.Lookup(c.Index); !found || got != c {
				t.Errorf("look-up of chunk %d of %d differs", i, n)
			}
			if m.Chunk(i).Key == c.Key || bytes.Contains(m.Bytes(), c.Key[:]) {
				t.Errorf("key %d of %d is readable", i, n)
			}
			if m.Chunk(i).ID != c.ID || m.Chunk(i).Stored != c.Stored {
				t.Errorf("chunk %d of %d: what collectors need is not readable", i, n)
			}
		}
		if again, err := seal.Unlock(open, seal.ImageKey{}); err != nil || again != open {
			t.Errorf("unlocked twice: %v", err)
		}
		wrong := key
		wrong[31] ^= 1
		if _, err := seal.Unlock(m, wrong); !errors.Is(err, seal.ErrImageKey) {
			t.Errorf("another key: %v", err)
		}
	}
	m, key, _ := lock(t, 3)
	if other, otherKey, _ := lock(t, 3); other.Digest() == m.Digest() || otherKey == key {
		t.Error("one image key or nonce serves two maps")
	}
}

// TestLockCoversTheMap changes each byte of a locked map: what still parses does
// not open.
func TestLockCoversTheMap(t *testing.T) {
	m, key, _ := lock(t, 4)
	for at := range m.Bytes() {
		bad := bytes.Clone(m.Bytes())
		bad[at] ^= 1
		changed, err := blockmap.Parse(bad)
		if err != nil || !changed.Locked() {
			continue
		}
		if _, err := seal.Unlock(changed, key); !errors.Is(err, seal.ErrImageKey) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
}

func TestLockOpen(t *testing.T) {
	info, chunks := mapOf(5)
	info.Lock = blockmap.Lock{Kind: blockmap.LockAES256GCM, Nonce: [12]byte{1}} // of the map it was made from
	m, err := seal.LockOpen(info, chunks)
	if err != nil || m.Locked() || m.Chunk(3) != chunks[3] || string(m.Info().Config) != config || seal.CheckReadable(m) != nil {
		t.Fatalf("%v, %v", m, err)
	}
	info.SaltID = blockmap.SaltID{}
	if m, err = seal.LockOpen(info, chunks); err != nil || !errors.Is(seal.CheckReadable(m), seal.ErrUnsealed) {
		t.Errorf("a map without a salt: %v, %v", err, seal.CheckReadable(m))
	}
	slices.Reverse(chunks)
	if _, err := seal.LockOpen(info, chunks); !errors.Is(err, blockmap.ErrFormat) {
		t.Errorf("chunks out of order: %v", err)
	}
	if _, _, err := seal.Lock(info, chunks); !errors.Is(err, blockmap.ErrFormat) {
		t.Errorf("chunks out of order, locked: %v", err)
	}
}

// A box is an unwrapper whose keys are wrapped by XOR with its number: good
// enough to test those who try several.
type box struct {
	n     byte
	fails error // of keys that are its own
	tried int
}

func (b *box) Kind() string { return "box" }

func (b *box) Wrap(_ context.Context, key seal.ImageKey, _ seal.About) ([]byte, error) {
	data := []byte{b.n}
	for _, k := range key {
		data = append(data, k^b.n)
	}
	return data, nil
}

func (b *box) Unwrap(_ context.Context, data []byte, about seal.About) (seal.ImageKey, error) {
	b.tried++
	if data[0] != b.n {
		return seal.ImageKey{}, fmt.Errorf("box %d: %w", data[0], seal.ErrNotRecipient)
	}
	if b.fails != nil {
		return seal.ImageKey{}, b.fails
	}
	key := seal.ImageKey(data[1:])
	for i := range key {
		key[i] ^= b.n
	}
	return key, nil
}

func TestUnlockFor(t *testing.T) {
	m, key, chunks := lock(t, 3)
	refused := errors.New("access denied")
	for name, c := range map[string]struct {
		wraps [][]byte // beside those for boxes 1 and 2
		boxes []seal.Unwrapper
		want  error
	}{
		"first":          {nil, []seal.Unwrapper{&box{n: 1}}, nil},
		"second":         {nil, []seal.Unwrapper{&box{n: 2}}, nil},
		"among others":   {nil, []seal.Unwrapper{&box{n: 9}, &box{n: 1, fails: refused}, &box{n: 2}}, nil},
		"a wrong key":    {[][]byte{wrongKey(2, 0x11), wrongKey(2, 0x77)}, []seal.Unwrapper{&box{n: 2}}, nil},
		"nobody":         {nil, nil, seal.ErrNotRecipient},
		"stranger":       {nil, []seal.Unwrapper{&box{n: 3}}, seal.ErrNotRecipient},
		"refused":        {nil, []seal.Unwrapper{&box{n: 3}, &box{n: 2, fails: refused}}, refused},
		"only wrong key": {[][]byte{wrongKey(3, 0x11)}, []seal.Unwrapper{&box{n: 3}}, seal.ErrImageKey},
		"too long":       {[][]byte{append(wrongKey(3, 0x11), make([]byte, seal.MaxWrapBytes)...)}, []seal.Unwrapper{&box{n: 3}}, nil},
	} {
		store := memory.New().Generation(1)
		for n := range byte(2) {
			data, err := (&box{n: n + 1}).Wrap(t.Context(), key, seal.AboutMap(m))
			if err != nil {
				t.Fatal(err)
			}
			c.wraps = append(c.wraps, data)
		}
		for _, data := range c.wraps {
			if err := store.Attach(t.Context(), m.Digest(), "box", data); err != nil {
				t.Fatal(err)
			}
		}
		open, err := seal.UnlockFor(t.Context(), m, store, c.boxes...)
		if name == "too long" {
			if err == nil || !strings.Contains(err.Error(), "at most") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, c.want) || c.want == nil && (open == nil || open.Locked() || open.Chunk(2) != chunks[2]) {
			t.Errorf("%s: %v, %v; want %v", name, open, err, c.want)
		}
	}
}

// wrongKey is a wrapped key for box n that is the key of nothing.
func wrongKey(n, fill byte) []byte { return append([]byte{n}, bytes.Repeat([]byte{fill}, 32)...) }

func TestUnlockForEnds(t *testing.T) {
	m, key, _ := lock(t, 1)
	store := memory.New().Generation(1)
	b := &box{n: 1}
	for i := range 20 {
		if err := store.Attach(t.Context(), m.Digest(), "box", wrongKey(1, byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := seal.UnlockFor(t.Context(), m, store, b); !errors.Is(err, seal.ErrImageKey) || b.tried != 20 || strings.Count(err.Error(), "\n") > 4 {
		t.Errorf("tried %d wrong keys: %v", b.tried, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := seal.UnlockFor(ctx, m, store, b); !errors.Is(err, context.Canceled) || b.tried != 20 {
		t.Errorf("cancelled, %d keys tried: %v", b.tried-20, err)
	}
	open, err := seal.Unlock(m, key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := seal.UnlockFor(t.Context(), open, nil); err != nil || got != open {
		t.Errorf("an open map: %v", err)
	}
}

func TestRecord(t *testing.T) {
	salt, other := fixedSalt(t, "default", 1), fixedSalt(t, "default", 2)
	diff := origin.Sum([]byte("layer"))
	for _, record := range [][]byte{nil, []byte("record"), noise(1, 1<<20)} {
		locked, err := seal.LockRecord(salt, diff, 1, record)
		if err != nil || len(locked) != len(record)+seal.RecordOverhead {
			t.Fatalf("%d bytes for %d, %v", len(locked), len(record), err)
		}
		if len(record) >= 16 && bytes.Contains(locked, record[:16]) {
			t.Error("the record is readable")
		}
		got, err := seal.OpenRecord(salt, diff, 1, locked)
		if err != nil || !bytes.Equal(got, record) {
			t.Errorf("%d bytes come back as %d, %v", len(record), len(got), err)
		}
		if again, err := seal.LockRecord(salt, diff, 1, record); err != nil || bytes.Equal(again, locked) {
			t.Errorf("locked twice with one nonce (%v)", err)
		}
		for name, open := range map[string]func() ([]byte, error){
			"salt":   func() ([]byte, error) { return seal.OpenRecord(other, diff, 1, locked) },
			"layer":  func() ([]byte, error) { return seal.OpenRecord(salt, origin.Sum([]byte("other")), 1, locked) },
			"layout": func() ([]byte, error) { return seal.OpenRecord(salt, diff, 2, locked) },
			"cut":    func() ([]byte, error) { return seal.OpenRecord(salt, diff, 1, locked[:len(locked)-1]) },
			"longer": func() ([]byte, error) { return seal.OpenRecord(salt, diff, 1, append(slices.Clone(locked), 0)) },
			"empty":  func() ([]byte, error) { return seal.OpenRecord(salt, diff, 1, nil) },
		} {
			if got, err := open(); !errors.Is(err, seal.ErrRecord) || got != nil {
				t.Errorf("another %s: %d bytes, %v", name, len(got), err)
			}
		}
		for at := 0; at < len(locked); at += 1 + len(locked)/100 {
			bad := slices.Clone(locked)
			bad[at] ^= 1
			if _, err := seal.OpenRecord(salt, diff, 1, bad); !errors.Is(err, seal.ErrRecord) {
				t.Errorf("byte %d changed: %v", at, err)
			}
		}
	}
}

func FuzzUnlock(f *testing.F) {
	info, chunks := mapOf(2)
	key := vectorImageKey // the same in every process of the fuzzer
	m, err := seal.LockWith(info, chunks, key, vectorNonce)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.Bytes(), key[:])
	open, err := seal.LockOpen(info, chunks)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(open.Bytes(), key[:])
	f.Fuzz(func(t *testing.T, b, k []byte) {
		var image seal.ImageKey
		copy(image[:], k)
		got, err := blockmap.Parse(b)
		if err != nil {
			return
		}
		view, err := seal.Unlock(got, image)
		if err != nil {
			return
		}
		if view.Locked() || view.Digest() != got.Digest() {
			t.Fatal("the view is not an open one of the map")
		}
		if got.Locked() && (got.Digest() != m.Digest() || image != key) {
			t.Fatal("a key opens what it did not lock")
		}
		if view.Info().Config == nil {
			t.Fatal("an open view without its configuration")
		}
		for i := range view.Len() {
			view.Chunk(i)
		}
	})
}

func FuzzOpenRecord(f *testing.F) {
	salt, diff := fixedSalt(f, "default", 1), origin.Sum([]byte("layer"))
	good, err := seal.LockRecordWith(salt, diff, 1, []byte("record"), vectorNonce)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := seal.OpenRecord(salt, diff, 1, b); err == nil && (string(got) != "record" || !bytes.Equal(b, good)) {
			t.Fatalf("opens to %d bytes", len(got))
		}
	})
}
