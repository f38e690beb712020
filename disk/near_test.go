package disk

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/chunk"
)

// A nearby is a reader of some chunks of an image. It counts bytes.
type nearby struct {
	door  *chunk.Door
	some  func(id chunk.ID) bool
	bytes atomic.Int64
}

func (r *nearby) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if !r.some(id) {
		return 0, chunk.ErrNotFound
	}
	n, err := r.door.ReadChunk(ctx, id, dst, off)
	r.bytes.Add(int64(n))
	return n, err
}

// TestNearSuite has half of the chunks near.
func TestNearSuite(t *testing.T) {
	im := newImage(t, 12, 51)
	blockdevtest.TestDevice(t, func(t *testing.T) blockdev.Device {
		near := &nearby{door: chunk.NewDoor(im.chunks), some: func(id chunk.ID) bool { return id[0]&1 == 0 }}
		return im.open(t, chunk.NewDoor(im.chunks), Options{Mode: SingleFrames, Near: near, Memory: NewMemory(4 * frameSize)})
	}, im.flat)
}

// TestNearReadsPages checks that a read of a raw frame reads its header, what was
// asked for and no more, and needs no memory; and that others go by flights.
func TestNearReadsPages(t *testing.T) {
	im := newImage(t, 12, 52)
	near := &nearby{door: chunk.NewDoor(im.chunks), some: func(chunk.ID) bool { return true }}
	d := im.open(t, im.reader(), Options{Mode: SingleFrames, Near: near})
	raw, coded := 0, 0
	for i := range im.m.Len() {
		c := im.m.Chunk(i)
		if c.Size < 70_000 {
			continue
		}
		before, s := near.bytes.Load(), d.Stats()
		at := int(c.Index)*chunkSize + frameSize + 100
		im.check(t, d, at, 4096)
		after := d.Stats()
		header := int64(chunk.HeaderLen(d.frames(&c)))
		if int64(c.Stored) != header+int64(c.Size) {
			coded++
			if after.Near != s.Near || after.Fetches != s.Fetches+1 {
				t.Errorf("chunk %d is coded: %+v", i, after)
			}
			continue
		}
		raw++
		if got := near.bytes.Load() - before; got != header+4096 || after.Near != s.Near+1 || after.Fetches != s.Fetches {
			t.Errorf("chunk %d: %d bytes read, %+v", i, got, after)
		}
	}
	if raw == 0 || coded == 0 {
		t.Errorf("%d raw chunks and %d others", raw, coded)
	}
}

// A fetched is a reader that has at hand, as near, what was read through it.
type fetched struct {
	chunk.Reader
	none bool // nothing is ever at hand

	mu  sync.Mutex // guards had
	had map[chunk.ID]bool
}

func (r *fetched) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	n, err := r.Reader.ReadChunk(ctx, id, dst, off)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.had[id] = !r.none
	return n, err
}

func (r *fetched) has(id chunk.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.had[id]
}

// TestNearAfterFirst reads whole chunks of which nothing is near before the first frame
// was fetched.
func TestNearAfterFirst(t *testing.T) {
	im := newImage(t, 12, 55)
	for _, none := range []bool{false, true} {
		r := &fetched{Reader: im.reader(), none: none, had: make(map[chunk.ID]bool)}
		d := im.open(t, r, Options{Mode: SingleFrames, Near: &nearby{door: chunk.NewDoor(im.chunks), some: r.has}})
		raw := 0
		for i := range im.m.Len() {
			c := im.m.Chunk(i)
			if !d.byPage(&c) || d.frames(&c) < 3 {
				continue
			}
			raw++
			frames, before := int64(d.frames(&c)), d.Stats()
			im.check(t, d, int(c.Index)*chunkSize+100, int(c.Size)-200)
			after := d.Stats()
			fetches, near := after.Fetches-before.Fetches, after.Near-before.Near
			if !none && (fetches != 1 || near != frames-1) || none && (fetches != frames || near != 0) {
				t.Errorf("chunk %d of %d frames, nothing at hand %v: %d fetches, %d read by the page", i, frames, none, fetches, near)
			}
		}
		if raw == 0 {
			t.Error("no raw chunk of three frames")
		}
		im.check(t, d, 0, len(im.flat))
	}
}

// An asked is a reader that notes the parts of objects that it is asked for.
type asked struct {
	chunk.Reader

	mu    sync.Mutex // guards parts
	parts [][2]int64 // offset and length
}

func (r *asked) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	r.mu.Lock()
	r.parts = append(r.parts, [2]int64{off, int64(len(dst))})
	r.mu.Unlock()
	return r.Reader.ReadChunk(ctx, id, dst, off)
}

// TestFrameFirst reads a page of the last full frame of each chunk, none of which is
// near yet: where it is known where the frame lies, it is asked for before the header.
func TestFrameFirst(t *testing.T) {
	im := newImage(t, 12, 57)
	r := &asked{Reader: im.reader()}
	d := im.open(t, r, Options{Mode: SingleFrames, Near: &nearby{door: chunk.NewDoor(im.chunks), some: func(chunk.ID) bool { return false }}})
	raw, coded := 0, 0
	for i := range im.m.Len() {
		c := im.m.Chunk(i)
		frame := int64(c.Size) / frameSize
		if frame--; frame < 1 {
			continue
		}
		r.parts = nil
		im.check(t, d, int(c.Index)*chunkSize+int(frame)*frameSize+100, 1000)
		head := int64(chunk.HeaderLen(d.frames(&c)))
		header, whole := [2]int64{0, head}, [2]int64{head + frame*frameSize, frameSize}
		if len(r.parts) != 2 {
			t.Errorf("chunk %d: asked for %v, want header and frame", i, r.parts)
		} else if d.byPage(&c) {
			raw++
			if r.parts[0] != whole || r.parts[1] != header {
				t.Errorf("chunk %d: asked for %v, want %v and then %v", i, r.parts, whole, header)
			}
		} else if coded++; r.parts[0] != header {
			t.Errorf("chunk %d: asked for %v, want %v first", i, r.parts, header)
		}
	}
	if raw == 0 || coded == 0 {
		t.Errorf("%d raw chunks and %d others", raw, coded)
	}
}

// TestNearAfterFailure reads over chunks that cannot be read, up to the first of them.
func TestNearAfterFailure(t *testing.T) {
	im := newImage(t, 12, 56)
	for i := range im.m.Len() {
		c := im.m.Chunk(i)
		r := &missing{Reader: im.reader(), id: c.ID}
		d := im.open(t, r, Options{Mode: SingleFrames, Near: &nearby{door: chunk.NewDoor(im.chunks), some: func(chunk.ID) bool { return false }}})
		if !d.byPage(&c) {
			continue
		}
		buf, start := make([]byte, len(im.flat)), int(c.Index)*chunkSize
		n, err := d.ReadAt(buf, 0)
		if n != start || !errors.Is(err, chunk.ErrNotFound) || !bytes.Equal(buf[:n], im.flat[:n]) {
			t.Errorf("chunk %d is missing: %d bytes, %v; want %d", i, n, err, start)
		}
	}
}

// A missing reader lacks one chunk.
type missing struct {
	chunk.Reader
	id chunk.ID
}

func (r *missing) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if id == r.id {
		return 0, chunk.ErrNotFound
	}
	return r.Reader.ReadChunk(ctx, id, dst, off)
}

// lying is a near reader with wrong bytes, or too few.
type lying struct{ short bool }

func (r lying) ReadChunk(_ context.Context, _ chunk.ID, dst []byte, _ int64) (int, error) {
	if r.short {
		return len(dst) / 2, nil
	}
	clear(dst)
	return len(dst), nil
}

// TestNearOfNoUse reads by flights when what is near makes no sense.
func TestNearOfNoUse(t *testing.T) {
	im := newImage(t, 6, 53)
	for _, r := range []lying{{false}, {true}} {
		d := im.open(t, im.reader(), Options{Mode: SingleFrames, Near: r})
		im.check(t, d, 0, len(im.flat))
		if s := d.Stats(); s.Near != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// BenchmarkNear reads 4 KiB at random of raw chunks that are near, by the page
// and by the frame, with a memory that holds few of them.
func BenchmarkNear(b *testing.B) {
	im := newImage(b, 40, 54)
	var starts []int64
	for i := range im.m.Len() {
		if c := im.m.Chunk(i); c.Size == chunkSize && int(c.Stored) == chunk.HeaderLen(8)+chunkSize {
			starts = append(starts, int64(c.Index)*chunkSize)
		}
	}
	for _, pages := range []bool{true, false} {
		name := "Frames"
		o := Options{Mode: SingleFrames, Memory: NewMemory(4 * frameSize)}
		if pages {
			name, o.Near = "Pages", held(im.chunks)
		}
		b.Run(name, func(b *testing.B) {
			d := im.open(b, held(im.chunks), o)
			rng, buf := rand.New(rand.NewPCG(1, 2)), make([]byte, 4096)
			b.SetBytes(4096)
			b.ReportAllocs()
			for b.Loop() {
				at := starts[rng.IntN(len(starts))] + rng.Int64N(chunkSize/4096)*4096
				if _, err := d.ReadAt(buf, at); err != nil {
					b.Fatal(err)
				}
				if !bytes.Equal(buf[:8], im.flat[at:at+8]) {
					b.Fatal("wrong bytes")
				}
			}
		})
	}
}

// held is a reader of chunks that need no check, as those in one's hands.
type held objects

func (h held) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	return objects(h).Fetch(ctx, id, dst, off)
}

// TestWholeAtPresent reads by the frame, and by the whole chunk as long as it is told
// to.
func TestWholeAtPresent(t *testing.T) {
	im := newImage(t, 12, 53)
	var whole atomic.Bool
	blockdevtest.TestDevice(t, func(t *testing.T) blockdev.Device {
		var turn atomic.Int64
		return im.open(t, im.reader(), Options{Mode: SingleFrames, Whole: func(chunk.ID) bool { return turn.Add(1)%2 == 0 }, Memory: NewMemory(4 * frameSize)})
	}, im.flat)
	d := im.open(t, im.reader(), Options{Mode: SingleFrames, Whole: func(chunk.ID) bool { return whole.Load() }})
	var large []int
	for i := range im.m.Len() {
		if c := im.m.Chunk(i); c.Size > 2*frameSize {
			large = append(large, int(c.Index)*chunkSize)
		}
	}
	if len(large) < 2 {
		t.Fatal("too few chunks of several frames")
	}
	im.check(t, d, large[0], 100)
	im.check(t, d, large[0]+frameSize, 100)
	if s := d.Stats(); s.Fetches != 2 {
		t.Errorf("%d fetches for two frames, want 2", s.Fetches)
	}
	whole.Store(true)
	im.check(t, d, large[1], 100)
	im.check(t, d, large[1]+frameSize, 100)
	if s := d.Stats(); s.Fetches != 3 {
		t.Errorf("%d fetches for two frames more of one chunk, want 1", s.Fetches-2)
	}
}
