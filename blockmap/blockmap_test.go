package blockmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/origin"
)

func TestBoundsFitAnObject(t *testing.T) {
	if MaxBytes > origin.MaxObjectBytes {
		t.Errorf("largest map has %d bytes, largest object %d", MaxBytes, origin.MaxObjectBytes)
	}
	if chunkBytes+keyBytes > 100 {
		t.Errorf("%d bytes a chunk, at most 100", chunkBytes+keyBytes)
	}
}

func TestRoundTrip(t *testing.T) {
	info, chunks := smallVector()
	m := must(Parse(must(Encode(info, chunks))))
	got := m.Info()
	if !reflect.DeepEqual(&got, info) {
		t.Errorf("info:\n got %+v\nwant %+v", got, *info)
	}
	if !reflect.DeepEqual(m.Layers(), info.Layers) || m.Size() != info.Size || m.Locked() {
		t.Error("Layers, Size or Locked differ from the info")
	}
	if m.Len() != len(chunks) {
		t.Fatalf("%d chunks, want %d", m.Len(), len(chunks))
	}
	for i, want := range chunks {
		if m.Chunk(i) != want {
			t.Errorf("chunk %d: %+v, want %+v", i, m.Chunk(i), want)
		}
	}
	if info.Span() != 17 || info.ChunkSize() != 512<<10 {
		t.Errorf("%d slots of %d bytes", info.Span(), info.ChunkSize())
	}
}

func TestLookup(t *testing.T) {
	_, chunks := smallVector()
	m := must(Parse(must(Encode(smallVector()))))
	for index := range uint32(20) {
		at, want := slices.BinarySearchFunc(chunks, index, func(c Chunk, i uint32) int { return int(c.Index) - int(i) })
		if i, found := m.Search(index); i != at || found != want {
			t.Errorf("Search(%d) = %d, %v, want %d, %v", index, i, found, at, want)
		}
		c, found := m.Lookup(index)
		if found != want || found && c != chunks[at] {
			t.Errorf("Lookup(%d) = %+v, %v", index, c, found)
		}
	}
	if _, found := m.Lookup(math.MaxUint32); found {
		t.Error("Lookup past the end found a chunk")
	}
	if n := testing.AllocsPerRun(100, func() { m.Lookup(8); m.Chunk(1) }); n != 0 {
		t.Errorf("look-up allocates %v times", n)
	}
}

// bend returns the small vector with one change to its bytes.
func bend(change func(b []byte)) []byte {
	b := must(Encode(smallVector()))
	change(b)
	return b
}

func put32(at int, v uint32) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], v) }
}

func put64(at int, v uint64) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint64(b[at:], v) }
}

func TestMalformed(t *testing.T) {
	const (
		layers = 256
		chunks = 576 // layers + 3*88, rounded up to 64
		keys   = 768 // chunks + 4*44, rounded up to 64
		config = keys + 4*keyBytes
		length = config + 14 + tagBytes
	)
	small := must(Encode(smallVector()))
	if len(small) != length {
		t.Fatalf("small vector has %d bytes, want %d", len(small), length)
	}
	tests := []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "no header"},
		{"header cut", small[:255], "no header"},
		{"magic", bend(put32(0, 0)), "no header"},
		{"version 0", bend(put32(8, 0)), "version 0"},
		{"version 1", bend(put32(8, 1)), "published by an older version; publish again"},
		{"version 3", bend(put32(8, 3)), "version 3, want 2"},
		{"last byte missing", small[:length-1], "bytes, want"},
		{"byte too many", append(bytes.Clone(small), 0), "bytes, want"},
		{"disk empty", bend(put64(16, 0)), "disk of 0 bytes"},
		{"disk not of sectors", bend(put64(16, 8<<20+513)), "disk of"},
		{"disk too large", bend(put64(16, MaxDiskBytes+512)), "disk of"},
		{"disk negative", bend(put64(16, 1<<63)), "disk of"},
		{"chunk size below", bend(put32(24, 15)), "chunk size 2^15"},
		{"chunk size above", bend(put32(24, 23)), "chunk size 2^23"},
		{"chunk size wraps", bend(put32(24, 256+19)), "chunk size 2^275"},
		{"frame size below", bend(put32(28, 13)), "frame size 2^13"},
		{"frame size above", bend(put32(28, 21)), "frame size 2^21"},
		{"frame over chunk", bend(put32(28, 20)), "frame size 2^20"},
		{"lock kind", bend(put32(176, 2)), "unknown kind 2"},
		{"open with nonce", bend(put32(180, 1)), "nonce or tag"},
		{"open with tag", bend(put32(length-4, 1)), "nonce or tag"},
		{"layers elsewhere", bend(put64(192, layers+8)), "not where"},
		{"too many layers", bend(put32(200, MaxLayers+1)), "layers, at most"},
		{"one layer fewer", bend(put32(200, 2)), "not where"},
		{"layer width", bend(put32(204, 96)), "entries of 96"},
		{"chunks elsewhere", bend(put64(208, chunks+64)), "not where"},
		{"too many chunks", bend(put32(216, MaxChunks+1)), "chunks, at most"},
		{"one chunk fewer", bend(put32(216, 3)), "not where"},
		{"one chunk more", bend(put32(216, 5)), "not where"},
		{"chunk width", bend(put32(220, 76)), "entries of"},
		{"keys elsewhere", bend(put64(224, keys-64)), "not where"},
		{"configuration elsewhere", bend(put64(232, config+1)), "not where"},
		{"configuration too long", bend(put64(240, MaxConfigBytes+1)), "configuration of"},
		{"configuration huge", bend(put64(240, math.MaxUint64)), "configuration of"},
		{"configuration one shorter", bend(put64(240, 13)), "length field"},
		{"length field", bend(put64(248, length+1)), "length field"},
		{"compressed size", bend(put64(layers+64, 1<<63)), "compressed size"},
		{"slots overlap", bend(put32(layers+2*layerBytes+72, 5)), "inside the one before"},
		{"segment over slot", bend(put32(layers+80, 5)), "segment of 5 chunks in a slot of 4"},
		{"slot past the end", bend(put32(layers+2*layerBytes+76, 10)), "slot ends at chunk 18 of 17"},
		{"slot overflows", bend(put32(layers+2*layerBytes+76, math.MaxUint32)), "slot ends"},
		{"layer padding", bend(put32(layers+84, 1)), "layer 0: padding"},
		{"padding before chunks", bend(put32(chunks-4, 1)), "padding"},
		{"padding after layers", bend(put32(layers+3*layerBytes, 1)), "padding"},
		{"padding before keys", bend(put32(keys-4, 1)), "padding"},
		{"index twice", bend(put32(chunks+chunkBytes, 0)), "does not rise"},
		{"index falls", bend(put32(chunks+2*chunkBytes, 1)), "does not rise"},
		{"index past the end", bend(put32(chunks+3*chunkBytes, 17)), "index 17 of 17"},
		{"stored empty", bend(put32(chunks+4, 0)), "stored as 0"},
		{"stored too long", bend(put32(chunks+4, uint32(MaxStored(512<<10)+1))), "stored as"},
		{"no plaintext", bend(put32(chunks+8, 0)), "0 bytes of plaintext"},
		{"plaintext over a chunk", bend(put32(chunks+8, 512<<10+1)), "bytes of plaintext"},
		{"plaintext over the disk", bend(put32(chunks+3*chunkBytes+8, 513)), "513 bytes of plaintext"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.b)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) {
				t.Errorf("error %v is neither ErrFormat nor ErrVersion", err)
			}
		})
	}
}

func TestEncodeRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Info, []Chunk) []Chunk
	}{
		{"negative size", func(i *Info, c []Chunk) []Chunk { i.Size = -512; return c }},
		{"too many layers", func(i *Info, c []Chunk) []Chunk { i.Layers = make([]Layer, MaxLayers+1); return c }},
		{"long configuration", func(i *Info, c []Chunk) []Chunk { i.Config = make([]byte, MaxConfigBytes+1); return c }},
		{"falling chunks", func(i *Info, c []Chunk) []Chunk { slices.Reverse(c); return c }},
		{"negative blob", func(i *Info, c []Chunk) []Chunk { i.Layers[0].CompressedSize = -1; return c }},
		{"chunk size", func(i *Info, c []Chunk) []Chunk { i.ChunkLog2 = 80; return c }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			info, chunks := smallVector()
			chunks = tt.change(info, chunks)
			if _, err := Encode(info, chunks); !errors.Is(err, ErrFormat) {
				t.Errorf("error %v, want ErrFormat", err)
			}
		})
	}
}

func TestDiskHash(t *testing.T) {
	h := NewDiskHash(1, 4<<20)
	if err := errors.Join(h.Add(0, sum("a")), h.Add(1<<20, sum("b"))); err != nil {
		t.Fatal(err)
	}
	want := h.Sum()
	for _, offset := range []int64{-1, 0, 1 << 20, 4 << 20} {
		if h.Add(offset, sum("c")) == nil {
			t.Errorf("offset %d accepted", offset)
		}
	}
	if h.Sum() != want {
		t.Error("a refused chunk changed the digest")
	}

	var b []byte
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = binary.LittleEndian.AppendUint64(b, 4<<20)
	for offset, word := range []string{"a", "b"} {
		d := sum(word)
		b = binary.LittleEndian.AppendUint64(b, uint64(offset)<<20)
		b = append(b, d[:]...)
	}
	if got := origin.Sum(b); got != want {
		t.Errorf("digest %s, want %s", want, got)
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.make())
	}
	f.Add(bend(put64(16, 1<<63)))
	f.Add(bend(put32(216, 5)))
	f.Add(bend(put64(240, 13)))
	f.Add(bend(put32(8, 1)))
	f.Add(bend(put32(176, 1))) // as it is before it is locked
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		info, chunks := m.Info(), make([]Chunk, m.Len())
		for i := range chunks {
			chunks[i] = m.Chunk(i)
			if c, found := m.Lookup(chunks[i].Index); !found || c != chunks[i] {
				t.Fatalf("Lookup(%d) = %+v, %v", chunks[i].Index, c, found)
			}
		}
		if m.Locked() { // the ciphertext stands where the configuration would
			if info.Config != nil {
				t.Fatal("the configuration of a locked map can be read")
			}
			_, locked := m.Parts()
			info.Config = locked[m.Len()*keyBytes : len(locked)-tagBytes]
		}
		again, err := Encode(&info, chunks)
		if err != nil {
			t.Fatalf("encode what was parsed: %v", err)
		}
		if !bytes.Equal(again, b) {
			t.Fatal("encoding differs from what was parsed")
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	info, _ := emptyVector()
	info.Size = MaxDiskBytes
	info.ChunkLog2 = 19
	chunks := make([]Chunk, 20_000) // 10 GiB of data
	for i := range chunks {
		chunks[i] = Chunk{Index: uint32(i * 3), Stored: 1, Size: 1}
	}
	m := must(Parse(must(Encode(info, chunks))))
	b.ReportAllocs()
	i := uint32(0)
	for b.Loop() {
		m.Lookup(i % 60_000)
		i += 7919
	}
}
