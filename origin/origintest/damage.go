package origintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

// A Wire is what an origin far away is read through. internal/faultproxy has
// one.
type Wire struct {
	// Answers tells how many there were.
	Answers func() int
	// Spoil damages the nth answer from now on, n > 0: "flip" has a bit of its
	// body be another, "short" and "truncate" end it early, with and without
	// a length that tells so. random says where. An answer without a body stays
	// as it is.
	Spoil func(n int, how string, random uint64)
}

// spoilings are how often each answer of a session is damaged in each way.
var spoilings = map[string]uint64{"flip": 4, "short": 1, "truncate": 1}

// TestDamage reads all that an origin has, again and again, and each time another
// single answer of the session is damaged: whichever that is, what is read is
// the same as ever. fill is an empty origin that is not behind the wire; open
// opens it behind the wire, as another process would.
//
// Where tests are to be short, a bit is flipped in one place of each answer, not in
// four, and every fourth answer ends early.
func TestDamage(t *testing.T, fill origin.Origin, open func(t *testing.T) origin.Origin, w Wire) {
	l := fillLibrary(t, fill)
	begun := w.Answers()
	want := l.read(open(t))
	answers := w.Answers() - begun
	if answers < 10 || strings.Contains(want, "error:") {
		t.Fatalf("undamaged, %d answers:\n%s", answers, want)
	}
	for how, times := range spoilings {
		if testing.Short() {
			times = 1
		}
		for n := range answers {
			if testing.Short() && how != "flip" && n%4 != 0 {
				continue
			}
			for i := range times {
				// Spread over the bits of a body, whatever its length.
				random := (i*0x9e3779b97f4a7c15 + uint64(n)*0xbf58476d1ce4e5b9) >> 16
				w.Spoil(n+1, how, random)
				if got := l.read(open(t)); got != want {
					t.Errorf("%s of answer %d of %d (%d):\n%swant:\n%s", how, n+1, answers, random, got, want)
				}
			}
		}
	}
	t.Logf("%d answers in a session", answers)
}

// A library is what TestDamage reads.
type library struct {
	chunks  []chunktest.Object
	objects []origin.Digest
	names   []string
}

func fillLibrary(t *testing.T, o origin.Origin) *library {
	t.Helper()
	ctx := context.Background()
	l := &library{names: []string{"generations", "names/a", "names/B/c", "pins/00", strings.Repeat("long/", 60) + "name"}}
	s := o.Generation(1)
	for i := range uint64(3) {
		c := chunktest.Random(i, 3000, chunk.FrameSize)
		if _, err := s.Put(ctx, c.ID, c.Bytes); err != nil {
			t.Fatal(err)
		}
		l.chunks = append(l.chunks, c)
	}
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"small", strings.Repeat("an object ", 3000)} {
		d, err := s.PutObject(ctx, []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		l.objects = append(l.objects, d)
		attach(t, s, d, "note", "one of "+content)
		attach(t, s, d, "note", "another of "+content)
	}
	for _, p := range []origin.Pointers{o, s} {
		for i, name := range l.names {
			mustSwap(t, p, name, nil, fmt.Appendf(nil, "value %d\n", i))
		}
	}
	return l
}

// read returns all that there is to be read, as text.
func (l *library) read(o origin.Origin) string {
	ctx := context.Background()
	var out transcript
	s := o.Generation(1)
	for _, p := range []origin.Pointers{o, s} {
		for _, name := range append(l.names, "names/absent") {
			v, err := p.GetPointer(ctx, name)
			out.say("pointer "+name, string(v), err)
		}
		out.list("pointers", func(add func(any)) error {
			return p.ListPointers(ctx, "", func(name string) error { add(name); return nil })
		})
	}
	for _, d := range append(l.objects, origin.Digest{}) {
		b, err := s.GetObject(ctx, d, origin.MaxObjectBytes)
		out.say("object", origin.Sum(b), err)
		out.list("attachments", func(add func(any)) error {
			return s.ListAttachments(ctx, d, "note", func(b []byte) error { add(origin.Sum(b)); return nil })
		})
	}
	l.readChunks(s, &out)
	out.list("chunks", func(add func(any)) error {
		return s.List(ctx, func(id chunk.ID, size int64) error { add(fmt.Sprint(id, " ", size)); return nil })
	})
	out.list("objects", func(add func(any)) error {
		return s.ListObjects(ctx, func(d origin.Digest, size int64) error { add(fmt.Sprint(d, " ", size)); return nil })
	})
	out.list("generations", func(add func(any)) error {
		return o.ListGenerations(ctx, func(id origin.GenerationID) error { add(id); return nil })
	})
	return out.String()
}

// readChunks reads chunks as disks do: what was damaged, once more.
func (l *library) readChunks(s origin.Store, out *transcript) {
	ctx := context.Background()
	door := chunk.NewDoor(s)
	for _, c := range l.chunks {
		got := make([]byte, len(c.Bytes))
		n, err := door.ReadChunk(ctx, c.ID, got, 0)
		var corrupt *chunk.CorruptError
		if errors.As(err, &corrupt) {
			n, err = door.ReadChunk(ctx, c.ID, got, 0)
		}
		out.say("chunk is right", bytes.Equal(got[:n], c.Bytes), err)
		size, err := s.Stat(ctx, c.ID)
		out.say("size", size, err)
	}
	_, err := s.Stat(ctx, chunktest.Absent)
	out.say("size", 0, err)
}

// A transcript is what was read, a line each.
type transcript struct{ strings.Builder }

func (t *transcript) say(what string, value any, err error) {
	switch {
	case err == nil:
		fmt.Fprintf(t, "%s: %v\n", what, value)
	case errors.Is(err, chunk.ErrNotFound), errors.Is(err, origin.ErrNoListing):
		fmt.Fprintf(t, "%s: none\n", what)
	default:
		fmt.Fprintf(t, "%s: error: %v\n", what, err)
	}
}

// list says what list adds, sorted as text.
func (t *transcript) list(what string, list func(add func(any)) error) {
	var all []string
	err := list(func(item any) { all = append(all, fmt.Sprint(item)) })
	slices.Sort(all)
	t.say(what, all, err)
}
