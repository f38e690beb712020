package disk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
)

func key(n int) *frameKey { return &frameKey{frame: uint32(n)} }

// put caches one frame of 64 KiB whose bytes are all n.
func put(m *Memory, n int) {
	f := m.buffer(frameSize)
	copy(f.data, bytes.Repeat([]byte{byte(n)}, frameSize))
	m.add(key(n), f)
	f.release()
}

func TestMemoryKeepsBound(t *testing.T) {
	const limit = 10*(frameSize+frameOverhead) + 5
	m := NewMemory(limit)
	for n := range 100 {
		put(m, n)
		if used := m.Used(); used > limit {
			t.Fatalf("%d bytes used, limit %d", used, limit)
		}
	}
	if used := m.Used(); used != 10*(frameSize+frameOverhead) {
		t.Errorf("%d bytes used when full", used)
	}
	small := m.buffer(1)
	m.add(&frameKey{frame: 1000}, small)
	small.release()
	if cap(small.data) != minBuffer {
		t.Errorf("a frame of one byte has a buffer of %d", cap(small.data))
	}
}

func TestMemoryRefusesLargerThanBound(t *testing.T) {
	m := NewMemory(1000)
	put(m, 1)
	if m.has(key(1)) || m.Used() != 0 {
		t.Error("a frame above the bound was cached")
	}
}

func TestMemoryKeepsWhatIsHitThroughAScan(t *testing.T) {
	m := NewMemory(10 * (frameSize + frameOverhead))
	put(m, 0)
	for n := 1; n < 1000; n++ {
		f := m.get(key(0))
		if f == nil {
			t.Fatalf("hot frame evicted by scan at %d", n)
		}
		f.release()
		put(m, n)
	}
}

func TestMemoryTellsKeysApart(t *testing.T) {
	m := NewMemory(DefaultMemory)
	right := &frameKey{key: blockmap.Key{1}}
	f := m.buffer(10)
	m.add(right, f)
	f.release()
	for _, wrong := range []*frameKey{{key: blockmap.Key{2}}, {key: blockmap.Key{1}, frame: 1}, {key: blockmap.Key{1}, id: [32]byte{31: 1}},
		{key: blockmap.Key{1}, size: 1}, {key: blockmap.Key{1}, log2: 1}} {
		if m.has(wrong) || m.get(wrong) != nil {
			t.Errorf("%v found", wrong)
		}
	}
}

func TestMemoryDoesNotReuseAPinnedBuffer(t *testing.T) {
	m := NewMemory(2 * (frameSize + frameOverhead))
	put(m, 7)
	pinned := m.get(key(7))
	want := bytes.Repeat([]byte{7}, frameSize)
	for n := 8; n < 100; n++ {
		put(m, n)
	}
	if m.has(key(7)) {
		t.Fatal("the frame was not evicted")
	}
	if !bytes.Equal(pinned.data, want) {
		t.Error("the buffer was used again while pinned")
	}
	pinned.release()
}

func TestMemoryConcurrently(t *testing.T) {
	m := NewMemory(20 * (frameSize + frameOverhead))
	together(8, func(i int) {
		rng := rand.New(rand.NewPCG(uint64(i), 2))
		for range 1000 {
			n := rng.IntN(60)
			f := m.get(key(n))
			if f == nil {
				put(m, n)
				continue
			}
			if at := rng.IntN(frameSize); f.data[at] != byte(n) {
				t.Errorf("frame %d holds %d", n, f.data[at])
			}
			f.release()
		}
	})
	if m.Used() > 20*(frameSize+frameOverhead) {
		t.Error("over the bound")
	}
}

// TestMemoryOfALyingMap reads a chunk by a right map into a shared memory, and
// then by maps that are wrong about the chunk's sizes.
func TestMemoryOfALyingMap(t *testing.T) {
	im := newImage(t, 2, 9)
	right := im.m.Chunk(1) // cut short at an odd length
	memory := NewMemory(DefaultMemory)
	good := im.open(t, im.reader(), Options{Memory: memory})
	im.check(t, good, 0, len(im.flat))
	for _, c := range []struct {
		name string
		size uint32
		log2 uint8
	}{{"longer", chunkSize, 16}, {"shorter", right.Size - 1, 16}, {"larger frames", right.Size, 17}, {"smaller frames", right.Size, 14}} {
		liar := *im
		wrong := right
		wrong.Size = c.size
		info := im.m.Info()
		info.FrameLog2 = c.log2
		b, err := blockmap.Encode(&info, []blockmap.Chunk{wrong})
		if err != nil {
			t.Fatal(err)
		}
		if liar.m, err = blockmap.Parse(b); err != nil {
			t.Fatal(err)
		}
		d := liar.open(t, im.reader(), Options{Memory: memory})
		if n, err := d.ReadAt(make([]byte, c.size), int64(right.Index)*chunkSize); n != 0 || !errors.Is(err, errUnreadable) {
			t.Errorf("%s: read %d bytes, %v; want errUnreadable", c.name, n, err)
		}
	}
}
