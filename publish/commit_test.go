package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/fsck"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
	"github.com/rivuletfs/rivulet/verify"
)

const (
	page     = 4096
	testDisk = 64 << 20 // bytes
)

// scratch is a copy of a published disk that notes what is written.
type scratch struct {
	*blockdevtest.Scratch
	base    *blockmap.Map
	written map[int64]bool // pages, and whether they were zeroed
}

func readDisk(t testing.TB, m *blockmap.Map, src chunk.Source) []byte {
	t.Helper()
	d, err := disk.Open(m, chunk.NewDoor(src), disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func openMap(t testing.TB, place origin.Origin, name string) (*generation.Image, *blockmap.Map) {
	t.Helper()
	i, err := generation.NewView(place, generation.Options{}).Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return i, i.Map
}

// copyOf returns the disk of an image that anybody can read, grown by some bytes.
func copyOf(t testing.TB, place origin.Origin, name string, grow int) *scratch {
	t.Helper()
	i, m := openMap(t, place, name)
	return &scratch{blockdevtest.NewScratch(append(readDisk(t, m, i), make([]byte, grow)...)), m, make(map[int64]bool)}
}

// write writes whole pages, of zeros if there is no rng.
func (s *scratch) write(t testing.TB, rng *rand.Rand, off, pages int64) {
	t.Helper()
	for i := off / page; i < off/page+pages; i++ {
		b := make([]byte, page)
		if rng != nil {
			for k := range b {
				b[k] = byte(rng.Uint32())
			}
		}
		if _, err := s.WriteAt(b, i*page); err != nil {
			t.Fatal(err)
		}
		s.written[i] = rng == nil
	}
}

// change is s as Commit wants it. Untouched chunks cannot be read.
func (s *scratch) change() Change {
	pages := make([]int64, 0, len(s.written))
	touched := make(map[int64]bool)
	for i := range s.written {
		pages = append(pages, i)
		touched[i*page/chunk.Size] = true
	}
	slices.Sort(pages)
	return Change{
		Base: s.base, Size: s.Size(),
		Disk: readerFunc(func(p []byte, off int64) (int, error) {
			if !touched[off/chunk.Size] {
				return 0, fmt.Errorf("chunk at %d was not touched, and is read", off)
			}
			return s.ReadAt(p, off)
		}),
		Touched: func(_ context.Context, fn func(off, length int64, zero bool) bool) error {
			for _, i := range pages {
				if !fn(i*page, min(page, s.Size()-i*page), s.written[i]) {
					break
				}
			}
			return nil
		},
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func (s *scratch) bytes(t testing.TB) []byte {
	t.Helper()
	b := make([]byte, s.Size())
	if _, err := s.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// checkCommitted looks at an image that was committed of s, in the whole store
// too.
func (s *scratch) checkCommitted(t *testing.T, place origin.Origin, r *Committed) {
	t.Helper()
	i, m := openMap(t, place, r.Name)
	if m.Digest().String() != r.BlockMap || m.Len() != r.Chunks || m.Size() != r.DiskSize || r.Base != s.base.Digest().String() {
		t.Errorf("result %+v, of %v with %d chunks", r, m, m.Len())
	}
	if want := s.bytes(t); !bytes.Equal(readDisk(t, m, i), want) {
		t.Error("the committed disk has other bytes")
	} else {
		for k := range m.Len() {
			if at := int64(m.Chunk(k).Index) * chunk.Size; len(chunk.Trim(want[at:min(at+chunk.Size, int64(len(want)))])) == 0 {
				t.Errorf("chunk at %d is zeros, and is stored", at)
			}
		}
	}
	if info := m.Info(); info.Disk != (origin.Digest{}) || info.Source != (origin.Digest{}) || info.ChainID != (origin.Digest{}) ||
		len(info.Layers) != len(s.base.Layers()) || !bytes.Equal(info.Config, s.base.Info().Config) {
		t.Errorf("the map says %+v", info)
	}
	if err := verify.Chunks(t.Context(), m, i, nil); err != nil {
		t.Error(err)
	}
	if _, err := sign.Require(t.Context(), m, place.Generation(i.Generation()), testSigner.Public()); err != nil {
		t.Error(err)
	}
	found, err := fsck.Check(t.Context(), place, fsck.Options{Deep: true})
	if err != nil || len(found.Problems) > 0 {
		t.Errorf("fsck: %+v, %v", found, err)
	}
}

func small(t testing.TB, name string) Options {
	o := options(t, name)
	o.Size = testDisk
	return o
}

// TestCommit commits a changed disk, and then a change of that.
func TestCommit(t *testing.T) {
	place := memory.New()
	publishAs(t, place, small(t, "base"), "dir:"+makeTree(t, 31, 40))
	rng := rand.New(rand.NewPCG(31, 32))
	s := copyOf(t, place, "base", 0)
	first := int64(s.base.Chunk(2).Index) * chunk.Size
	s.write(t, rng, 0, 1)                          // a part of a chunk
	s.write(t, nil, first, chunk.Size/page)        // a whole chunk, zeroed
	s.write(t, nil, first+chunk.Size, 1)           // zeros where there are some already, maybe
	s.write(t, rng, testDisk-page, 1)              // the very end
	s.write(t, rng, testDisk/2+3*page, 2*128)      // over chunks that the base has not got
	s.write(t, nil, testDisk/2-page, 2)            // zeros over two chunks
	s.write(t, rng, testDisk/2+chunk.Size*9, 1)    // written and zeroed again
	s.write(t, nil, testDisk/2+chunk.Size*9, 1)    // in a chunk of its own
	s.write(t, nil, testDisk/2+chunk.Size*20, 300) // nothing there
	touched := make(map[int64]bool)
	for i := range s.written {
		touched[i*page/chunk.Size] = true
	}
	kept := 0
	for i := range s.base.Len() {
		if !touched[int64(s.base.Chunk(i).Index)] {
			kept++
		}
	}
	r, err := Commit(t.Context(), place, s.change(), options(t, "second"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Taken != kept || r.NewChunks > int64(len(touched)) || r.NewChunks < 4 {
		t.Errorf("%+v; want %d taken over, and at most %d new", r, kept, len(touched))
	}
	s.checkCommitted(t, place, r)

	again := copyOf(t, place, "second", 3<<20+512)
	again.write(t, rng, testDisk+2<<20, 3)
	again.write(t, rng, first, 1)
	r, err = Commit(t.Context(), place, again.change(), options(t, "second")) // replaces the name
	if err != nil {
		t.Fatal(err)
	}
	if r.NewChunks != 2 {
		t.Errorf("second commit: %+v, want 2 new chunks", r)
	}
	again.checkCommitted(t, place, r)

	nothing := copyOf(t, place, "base", 0)
	r, err = Commit(t.Context(), place, nothing.change(), options(t, "same"))
	if err != nil || r.NewChunks != 0 || r.Taken != nothing.base.Len() {
		t.Errorf("a commit of nothing: %+v, %v", r, err)
	}
	nothing.checkCommitted(t, place, r)
	// What was committed is not taken for what it was made from.
	if known := mustPublish(t, place, "base", "dir:"+makeTree(t, 31, 40)); known.Digest == r.BlockMap {
		t.Error("the image is taken for a committed one")
	}
}

// TestCommitRandom compares commits with flat copies.
func TestCommitRandom(t *testing.T) {
	place := memory.New()
	publishAs(t, place, small(t, "base"), "dir:"+makeTree(t, 33, 60))
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 33))
		s := copyOf(t, place, "base", int(seed)*700*512)
		for range 60 {
			with := rng
			if rng.IntN(3) == 0 {
				with = nil
			}
			pages := 1 + rng.Int64N(1+rng.Int64N(300))
			s.write(t, with, rng.Int64N(s.Size()/page-pages+1)*page, pages)
		}
		r, err := Commit(t.Context(), place, s.change(), options(t, fmt.Sprint("random", seed)))
		if err != nil {
			t.Fatal(err)
		}
		s.checkCommitted(t, place, r)
	}
}

// TestCommitCarries commits a disk whose base lies in an older generation.
func TestCommitCarries(t *testing.T) {
	place := memory.New()
	publishAs(t, place, small(t, "base"), "dir:"+makeTree(t, 34, 30))
	s := copyOf(t, place, "base", 0)
	s.write(t, rand.New(rand.NewPCG(34, 0)), 8<<20, 1)
	if _, err := generation.New(t.Context(), place, 1, generationTime); err != nil {
		t.Fatal(err)
	}
	r, err := Commit(t.Context(), place, s.change(), options(t, "second"))
	if err != nil {
		t.Fatal(err)
	}
	s.checkCommitted(t, place, r)
	if i, _ := openMap(t, place, "second"); i.Generation() != 2 {
		t.Errorf("committed into generation %v, want 2", i.Generation())
	}
	if _, err := catalog.Load(t.Context(), place.Generation(2), s.base.Digest()); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("the base itself was carried: %v", err)
	}
}

// TestCommitLocked has a base that is locked, and another salt.
func TestCommitLocked(t *testing.T) {
	place := memory.New()
	p := newPerson(t)
	o := p.options(t, "base")
	o.Size = testDisk
	publishAs(t, place, o, "dir:"+makeTree(t, 35, 30))
	i, m := p.unlock(t, place, "base")
	s := &scratch{blockdevtest.NewScratch(readDisk(t, m, i)), m, make(map[int64]bool)}
	s.write(t, rand.New(rand.NewPCG(35, 0)), 8<<20, 1)
	r, err := Commit(t.Context(), place, s.change(), p.options(t, "second"))
	if err != nil {
		t.Fatal(err)
	}
	i, again := p.unlock(t, place, "second")
	if !i.Map.Locked() || !bytes.Equal(readDisk(t, again, i), s.bytes(t)) {
		t.Errorf("%v: locked %v, or other bytes", again, i.Map.Locked())
	}
	if r.Taken == 0 {
		t.Error("nothing was taken over")
	}
	o = p.options(t, "resalted")
	if o.Salt, err = seal.NewSalt("other", 1); err != nil {
		t.Fatal(err)
	}
	c := s.change()
	if _, err = Commit(t.Context(), place, c, o); err == nil || !strings.Contains(err.Error(), "was not touched") {
		t.Errorf("a commit with another salt does not read all: %v", err)
	}
	c.Disk = s
	if r, err = Commit(t.Context(), place, c, o); err != nil {
		t.Fatal(err)
	}
	i, again = p.unlock(t, place, "resalted")
	if again.Info().SaltID != o.Salt.ID() || r.Taken != 0 || !bytes.Equal(readDisk(t, again, i), s.bytes(t)) {
		t.Errorf("%+v, or other bytes, or of another salt", r)
	}
	for k := range m.Len() {
		if _, ok := again.Lookup(m.Chunk(k).Index); ok && again.Chunk(0).ID == m.Chunk(0).ID {
			t.Fatal("chunks of one salt stand under another")
		}
	}
}

func TestCommitRefuses(t *testing.T) {
	place := memory.New()
	publishAs(t, place, small(t, "base"), "dir:"+makeTree(t, 36, 10))
	s := copyOf(t, place, "base", 0)
	s.write(t, rand.New(rand.NewPCG(36, 0)), 8<<20, 1)
	stranger, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	errMedium := errors.New("medium error")
	ranges := func(list ...[2]int64) func(context.Context, func(off, length int64, zero bool) bool) error {
		return func(_ context.Context, fn func(off, length int64, zero bool) bool) error {
			for _, r := range list {
				if !fn(r[0], r[1], false) {
					break
				}
			}
			return nil
		}
	}
	for want, change := range map[string]func(c *Change, o *Options){
		"no name":                func(_ *Change, o *Options) { o.Name = "" },
		ErrUntrusted.Error():     func(_ *Change, o *Options) { o.Signer = stranger },
		"disk of":                func(c *Change, _ *Options) { c.Size -= 512 },
		"512 bytes at 0 were":    func(c *Change, _ *Options) { c.Touched = ranges([2]int64{512, 512}, [2]int64{0, 512}) },
		"1024 bytes at 67108352": func(c *Change, _ *Options) { c.Touched = ranges([2]int64{testDisk - 512, 1024}) },
		"0 bytes at 0 were":      func(c *Change, _ *Options) { c.Touched = ranges([2]int64{0, 0}) },
		"read 524288 bytes at": func(c *Change, _ *Options) {
			c.Disk = readerFunc(func([]byte, int64) (int, error) { return 0, errMedium })
		},
		io.ErrUnexpectedEOF.Error(): func(c *Change, _ *Options) { c.Disk = bytes.NewReader(make([]byte, 512)) },
		errMedium.Error(): func(c *Change, _ *Options) {
			c.Touched = func(context.Context, func(off, length int64, zero bool) bool) error { return errMedium }
		},
	} {
		c, o := s.change(), options(t, "second")
		change(&c, &o)
		if _, err := Commit(t.Context(), place, c, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := catalog.Open(t.Context(), place.Generation(1), "second"); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("%s: the name is there: %v", want, err)
		}
	}
	o := options(t, "second")
	o.Signer, o.Trusted = stranger, []sign.PublicKey{testSigner.Public()}
	if _, err := Commit(t.Context(), place, s.change(), o); err != nil {
		t.Errorf("a base by somebody who is trusted: %v", err)
	}
}
