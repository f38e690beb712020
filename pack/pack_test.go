package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

var update = flag.Bool("update", false, "write the test vectors anew")

// Three chunks of three frames, one and two.
var (
	chunkA = chunktest.Random(1, 2*chunk.MinFrameSize+100, chunk.MinFrameSize)
	chunkB = chunktest.Random(2, 100, chunk.MinFrameSize)
	chunkC = chunktest.Random(3, chunk.MinFrameSize+1, chunk.MinFrameSize)
)

func frameOf(o *chunktest.Object, i int) []byte {
	return o.Bytes[o.Header.FrameOffset(i):o.Header.FrameOffset(i+1)]
}

func add(t testing.TB, b *Builder, o *chunktest.Object, number int) {
	t.Helper()
	if err := b.Add(&o.Header, number, frameOf(o, number)); err != nil {
		t.Fatal(err)
	}
}

func addObject(t testing.TB, b *Builder, o *chunktest.Object) {
	t.Helper()
	if err := b.AddObject(o.Bytes); err != nil {
		t.Fatal(err)
	}
}

// wholeVector has whole chunks, as a metadata object has.
func wholeVector(t testing.TB) []byte {
	var b Builder
	for _, o := range []*chunktest.Object{&chunkA, &chunkB, &chunkC} {
		addObject(t, &b, o)
	}
	return b.Bytes()
}

// startVector has some frames in no order, as a start pack has.
func startVector(t testing.TB) []byte {
	var b Builder
	add(t, &b, &chunkC, 1)
	add(t, &b, &chunkA, 2)
	add(t, &b, &chunkB, 0)
	add(t, &b, &chunkA, 0)
	add(t, &b, &chunkA, 0) // again: nothing
	return b.Bytes()
}

var vectors = []struct {
	name   string
	digest string
	make   func(t testing.TB) []byte
}{
	{"empty", "sha256:91958eec0d1d594c74abb51fd8e4c717cbd1734aabd185971319a61261833c25", func(testing.TB) []byte { return new(Builder).Bytes() }},
	{"whole", "sha256:677d87e7da14942c1009b514758787eabda3b4051f02142ce4cd35d6f6326cd4", wholeVector},
	{"start", "sha256:92b315117136b5df2fa4e3e6900bc6546d1bfa0ef9ee649e834a303b30745fe6", startVector},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		got, name := v.make(t), filepath.Join("testdata", v.name+".pack")
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
		if d := origin.Sum(want).String(); d != v.digest {
			t.Errorf("%s: digest %s, want %s", v.name, d, v.digest)
		}
	}
}

// decode reads a pack to its end, and returns the frames.
func decode(b []byte) (*Index, [][]byte, error) {
	d, err := NewDecoder(bytes.NewReader(b))
	if err != nil {
		return nil, nil, err
	}
	var all [][]byte
	for {
		i, stored, err := d.Next()
		if errors.Is(err, io.EOF) {
			return d.Index, all, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if i != len(all) {
			return nil, nil, errors.New("frames out of order")
		}
		all = append(all, bytes.Clone(stored))
	}
}

func TestDecode(t *testing.T) {
	b := startVector(t)
	x, frames, err := decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Frame{{0, 1}, {1, 2}, {2, 0}, {1, 0}}; !slices.Equal(x.Frames, want) {
		t.Errorf("frames %v, want %v", x.Frames, want)
	}
	for i, want := range []chunk.ID{chunkC.ID, chunkA.ID, chunkB.ID} {
		if x.Chunks[i].ID != want {
			t.Errorf("chunk %d is %v, want %v", i, x.Chunks[i].ID, want)
		}
	}
	for i, want := range [][]byte{frameOf(&chunkC, 1), frameOf(&chunkA, 2), frameOf(&chunkB, 0), frameOf(&chunkA, 0)} {
		begin, end := x.Place(i)
		if !bytes.Equal(frames[i], want) || !bytes.Equal(b[begin:end], want) {
			t.Errorf("frame %d: other bytes, or elsewhere", i)
		}
	}
	if n, err := IndexLen(b[:PrefixLen]); err != nil || n != x.Len() || x.Bytes() != int64(len(b)) {
		t.Errorf("index of %d bytes, %v; want %d, and %d of the pack's %d", n, err, x.Len(), x.Bytes(), len(b))
	}
}

func TestObjects(t *testing.T) {
	var b Builder
	add(t, &b, &chunkC, 1)
	addObject(t, &b, &chunkA)
	add(t, &b, &chunkC, 0) // never whole in order
	addObject(t, &b, &chunkB)
	d, err := NewDecoder(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	var got []chunk.ID
	err = d.Objects(func(id chunk.ID, object []byte) error {
		got = append(got, id)
		_, err := chunk.Verify(id, object)
		return err
	})
	if err != nil || !slices.Equal(got, []chunk.ID{chunkA.ID, chunkB.ID}) {
		t.Errorf("whole chunks %v, %v", got, err)
	}
	d, err = NewDecoder(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Objects(func(chunk.ID, []byte) error { return io.ErrClosedPipe }); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error %v, want that of fn", err)
	}
}

func TestBuilderRefuses(t *testing.T) {
	var b Builder
	var corrupt *chunk.CorruptError
	if err := b.Add(&chunkA.Header, 0, frameOf(&chunkA, 1)); !errors.As(err, &corrupt) {
		t.Errorf("another frame's bytes: %v", err)
	}
	if err := b.Add(&chunkA.Header, 3, nil); err == nil {
		t.Error("a frame that is not there was added")
	}
	if err := b.AddObject(chunkA.Bytes[:len(chunkA.Bytes)-1]); err == nil {
		t.Error("a chunk that is cut short was added")
	}
	if b.Frames() != 0 || b.Len() != prefixBytes {
		t.Errorf("%d frames and %d bytes were added all the same", b.Frames(), b.Len())
	}
	b.frames = MaxFrames
	if err := b.AddObject(chunkB.Bytes); !errors.Is(err, ErrFull) {
		t.Errorf("one frame too many: %v", err)
	}
}

func bend(t testing.TB, at int, v uint32) []byte {
	b := wholeVector(t)
	binary.LittleEndian.PutUint32(b[at:], v)
	return b
}

func TestMalformed(t *testing.T) {
	good := wholeVector(t)
	x, _, err := decode(good)
	if err != nil {
		t.Fatal(err)
	}
	headers := prefixBytes // of the first chunk
	table := int(x.Len()) - len(x.Frames)*entryBytes
	unnamed := startVector(t)
	y, _, err := decode(unnamed)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(unnamed[int(y.Len())-2*entryBytes:], 0) // its one frame is another's
	tests := []struct {
		name, want string
		b          []byte
	}{
		{"nothing", "ends early", nil},
		{"header cut", "ends early", good[:31]},
		{"index cut", "ends early", good[:x.Len()-1]},
		{"frame cut", "ends early", good[:len(good)-1]},
		{"byte too many", "more than", append(slices.Clone(good), 0)},
		{"magic", "no header", bend(t, 0, 0)},
		{"version", "version 2", bend(t, 8, 2)},
		{"chunks over bound", "at most", bend(t, 12, MaxChunks+1)},
		{"frames over bound", "at most", bend(t, 16, MaxFrames+1)},
		{"headers over bound", "at most", bend(t, 20, MaxHeaderBytes+1)},
		{"length over bound", "at most", bend(t, 28, 1)},
		{"more chunks than frames", "7 chunks and 6 frames", bend(t, 12, 7)},
		{"one chunk more", "malformed chunk header", bend(t, 12, 4)},
		{"one chunk fewer", "after the last chunk's header", bend(t, 12, 2)},
		{"index past the end", "index of", bend(t, 24, uint32(x.Len()-1))},
		{"length", "frames end at byte", bend(t, 24, uint32(len(good)+1))},
		{"header", "malformed chunk header", bend(t, headers, 0)},
		{"chunk out of order", "were named before", bend(t, table, 1)},
		{"chunk that is not there", "were named before", bend(t, table+3*entryBytes, 3)},
		{"number", "in a chunk of 3 frames", bend(t, table+4, 3)},
		{"padding", "padding", bend(t, table+4, 1<<16)},
		{"frame twice", "there already", bend(t, table+entryBytes+4, 0)},
		{"chunk without frames", "2 of 3 chunks", unnamed},
		{"frame altered", "another SHA-256", bend(t, len(good)-4, 0)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := decode(tt.b)
			var corrupt *chunk.CorruptError
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrVersion) && !errors.As(err, &corrupt) {
				t.Errorf("error %v of no known kind", err)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// FuzzDecode: what is accepted has one encoding, and whole chunks are what their names
// promise.
func FuzzDecode(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.make(f))
	}
	f.Add(bend(f, 12, 7))
	f.Add(bend(f, 24, 5))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, frames, err := decode(b)
		if err != nil {
			return
		}
		var again Builder
		for i, frame := range x.Frames {
			if err := again.Add(&x.Chunks[frame.Chunk].Header, int(frame.Number), frames[i]); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(again.Bytes(), b) {
			t.Fatal("encoding differs from what was decoded")
		}
		d, err := NewDecoder(bytes.NewReader(b))
		if err == nil {
			err = d.Objects(func(id chunk.ID, object []byte) error {
				_, err := chunk.Verify(id, object)
				return err
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}
