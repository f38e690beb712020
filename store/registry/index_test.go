package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// sampleIndex returns an index of n chunks in a few packs, in random order.
func sampleIndex(seed uint64, n, packs int) *builder {
	rng := rand.New(rand.NewPCG(seed, 1))
	var b builder
	for i := range n {
		k := rng.IntN(packs)
		p := pack{origin.Sum(fmt.Appendf(nil, "pack %d", k)), 1 << 20}
		b.add(sha256.Sum256(fmt.Appendf(nil, "%d %d", seed, i)), p, rng.Uint32N(1<<19), minStored+rng.Uint32N(1<<19))
	}
	return &b
}

func TestIndexRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 2, 100, 5000} {
		b := sampleIndex(uint64(n), n, 7)
		want := make(map[chunk.ID]pack)
		for _, p := range b.places {
			want[p.id] = b.packs[p.pack]
		}
		encoded := b.encode()
		x, err := parseIndex(encoded)
		if err != nil {
			t.Fatalf("%d chunks: %v", n, err)
		}
		if len(x.places) != n || !bytes.Equal(x.encode(), encoded) {
			t.Errorf("%d chunks: came back as %d, or encode otherwise", n, len(x.places))
		}
		for _, p := range x.places {
			if x.packs[p.pack] != want[p.id] {
				t.Errorf("chunk %v lies in another pack now", p.id)
			}
		}
	}
}

// TestIndexIsCanonical adds the same chunks in another order.
func TestIndexIsCanonical(t *testing.T) {
	a := sampleIndex(1, 300, 5)
	var b builder
	for i := len(a.places) - 1; i >= 0; i-- {
		p := a.places[i]
		b.add(p.id, a.packs[p.pack], p.off, p.len)
	}
	if !bytes.Equal(a.encode(), b.encode()) {
		t.Error("the order of adding shows")
	}
}

// TestIndexVector is the example of doc/format/registry.md.
func TestIndexVector(t *testing.T) {
	var b builder
	var ids [2]chunk.ID
	p := pack{size: 200}
	for i := range p.digest {
		p.digest[i], ids[0][i], ids[1][i] = 0x33, 0x11, 0x22
	}
	b.add(ids[1], p, 100, 100)
	b.add(ids[0], p, 0, 100)
	encoded := b.encode()
	if sum := origin.Sum(encoded); len(encoded) != 144 || sum.String() != "sha256:89ed547f2b848143881ca757209a8e58459adde6bca4129f6772a227359620c5" {
		t.Errorf("%d bytes, %v", len(encoded), sum)
	}
}

func TestIndexRefuses(t *testing.T) {
	good := sampleIndex(3, 3, 2)
	encoded := good.encode()
	packs := len(good.packs)
	change := func(at int, b ...byte) []byte {
		c := bytes.Clone(encoded)
		copy(c[at:], b)
		return c
	}
	first := indexHeader + packs*packEntry
	u32 := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	for name, bad := range map[string][]byte{
		"empty":              {},
		"magic":              change(0, 'x'),
		"version":            change(3, '2'),
		"reserved":           change(12, 1),
		"too many packs":     change(4, u32(MaxPacks+1)...),
		"too many chunks":    change(8, u32(MaxIndexEntries+1)...),
		"one chunk more":     change(8, u32(4)...),
		"short":              encoded[:len(encoded)-1],
		"long":               append(bytes.Clone(encoded), 0),
		"pack order":         change(indexHeader, bytes.Repeat([]byte{0xff}, 32)...),
		"pack size":          change(indexHeader+32, bytes.Repeat([]byte{0xff}, 8)...),
		"small pack":         change(indexHeader+32, 1, 0, 0, 0, 0, 0, 0, 0),
		"no such pack":       change(first+32, u32(uint32(packs))...),
		"outside":            change(first+36, u32(1<<20)...),
		"offset wraps":       change(first+36, u32(0xffffffff)...),
		"too small a chunk":  change(first+40, u32(minStored-1)...),
		"too large a chunk":  change(first+40, u32(chunk.MaxStoredSize+1)...),
		"chunk order":        change(first, bytes.Repeat([]byte{0xff}, 32)...),
		"same chunk twice":   change(first+chunkEntry, encoded[first:first+32]...),
		"a pack without one": (&index{packs: good.packs}).encode(),
	} {
		if _, err := parseIndex(bad); !errors.Is(err, ErrIndex) {
			t.Errorf("%s: %v; want ErrIndex", name, err)
		}
	}
}

func FuzzIndex(f *testing.F) {
	for _, n := range []int{0, 1, 3} {
		f.Add(sampleIndex(uint64(n), n, 2).encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := parseIndex(b)
		if err == nil && !bytes.Equal(x.encode(), b) {
			t.Error("what is accepted has another encoding")
		}
	})
}

func BenchmarkParseIndex(b *testing.B) {
	encoded := sampleIndex(1, 20_000, 50).encode()
	b.SetBytes(int64(len(encoded)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseIndex(encoded); err != nil {
			b.Fatal(err)
		}
	}
}
