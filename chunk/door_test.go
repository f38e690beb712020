package chunk_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// objects is a source of stored bytes as they are, right or wrong.
type objects map[chunk.ID][]byte

func (o objects) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	b, ok := o[id]
	if !ok {
		return 0, chunk.ErrNotFound
	}
	return copy(dst, b[min(off, int64(len(b))):]), ctx.Err()
}

func holding(list ...chunktest.Object) objects {
	src := make(objects)
	for _, o := range list {
		src[o.ID] = o.Bytes
	}
	return src
}

func TestDoor(t *testing.T) {
	list := chunktest.Objects(1)
	chunktest.TestReader(t, chunk.NewDoor(holding(list...)), list)
}

// TestDoorRequests counts what a read costs.
func TestDoorRequests(t *testing.T) {
	usual := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	many := chunktest.Random(1, 1<<20, chunk.MinFrameSize) // 64 frames
	head := int64(usual.Header.Len())
	size := int64(len(usual.Bytes))
	type read struct{ off, n, requests, bytes int64 }
	for name, c := range map[string]struct {
		o     chunktest.Object
		reads []read
	}{
		"whole object":           {usual, []read{{0, size, 1, size}}},
		"more than there is":     {usual, []read{{0, size + 99, 1, size}}},
		"header alone":           {usual, []read{{0, head, 1, head}}},
		"header and one frame":   {usual, []read{{0, head + 65536, 1, head + 65536}}},
		"frame without a header": {usual, []read{{head, 65536, 2, 1024 + 65536}}},
		"frame, header known":    {usual, []read{{0, head, 1, head}, {head, 65536, 1, 65536}}},
		"two frames, known":      {usual, []read{{0, head, 1, head}, {head, 131072, 1, 131072}}},
		"part of a frame":        {usual, []read{{0, head, 1, head}, {head + 5, 10, 1, 65536}}},
		"part of two frames":     {usual, []read{{0, head, 1, head}, {head + 65530, 10, 1, 131072}}},
		"header again":           {usual, []read{{0, head, 1, head}, {3, 20, 0, 0}}},
		"past the end, known":    {usual, []read{{0, head, 1, head}, {size, 20, 0, 0}}},
		"begin of a frame":       {usual, []read{{0, head + 10, 2, head + 10 + 65536}}},
		"less than a header":     {usual, []read{{0, 100, 2, 100 + head}}},
		"a few bytes":            {usual, []read{{0, 4, 1, 1024}}},
		"long header":            {many, []read{{5000, 10, 3, 1024 + int64(many.Header.Len()) + 16384}}},
	} {
		src := &chunktest.Counting{Source: holding(c.o)}
		door := chunk.NewDoor(src)
		for i, r := range c.reads {
			src.Requests.Store(0)
			src.Bytes.Store(0)
			dst := make([]byte, r.n)
			n, err := door.ReadChunk(context.Background(), c.o.ID, dst, r.off)
			if err != nil || !bytes.Equal(dst[:n], c.o.Bytes[r.off:min(r.off+r.n, int64(len(c.o.Bytes)))]) {
				t.Errorf("%s, read %d: %d, %v, or bytes differ", name, i, n, err)
			}
			if src.Requests.Load() != r.requests || src.Bytes.Load() != r.bytes {
				t.Errorf("%s, read %d: %d requests, %d bytes; want %d, %d",
					name, i, src.Requests.Load(), src.Bytes.Load(), r.requests, r.bytes)
			}
		}
	}
}

// TestDoorDamage reads from sources that hold wrong bytes.
func TestDoorDamage(t *testing.T) {
	o := chunktest.Random(1, 200_000, chunk.FrameSize)
	other := chunktest.Random(2, 200_000, chunk.FrameSize)
	flip := func(i int) []byte {
		b := slices.Clone(o.Bytes)
		b[i] ^= 4
		return b
	}
	head := o.Header.Len()
	size := len(o.Bytes)
	for name, c := range map[string]struct {
		stored []byte
		off, n int // a read that must fail
	}{
		"empty":                      {nil, 0, size},
		"empty, behind the header":   {nil, head, 10},
		"magic":                      {flip(0), 0, size},
		"version":                    {flip(3), head, 10},
		"codec":                      {flip(4), 0, size},
		"frame count":                {flip(6), 0, size},
		"frame count, small read":    {flip(6), 0, 20},
		"digest in the header":       {flip(20), 0, head},
		"first frame":                {flip(head), 0, head + 65536},
		"first frame, part":          {flip(head + 60000), head, 10},
		"last frame":                 {flip(size - 1), size - 1, 1},
		"last frame, whole read":     {flip(size - 1), 0, size},
		"begin of a frame":           {flip(head + 65535), 0, head + 1},
		"another chunk":              {other.Bytes, 0, size},
		"header of another":          {append(slices.Clone(other.Bytes[:head]), o.Bytes[head:]...), head, 10},
		"cut in the prefix":          {o.Bytes[:10], 0, size},
		"cut in the header":          {o.Bytes[:head-1], 0, size},
		"cut in the header, offset":  {o.Bytes[:head-1], head, 10},
		"cut behind the header":      {o.Bytes[:head], 0, size},
		"cut behind header, offset":  {o.Bytes[:head], head, 10},
		"cut in a frame":             {o.Bytes[:size-1], 0, size},
		"cut in a frame, long read":  {o.Bytes[:size-1], 0, size + 100},
		"cut in a frame, offset":     {o.Bytes[:size-1], size - 100, 10},
		"a byte too many, long read": {append(slices.Clone(o.Bytes), 0), 0, size + 100},
	} {
		door := chunk.NewDoor(objects{o.ID: c.stored})
		for range 2 { // nothing wrong may be remembered
			n, err := door.ReadChunk(context.Background(), o.ID, make([]byte, c.n), int64(c.off))
			var corrupt *chunk.CorruptError
			if n != 0 || !errors.As(err, &corrupt) || corrupt.ID != o.ID {
				t.Errorf("%s: %d, %v; want 0 and a CorruptError", name, n, err)
			}
		}
	}
}

// TestDoorRecovers checks that good bytes are served after bad ones.
func TestDoorRecovers(t *testing.T) {
	o := chunktest.Random(1, chunk.Size, chunk.FrameSize)
	src := holding(o)
	faults := &chunktest.Corrupt{Source: &chunktest.Truncated{Source: &chunktest.Flaky{Source: src, Every: 3, Seed: 1}, Every: 4, Seed: 2}, Every: 3, Seed: 3}
	door := chunk.NewDoor(faults)
	rng := rand.New(rand.NewPCG(1, 2))
	good, bad := 0, 0
	for range 400 {
		off := rng.IntN(len(o.Bytes))
		dst := make([]byte, rng.IntN(len(o.Bytes)-off)+1)
		n, err := door.ReadChunk(context.Background(), o.ID, dst, int64(off))
		if err == nil {
			good++
			if !bytes.Equal(dst[:n], o.Bytes[off:off+len(dst)]) {
				t.Fatalf("%v: wrong bytes at %d", faults, off)
			}
			continue
		}
		bad++
		var corrupt *chunk.CorruptError
		if n != 0 || !errors.As(err, &corrupt) && !errors.Is(err, chunktest.ErrInjected) {
			t.Fatalf("%v: %d, %v", faults, n, err)
		}
	}
	if good < 50 || bad < 50 {
		t.Errorf("%v: %d good reads, %d bad ones: no test", faults, good, bad)
	}
}

// TestDoorForgets reads more chunks than a Door has room for the headers of.
func TestDoorForgets(t *testing.T) {
	src := &chunktest.Counting{Source: holding()}
	door := chunk.NewDoor(src)
	first := chunktest.Random(0, 100, chunk.FrameSize)
	src.Source.(objects)[first.ID] = first.Bytes
	read := func(o *chunktest.Object) {
		t.Helper()
		if n, err := door.ReadChunk(context.Background(), o.ID, make([]byte, 1), int64(o.Header.Len())); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	read(&first)
	src.Requests.Store(0)
	if read(&first); src.Requests.Load() != 1 {
		t.Errorf("%d requests while the header is known, want 1", src.Requests.Load())
	}
	for i := range uint64(chunk.HeaderCacheBytes / 150) {
		o := chunktest.Random(i+1, 100, chunk.FrameSize)
		clear(src.Source.(objects))
		src.Source.(objects)[o.ID] = o.Bytes
		read(&o)
	}
	src.Source.(objects)[first.ID] = first.Bytes
	src.Requests.Store(0)
	if read(&first); src.Requests.Load() != 2 {
		t.Errorf("%d requests after the header was dropped, want 2", src.Requests.Load())
	}
}

// liar returns counts that no source may return.
type liar int

func (l liar) Fetch(context.Context, chunk.ID, []byte, int64) (int, error) { return int(l), nil }

func TestDoorLiar(t *testing.T) {
	for _, n := range []int{-1, 500} {
		got, err := chunk.NewDoor(liar(n)).ReadChunk(context.Background(), chunktest.Absent, make([]byte, 100), 0)
		if got != 0 || err == nil {
			t.Errorf("source that returns %d: %d, %v; want an error", n, got, err)
		}
	}
}

func TestDoorCancel(t *testing.T) {
	o := chunktest.Random(1, 1000, chunk.FrameSize)
	door := chunk.NewDoor(&chunktest.Hung{Source: holding(o), Every: 1})
	ctx, cancel := context.WithCancel(context.Background())
	go cancel()
	if n, err := door.ReadChunk(ctx, o.ID, make([]byte, 10), 0); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d, %v; want the context's error", n, err)
	}
}

// FuzzDoor reads any part of an object in which one byte is changed or the end
// is missing: what comes is right, or an error.
func FuzzDoor(f *testing.F) {
	f.Add(int64(0), 300_000, 0, byte(0), 300_000)
	f.Add(int64(300), 10, 400, byte(1), 300_000)
	f.Add(int64(70_000), 65_536, 5, byte(1), 100_000)
	o := chunktest.Random(1, 250_000, chunk.FrameSize)
	f.Fuzz(func(t *testing.T, off int64, n, at int, xor byte, size int) {
		if n < 0 || n > 1<<20 || at < 0 || at >= len(o.Bytes) || size < 0 {
			t.Skip("no such read of the object")
		}
		b := slices.Clone(o.Bytes)
		b[at] ^= xor
		b = b[:min(size, len(b))]
		dst := make([]byte, n)
		got, err := chunk.NewDoor(objects{o.ID: b}).ReadChunk(context.Background(), o.ID, dst, off)
		if err != nil {
			if got != 0 {
				t.Fatalf("%d bytes with error %v", got, err)
			}
			return
		}
		want := o.Bytes[min(off, int64(len(o.Bytes))):]
		want = want[:min(n, len(want))]
		if !bytes.Equal(dst[:got], want) && got != 0 {
			t.Fatalf("wrong bytes")
		}
		if got != len(want) {
			t.Fatalf("%d bytes, want %d", got, len(want))
		}
	})
}

// TestDoorLearns: a header that a door was told of is not asked for; a wrong one is another
// chunk's.
func TestDoorLearns(t *testing.T) {
	o, other := chunktest.Random(1, chunk.Size, chunk.FrameSize), chunktest.Random(2, chunk.Size, chunk.FrameSize)
	src := &chunktest.Counting{Source: holding(o, other)}
	d := chunk.NewDoor(src)
	if _, ok := d.Header(o.ID); ok || d.Knows(o.ID) {
		t.Error("a new door knows a header")
	}
	d.Learn(&o.Header)
	if h, ok := d.Header(o.ID); !ok || h.ID() != o.ID || !d.Knows(o.ID) || d.Knows(other.ID) {
		t.Error("it does not know the header that it was told of, or knows another")
	}
	from := o.Header.FrameOffset(3)
	b := make([]byte, o.Header.Frames[3].Len)
	if n, err := d.ReadChunk(t.Context(), o.ID, b, from); err != nil || !bytes.Equal(b[:n], o.Bytes[from:][:len(b)]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n := src.Requests.Load(); n != 1 {
		t.Errorf("%d requests, want one for the frame", n)
	}
}
