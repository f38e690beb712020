package fsck_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/fsck"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/pack"
	"github.com/rivuletfs/rivulet/store/dir"
	"github.com/rivuletfs/rivulet/store/memory"
)

var ctx = context.Background()

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// publish puts an image under a name into generation g.
func publish(t *testing.T, o origin.Origin, g origin.GenerationID, name string, i *blockmaptest.Image) {
	t.Helper()
	s := o.Generation(g)
	ok(t, i.Put(ctx, s))
	ok(t, s.Attach(ctx, i.Digest(), "age", []byte("key")))
	_, err := catalog.Set(ctx, s, catalog.DigestKey(i.Map.Info().Disk), i.Digest())
	ok(t, err)
	_, err = catalog.SetName(ctx, s, name, i.Digest())
	ok(t, err)
}

var img = blockmaptest.New(1, chunktest.Random(1, 1000, chunk.FrameSize), chunktest.Random(2, 200_000, chunk.FrameSize),
	chunktest.Random(3, 1, chunk.FrameSize))

func run(t *testing.T, o origin.Origin, opt fsck.Options) *fsck.Report {
	t.Helper()
	r, err := fsck.Check(ctx, o, opt)
	ok(t, err)
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
	return r
}

func TestSound(t *testing.T) {
	o := memory.New()
	publish(t, o, 1, "x", img)
	other := blockmaptest.Small(5, 2)
	publish(t, o, 1, "y", other)
	told := 0
	r := run(t, o, fsck.Options{Deep: true, Tell: func(n int) { told = n }})
	if !r.Sound() || len(r.Problems) != 0 || r.Images != 2 || r.Objects != 2 || r.Chunks != 5 || r.Read != 5 || r.Attachments != 2 ||
		r.OrphanChunks != 0 || len(r.OrphanObjects) != 0 || !slices.Equal(r.Generations, []origin.GenerationID{1}) || told != 5 {
		t.Errorf("%+v, told of %d", r, told)
	}
	empty := run(t, memory.New(), fsck.Options{Deep: true})
	if !empty.Sound() || empty.Images != 0 {
		t.Errorf("an empty origin: %+v", empty)
	}
}

// TestOrphans has what nobody needs, and what is not listed.
func TestOrphans(t *testing.T) {
	o := memory.New()
	publish(t, o, 1, "x", img)
	s := o.Generation(1)
	alone := chunktest.Random(99, 10, chunk.FrameSize)
	_, err := s.Put(ctx, alone.ID, alone.Bytes)
	ok(t, err)
	forgotten, marked := blockmaptest.Small(5, 1), blockmaptest.Small(6, 1)
	ok(t, forgotten.Put(ctx, s))
	ok(t, s.Attach(ctx, forgotten.Digest(), "age", []byte("key")))
	ok(t, marked.Put(ctx, s))
	ok(t, generation.Mark(ctx, o, marked.Digest(), time.Now()))
	note, err := s.PutObject(ctx, []byte("no block map"))
	ok(t, err)
	ok(t, forgotten.Put(ctx, o.Generation(8)))
	r := run(t, o, fsck.Options{})
	slices.Sort(r.OrphanObjects)
	want := []string{forgotten.Digest().String(), note.String()}
	slices.Sort(want)
	if !r.Sound() || r.OrphanChunks != 1 || r.OrphanBytes != int64(len(alone.Bytes)) || !slices.Equal(r.OrphanObjects, want) ||
		r.OrphanNotes != 1 || !slices.Equal(r.Leftovers, []origin.GenerationID{8}) {
		t.Errorf("%+v", r)
	}
}

// A damage is something that is done to a store in a directory.
type damage struct {
	name string
	do   func(s origin.Store, path string) error
	want string // a part of the problem's description
	deep bool   // only reading finds it
	own  bool   // another generation cannot mend it
}

func file(path, kind string, id fmt.Stringer) string {
	hex := strings.TrimPrefix(id.String(), "sha256:")
	return filepath.Join(path, "generations/1", kind, hex[:2], hex)
}

func overwrite(name string, b []byte) error {
	if err := os.Remove(name); err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o644)
}

var damages = []damage{
	{name: "chunk missing", want: "chunk " + img.Chunks[0].ID.String() + ": missing; needed by image " + img.Digest().String(),
		do: func(s origin.Store, _ string) error { return s.Remove(ctx, img.Chunks[0].ID) }},
	{name: "chunk cut short", want: "damaged: 7 bytes instead of",
		do: func(_ origin.Store, path string) error {
			return overwrite(file(path, "chunks", img.Chunks[1].ID), make([]byte, 7))
		}},
	{name: "chunk altered", want: "corrupt", deep: true,
		do: func(_ origin.Store, path string) error {
			b := slices.Clone(img.Chunks[1].Bytes)
			b[len(b)-1] ^= 1
			return overwrite(file(path, "chunks", img.Chunks[1].ID), b)
		}},
	{name: "block map missing", want: "pointer names/x: dangling",
		do: func(s origin.Store, _ string) error { return s.RemoveObject(ctx, img.Digest()) }},
	{name: "block map altered", want: "object " + img.Digest().String() + ": damaged",
		do: func(_ origin.Store, path string) error {
			return overwrite(file(path, "objects/sha256", img.Digest()), make([]byte, len(img.Map.Bytes())))
		}},
	{name: "attachment altered", want: "attachments age of " + img.Digest().String() + ": damaged",
		do: func(_ origin.Store, path string) error {
			list, err := filepath.Glob(filepath.Join(path, "generations/1/attachments/*/age/[0-9a-f][0-9a-f][0-9a-f]*"))
			if err != nil || len(list) != 1 {
				return fmt.Errorf("%q, %v", list, err)
			}
			return overwrite(list[0], []byte("other"))
		}},
	{name: "name leads nowhere", want: "pointer names/lost: dangling", own: true,
		do: func(s origin.Store, _ string) error {
			_, err := catalog.SetName(ctx, s, "lost", origin.Sum(nil))
			return err
		}},
	{name: "name holds nonsense", want: "pointer names/bad: damaged", own: true,
		do: func(s origin.Store, _ string) error {
			return s.SwapPointer(ctx, catalog.NameKey("bad"), nil, []byte("nonsense"))
		}},
}

// TestDamage does one damage at a time, looks for it, and has it mended from
// another generation, and from another origin.
func TestDamage(t *testing.T) {
	for _, d := range damages {
		for _, donor := range []string{"generation", "origin"} {
			t.Run(d.name+" "+donor, func(t *testing.T) {
				path := t.TempDir()
				o, err := dir.Open(path, true)
				ok(t, err)
				publish(t, o, 1, "x", img)
				opt := fsck.Options{Deep: d.deep, Repair: true}
				if donor == "origin" {
					from := memory.New()
					publish(t, from, 1, "else", img)
					opt.From = from
				} else {
					g2, err := generation.New(ctx, o, 1, time.Now())
					ok(t, err)
					_, err = (&generation.Forwarder{Origin: o}).Forward(ctx, img.Digest(), 1, g2)
					ok(t, err)
				}
				ok(t, d.do(o.Generation(1), path))
				d.found(t, o)
				r := run(t, o, opt)
				if r.Sound() == d.own {
					t.Errorf("after repair: %+v", r.Problems)
				}
				if again := run(t, o, fsck.Options{Deep: true}); again.Sound() == d.own {
					t.Errorf("when repaired: %+v", again.Problems)
				}
			})
		}
	}
}

// found checks that the damage is found, and by reading alone if so.
func (d *damage) found(t *testing.T, o origin.Origin) {
	t.Helper()
	if r := run(t, o, fsck.Options{}); r.Sound() != d.deep {
		t.Errorf("without reading: %+v", r.Problems)
	}
	r := run(t, o, fsck.Options{Deep: true})
	if r.Sound() || !slices.ContainsFunc(r.Problems, func(p fsck.Problem) bool { return strings.Contains(p.String(), d.want) }) {
		t.Errorf("%+v; want %q", r.Problems, d.want)
	}
}

// A cacheOf is a cache that has what a source has, and does not check it.
type cacheOf struct{ chunk.Source }

func (c cacheOf) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	return c.Fetch(ctx, id, dst, off)
}

// TestRepairFromCache brings a chunk back that no store has, and takes no other
// bytes for it.
func TestRepairFromCache(t *testing.T) {
	held := memory.New()
	ok(t, img.Put(ctx, held.Generation(1)))
	for _, d := range []damage{damages[0], damages[2]} { // a chunk that is missing, and one that is altered
		for cache, good := range map[chunk.Reader]bool{
			cacheOf{held.Generation(1)}:                                         true,
			cacheOf{&chunktest.Corrupt{Source: held.Generation(1), Every: 1}}:   false,
			cacheOf{&chunktest.Truncated{Source: held.Generation(1), Every: 1}}: false,
			cacheOf{memory.New().Generation(1)}:                                 false,
		} {
			path := t.TempDir()
			o, err := dir.Open(path, true)
			ok(t, err)
			publish(t, o, 1, "x", img)
			ok(t, d.do(o.Generation(1), path))
			before := run(t, o, fsck.Options{Deep: true})
			r := run(t, o, fsck.Options{Deep: true, Repair: true, Cache: cache})
			if r.Sound() != good || len(r.Problems) != 1 {
				t.Errorf("%s: repaired out of %v: %+v", d.name, cache, r.Problems)
			}
			if after := run(t, o, fsck.Options{Deep: true}); after.Sound() != good || after.Chunks != before.Chunks && !good {
				t.Errorf("%s: after repair out of %v: %+v, before: %+v", d.name, cache, after, before)
			}
		}
	}
}

// TestRepairWithoutGoodBytes leaves what it cannot mend as it is.
func TestRepairWithoutGoodBytes(t *testing.T) {
	path := t.TempDir()
	o, err := dir.Open(path, true)
	ok(t, err)
	publish(t, o, 1, "x", img)
	bad := memory.New() // has the chunk's name, and not its bytes
	publish(t, bad, 1, "x", blockmaptest.Small(9, 1))
	name := file(path, "chunks", img.Chunks[1].ID)
	ok(t, overwrite(name, []byte("short")))
	if r := run(t, o, fsck.Options{Repair: true, From: bad}); r.Sound() {
		t.Errorf("repaired out of nothing: %+v", r)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "short" {
		t.Errorf("what was there: %q, %v", b, err)
	}
}

// TestShortcutsAreDropped has short cuts that lead nowhere: a repair removes
// them, as publishing makes them again.
func TestShortcutsAreDropped(t *testing.T) {
	o := memory.New()
	s := o.Generation(1)
	for _, key := range []string{catalog.DigestKey(origin.Sum(nil)), "segments/x/1", "chains/x/1"} {
		_, err := catalog.Set(ctx, s, key, origin.Sum(nil))
		ok(t, err)
	}
	ok(t, s.SwapPointer(ctx, catalog.NameKey("moving"), nil, catalog.Reserved(origin.Sum(nil), 1, 1)))
	if r := run(t, o, fsck.Options{}); len(r.Problems) != 3 || r.Sound() {
		t.Errorf("%+v", r.Problems)
	}
	if r := run(t, o, fsck.Options{Repair: true}); len(r.Problems) != 3 || !r.Sound() {
		t.Errorf("%+v", r.Problems)
	}
	if r := run(t, o, fsck.Options{}); len(r.Problems) != 0 {
		t.Errorf("%+v", r.Problems)
	}
}

// TestDamagedPointers flips a bit in pointers: each is named, and all else is
// looked at.
func TestDamagedPointers(t *testing.T) {
	path := t.TempDir()
	o, err := dir.Open(path, true)
	ok(t, err)
	publish(t, o, 1, "x", img)
	publish(t, o, 1, "y", blockmaptest.Small(5, 2))
	ok(t, generation.Mark(ctx, o, img.Digest(), time.Now()))
	_, err = generation.NewView(o, generation.Options{}).Pin(ctx, "y")
	ok(t, err)
	damage := func(in, name string) string {
		file := filepath.Join(path, in, place.Pointer(name))
		b, err := os.ReadFile(file)
		ok(t, err)
		b[8] ^= 1
		ok(t, os.WriteFile(file, b, 0o666))
		return name
	}
	want := []string{
		damage("", "marks/"+chunk.ID(img.Digest()).String()),
		damage(place.Generation(1), catalog.NameKey("x")), damage(place.Generation(1), catalog.DigestKey(img.Map.Info().Disk)),
	}
	r := run(t, o, fsck.Options{})
	var got []string
	for _, p := range r.Problems {
		if p.Kind == fsck.Damaged && p.What == "pointer" {
			got = append(got, p.Name)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) || len(r.Problems) != len(want) || r.Sound() || r.Images != 2 || r.Chunks != 5 {
		t.Errorf("%+v; want %q", r, want)
	}
}

// TestDamagedPointersAreReplaced has what the other origin knows of damaged pointers
// take their place, unless what they lead to cannot be had; short cuts that it does
// not know are removed, and names stay as they are. Sound ones stay in any case.
func TestDamagedPointersAreReplaced(t *testing.T) {
	other := blockmaptest.Small(5, 2)
	shortcut := catalog.DigestKey(img.Map.Info().Disk)
	for what, c := range map[string]struct {
		from func(t *testing.T) origin.Origin
		want map[string]origin.Digest // where pointers lead in the end; zeros: nowhere
		left int                      // problems that stay
	}{
		"nobody knows": {func(*testing.T) origin.Origin { return nil }, map[string]origin.Digest{shortcut: {}}, 2},
		"an empty one": {func(*testing.T) origin.Origin { return memory.New() }, map[string]origin.Digest{shortcut: {}}, 2},
		"a copy": {func(t *testing.T) origin.Origin {
			from := memory.New()
			publish(t, from, 1, "x", img)
			publish(t, from, 1, "bad", other)
			publish(t, from, 1, "sound", other) // which is another image here
			return from
		}, map[string]origin.Digest{catalog.NameKey("x"): img.Digest(), catalog.NameKey("bad"): other.Digest(), shortcut: img.Digest()}, 0},
		"one that lacks a chunk": {func(t *testing.T) origin.Origin {
			from := memory.New()
			publish(t, from, 1, "x", img)
			publish(t, from, 1, "bad", other)
			ok(t, from.Generation(1).Remove(ctx, other.Chunks[0].ID))
			return from
		}, map[string]origin.Digest{catalog.NameKey("x"): img.Digest(), shortcut: img.Digest()}, 2},
	} {
		path := t.TempDir()
		o, err := dir.Open(path, true)
		ok(t, err)
		s := o.Generation(1)
		for _, name := range []string{"x", "sound"} {
			publish(t, o, 1, name, img)
		}
		ok(t, s.SwapPointer(ctx, catalog.NameKey("bad"), nil, []byte("nonsense")))
		for _, name := range []string{catalog.NameKey("x"), shortcut} {
			ok(t, os.WriteFile(filepath.Join(path, place.Generation(1), place.Pointer(name)), []byte("damaged"), 0o666))
		}
		opt := fsck.Options{Repair: true, From: c.from(t)}
		if looked := run(t, o, fsck.Options{}); len(looked.Problems) != 3 || looked.Sound() {
			t.Errorf("%s: %+v", what, looked.Problems)
		}
		r := run(t, o, opt)
		left := 0
		for _, p := range r.Problems {
			if !p.Repaired {
				left++
			}
		}
		if left != c.left {
			t.Errorf("%s: %d problems are left, want %d: %+v", what, left, c.left, r.Problems)
		}
		c.want[catalog.NameKey("sound")] = img.Digest()
		for name, want := range c.want {
			d, err := catalog.Get(ctx, s, name)
			if d != want || (err == nil) == (want == origin.Digest{}) {
				t.Errorf("%s: %s leads to %v, %v; want %v", what, name, d, err, want)
			}
		}
		if again := run(t, o, fsck.Options{Deep: true}); again.Sound() != (c.left == 0) {
			t.Errorf("%s: when repaired: %+v", what, again.Problems)
		}
	}
}

func TestPinOfNothing(t *testing.T) {
	o := memory.New()
	publish(t, o, 1, "x", img)
	_, err := generation.NewView(o, generation.Options{}).Pin(ctx, "x")
	ok(t, err)
	if r := run(t, o, fsck.Options{}); !r.Sound() {
		t.Errorf("%+v", r.Problems)
	}
	ok(t, generation.NewView(o, generation.Options{}).Remove(ctx, "x"))
	ok(t, o.Generation(1).RemoveObject(ctx, img.Digest()))
	r := run(t, o, fsck.Options{})
	if r.Sound() || !slices.ContainsFunc(r.Problems, func(p fsck.Problem) bool { return p.What == "pin" }) {
		t.Errorf("%+v", r.Problems)
	}
}

// withMetadata is img with a metadata object, which it returns.
func withMetadata(t *testing.T) (*blockmaptest.Image, []byte) {
	t.Helper()
	object, err := pack.Metadata(img.Map, func(c *blockmap.Chunk) ([]byte, error) {
		i := slices.IndexFunc(img.Chunks, func(o chunktest.Object) bool { return o.ID == c.ID })
		return img.Chunks[i].Bytes, nil
	})
	ok(t, err)
	info := img.Map.Info()
	info.Metadata = origin.Sum(object)
	chunks := make([]blockmap.Chunk, img.Map.Len())
	for i := range chunks {
		chunks[i] = img.Map.Chunk(i)
	}
	b, err := blockmap.Encode(&info, chunks)
	ok(t, err)
	m, err := blockmap.Parse(b)
	ok(t, err)
	return &blockmaptest.Image{Map: m, Chunks: img.Chunks}, object
}

// TestMetadataObject: the object with an image's metadata is no orphan, and one that is
// missing or damaged is made again of the image's chunks, if they are there.
func TestMetadataObject(t *testing.T) {
	with, object := withMetadata(t)
	damages := map[string]func(s origin.Store, path string) error{
		"missing": func(s origin.Store, _ string) error { return s.RemoveObject(ctx, origin.Sum(object)) },
		"damaged": func(_ origin.Store, path string) error {
			return overwrite(file(path, "objects/sha256", origin.Sum(object)), make([]byte, len(object)))
		},
	}
	for name, do := range damages {
		for _, chunks := range []bool{true, false} {
			path := t.TempDir()
			o, err := dir.Open(path, true)
			ok(t, err)
			publish(t, o, 1, "x", with)
			_, err = o.Generation(1).PutObject(ctx, object)
			ok(t, err)
			if r := run(t, o, fsck.Options{}); !r.Sound() || len(r.OrphanObjects) != 0 {
				t.Errorf("with its object: %+v", r)
			}
			ok(t, do(o.Generation(1), path))
			if !chunks {
				ok(t, o.Generation(1).Remove(ctx, with.Chunks[0].ID))
			}
			if r := run(t, o, fsck.Options{}); r.Sound() || !strings.Contains(r.Problems[0].String(), name) {
				t.Errorf("%s: %+v", name, r.Problems)
			}
			r := run(t, o, fsck.Options{Repair: true})
			if r.Sound() != chunks {
				t.Errorf("%s, repaired with its chunks %v: %+v", name, chunks, r.Problems)
			}
			if again := run(t, o, fsck.Options{Deep: true}); again.Sound() != chunks {
				t.Errorf("%s, after repair with its chunks %v: %+v", name, chunks, again.Problems)
			}
		}
	}
}
