package blockmap

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

var update = flag.Bool("update", false, "write the test vectors anew")

// sum names made-up things in the vectors by the digest of a word.
func sum(s string) origin.Digest { return origin.Sum([]byte(s)) }

// vectorChunk is what doc/format/blockmap.md says of the vectors' chunks.
func vectorChunk(index, stored, size uint32, word string) Chunk {
	return Chunk{
		Index: index, Stored: stored, Size: size,
		ID:  chunk.ID(sum("id " + word)),
		Key: Key(sum("key " + word)),
	}
}

func emptyVector() (*Info, []Chunk) {
	return &Info{Layout: 1, Size: 512, ChunkLog2: 16, FrameLog2: 14, Disk: NewDiskHash(1, 512).Sum()}, nil
}

func smallVector() (*Info, []Chunk) {
	info := &Info{
		Layout: 1, Size: 8<<20 + 512, ChunkLog2: 19, FrameLog2: 16,
		Source: sum("source"), ChainID: sum("chain"), Metadata: sum("metadata"),
		SaltID: SaltID([]byte("0123456789abcdef")),
		Config: []byte(`{"os":"linux"}`),
		Layers: []Layer{
			{DiffID: sum("diff a"), Compressed: sum("blob a"), CompressedSize: 1000, First: 2, Slot: 4, Segment: 3},
			{DiffID: sum("diff b"), Compressed: sum("blob b"), CompressedSize: 20, First: 8, Slot: 0, Segment: 0},
			{DiffID: sum("diff c"), Compressed: sum("blob c"), CompressedSize: 1 << 40, First: 8, Slot: 8, Segment: 1},
		},
	}
	chunks := []Chunk{
		vectorChunk(0, 70_000, 524_288, "one"),
		vectorChunk(2, 524_700, 524_288, "two"),
		vectorChunk(8, 49, 1, "three"),
		vectorChunk(16, 560, 512, "four"),
	}
	h := NewDiskHash(info.Layout, info.Size)
	for _, c := range chunks {
		if err := h.Add(int64(c.Index)<<19, sha256.Sum256([]byte{byte(c.Index)})); err != nil {
			panic(err)
		}
	}
	info.Disk = h.Sum()
	return info, chunks
}

// lockVector locks the small vector under an image key of 32 bytes 0x42 with
// a nonce of twelve bytes 0x17.
func lockVector() []byte {
	info, chunks := smallVector()
	info.Lock.Kind = LockAES256GCM
	copy(info.Lock.Nonce[:], bytes.Repeat([]byte{0x17}, 12))
	b := must(Encode(info, chunks))
	m := must(Parse(b))
	additional, secret := m.Parts()
	gcm := vectorGCM()
	gcm.Seal(secret[:0], info.Lock.Nonce[:], secret[:len(secret)-gcm.Overhead()], additional)
	return b
}

func vectorGCM() cipher.AEAD {
	return must(cipher.NewGCM(must(aes.NewCipher(bytes.Repeat([]byte{0x42}, 32)))))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var vectors = []struct {
	name   string
	digest string
	make   func() []byte
}{
	{"empty", "sha256:aef6088b6a78960e0cdeb6bf1f836e578b8ee5ea628b8d1b52c23bf315fc7e85", func() []byte { return must(Encode(emptyVector())) }},
	{"small", "sha256:db7e62468eab6e0f8c6fb29c26118d41cdd0eab4c3ccb5cd6da6e184099c1457", func() []byte { return must(Encode(smallVector())) }},
	{"locked", "sha256:3162739abe291f41e89cc643bf4b03a422aa91e7724695cdf4fde3c58bf53361", lockVector},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			got, name := v.make(), filepath.Join("testdata", v.name+".blockmap")
			if *update {
				if err := os.WriteFile(name, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("encoding differs from %s", name)
			}
			m, err := Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			if d := m.Digest().String(); d != v.digest {
				t.Errorf("digest %s, want %s", d, v.digest)
			}
		})
	}
}

func TestLockedVectorOpens(t *testing.T) {
	m := must(Parse(lockVector()))
	if !m.Locked() {
		t.Fatal("not locked")
	}
	info := m.Info()
	additional, locked := m.Parts()
	if !bytes.Equal(locked[len(locked)-tagBytes:], info.Lock.Tag[:]) {
		t.Error("Lock.Tag is not the end of what is locked")
	}
	secret, err := vectorGCM().Open(nil, info.Lock.Nonce[:], locked, additional)
	if err != nil {
		t.Fatal(err)
	}
	open := must(m.Unlocked(secret))
	want, chunks := smallVector()
	for i, c := range chunks {
		if open.Chunk(i) != c {
			t.Errorf("chunk %d differs", i)
		}
		if m.Chunk(i).Key == c.Key || m.Chunk(i).ID != c.ID {
			t.Errorf("chunk %d: key readable, or ID is not", i)
		}
	}
	if info.Config != nil || bytes.Contains(m.Bytes(), want.Config) {
		t.Error("the configuration is readable")
	}
	view := open.Info()
	if string(view.Config) != string(want.Config) || open.Locked() || open.Digest() != m.Digest() {
		t.Errorf("unlocked: %+v of %v", view, open)
	}
	if view.Config = nil; !reflect.DeepEqual(view, info) {
		t.Errorf("unlocking changes more than the configuration:\n got %+v\nwant %+v", view, info)
	}
	for name, try := range map[string]func() (*Map, error){
		"short":    func() (*Map, error) { return m.Unlocked(secret[1:]) },
		"with tag": func() (*Map, error) { return m.Unlocked(append(secret, info.Lock.Tag[:]...)) },
		"keys":     func() (*Map, error) { return m.Unlocked(secret[:len(chunks)*keyBytes]) },
		"twice":    func() (*Map, error) { return open.Unlocked(secret) },
	} {
		if _, err := try(); err == nil {
			t.Errorf("%s: unlocks", name)
		}
	}
	for _, at := range []int{12, 40, 161, 256, 500, len(additional) - 1} {
		bad := bytes.Clone(additional)
		bad[at] ^= 1
		if _, err := vectorGCM().Open(nil, info.Lock.Nonce[:], locked, bad); err == nil {
			t.Errorf("byte %d is not authenticated", at)
		}
	}
}
