package blockmap

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"flag"
	"os"
	"path/filepath"
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
	additional, keys := m.Parts()
	gcm := vectorGCM()
	gcm.Seal(keys[:0], info.Lock.Nonce[:], keys[:len(keys)-gcm.Overhead()], additional)
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
	{"empty", "sha256:d6ed0189473e1a235370cf349587e0ac508b0d3407b4854318b001a743425320", func() []byte { return must(Encode(emptyVector())) }},
	{"small", "sha256:6343fd46eb1ad43071d94c44ad460429df344a22eb51fb2e4ed21e6df9ff7888", func() []byte { return must(Encode(smallVector())) }},
	{"locked", "sha256:fde744f3659f6418eb6bfe961e65989e8722206d323813fec8756871c1583ef8", lockVector},
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
	additional, keys := m.Parts()
	if !bytes.Equal(keys[len(keys)-tagBytes:], info.Lock.Tag[:]) {
		t.Error("Lock.Tag is not the end of the key table")
	}
	open, err := vectorGCM().Open(nil, info.Lock.Nonce[:], keys, additional)
	if err != nil {
		t.Fatal(err)
	}
	_, chunks := smallVector()
	for i, c := range chunks {
		if Key(open[i*keyBytes:][:keyBytes]) != c.Key {
			t.Errorf("key %d differs", i)
		}
		if m.Chunk(i).Key == c.Key || m.Chunk(i).ID != c.ID {
			t.Errorf("chunk %d: key readable, or ID is not", i)
		}
	}
	for _, at := range []int{12, 40, 161, 256, 500, len(additional) - 1} {
		bad := bytes.Clone(additional)
		bad[at] ^= 1
		if _, err := vectorGCM().Open(nil, info.Lock.Nonce[:], keys, bad); err == nil {
			t.Errorf("byte %d is not authenticated", at)
		}
	}
}
