package cache

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// damages are ways in which a file of b, for an object of size bytes, can come
// out of a power cut or rot. Each changes something.
func damages(b []byte, size int) map[string][]byte {
	zeroed := func(from, to int) []byte {
		c := bytes.Clone(b)
		clear(c[from:to])
		return c
	}
	list := map[string][]byte{
		"empty":            {},
		"one byte":         b[:1],
		"no trailer":       b[:len(b)-trailerLen],
		"no tail":          b[:size],
		"cut in a page":    b[:size/2],
		"one byte less":    b[:len(b)-1],
		"one byte more":    append(bytes.Clone(b), 0),
		"zeros":            make([]byte, len(b)),
		"first page zero":  zeroed(0, PageSize),
		"middle page zero": zeroed(PageSize, 2*PageSize),
		"tail zero":        zeroed(size, len(b)),
		"trailer zero":     zeroed(len(b)-trailerLen, len(b)),
		"pages swapped":    append(append(bytes.Clone(b[PageSize:2*PageSize]), b[:PageSize]...), b[2*PageSize:]...),
	}
	rng := rand.New(rand.NewPCG(1, 1))
	regions := map[string][2]int{
		"prefix": {0, 16}, "frame table": {16, chunk.HeaderLen(1)}, "frames": {chunk.HeaderLen(1), size},
		"page checksums": {size, len(b) - trailerLen}, "trailer": {len(b) - trailerLen, len(b)},
	}
	for name, r := range regions {
		for i := range 8 {
			list[fmt.Sprintf("bit in %s %d", name, i)] = flip(b, r[0]+rng.IntN(r[1]-r[0]))
		}
	}
	return list
}

// TestDamageIsHealed damages the file of a chunk in every region: the first
// Acquire finds it, the chunk is put again, and good.
func TestDamageIsHealed(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	o := chunktest.Random(1, 30_000, chunk.MinFrameSize)
	put(t, c, &o)
	path := c.place(object{id: o.ID, size: int64(len(o.Bytes))})
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := int64(0)
	for name, b := range damages(good, len(o.Bytes)) {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c = open(t, Config{Dir: dir})
		if holds(t, c, &o) {
			t.Fatalf("%s: served", name)
		}
		if s := c.Stats(); s.Damaged != 1 || s.Chunks != 0 || s.Bytes != 0 || s.Kept != 0 || s.InUse != 0 || s.Misses != 1 || s.Hits != 0 {
			t.Fatalf("%s: stats %+v", name, s)
		}
		put(t, c, &o)
		if !holds(t, c, &o) {
			t.Fatalf("%s: not healed", name)
		}
		damaged++
	}
	if damaged < 40 {
		t.Errorf("only %d kinds of damage", damaged)
	}
}

// TestScrubFinds: what rots while the cache is open is found by the scrub, also
// under a chunk in use, whose handle stays; and by a reader who says so.
func TestScrubFinds(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir()})
	var objects []*chunktest.Object
	for i := range uint64(20) {
		objects = append(objects, small(i))
		put(t, c, objects[i])
	}
	if s, err := c.Scrub(ctx, 0); err != nil || s.Chunks != 20 || s.Damaged != 0 || s.Bytes != 20*fileSize(int64(len(objects[0].Bytes))) {
		t.Fatalf("Scrub of good chunks = %+v, %v", s, err)
	}
	h, err := c.Acquire(objects[3].ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects[3:6] {
		rot(t, c, o, len(o.Bytes)-1)
	}
	if dropped, err := c.Damaged(ctx, objects[4].ID); !dropped || err != nil {
		t.Errorf("Damaged = %v, %v; want true", dropped, err)
	}
	if dropped, err := c.Damaged(ctx, objects[7].ID); dropped || err != nil {
		t.Errorf("Damaged of a good chunk = %v, %v; want false", dropped, err)
	}
	if dropped, err := c.Damaged(ctx, chunktest.Absent); dropped || err != nil {
		t.Errorf("Damaged of no chunk = %v, %v; want false", dropped, err)
	}
	if s, err := c.Scrub(ctx, 0); err != nil || s.Chunks != 19 || s.Damaged != 2 {
		t.Errorf("Scrub = %+v, %v; want 2 damaged", s, err)
	}
	for i, o := range objects {
		if got, want := holds(t, c, o), i < 3 || i > 5; got != want {
			t.Errorf("chunk %d is held: %v, want %v", i, got, want)
		}
	}
	put(t, c, objects[3]) // while an old handle is held
	h.Release()
	if s := c.Stats(); s.InUse != 0 || s.Kept != 0 || s.Chunks != 18 || s.Damaged != 3 {
		t.Errorf("stats %+v", s)
	}
}

// rot flips a bit of the file of o.
func rot(t testing.TB, c *Cache, o *chunktest.Object, at int) {
	t.Helper()
	f, err := os.OpenFile(c.place(object{id: o.ID, size: int64(len(o.Bytes))}), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], int64(at)); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], int64(at)); err != nil {
		t.Fatal(err)
	}
}

// TestAppendObject: what the process itself reads is checked; the chunk is
// dropped if it has rotted, whatever region.
func TestAppendObject(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir()})
	o := small(1)
	for at := 0; at < int(fileSize(int64(len(o.Bytes)))); at += 211 {
		h, err := deposit(c, o, 5000)
		if err != nil {
			t.Fatal(err)
		}
		b, err := h.AppendObject([]byte("before"))
		if err != nil || string(b) != "before"+string(o.Bytes) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		rot(t, c, o, at)
		var corrupt *chunk.CorruptError
		if _, err := h.AppendObject(nil); !errors.As(err, &corrupt) {
			t.Errorf("byte %d flipped: %v; want a CorruptError", at, err)
		}
		h.Release()
		if holds(t, c, o) {
			t.Errorf("byte %d flipped: still held", at)
		}
	}
	checkInvariants(t, c)
}

// TestDamagedFrame: page checksums that agree with wrong bytes are caught by a
// reader's word, since the frames' digests do not.
func TestDamagedFrame(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir()})
	o := small(1)
	put(t, c, o)
	forged := flip(o.Bytes, len(o.Bytes)-5)
	var sums pageSummer
	sums.write(forged)
	sums.flush()
	size := int64(len(forged))
	if err := os.WriteFile(c.place(object{id: o.ID, size: size}), append(forged, appendTrailer(sums.table, size)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Scrub(ctx, 0); err != nil || s.Damaged != 0 {
		t.Fatalf("the forgery is none: %+v, %v", s, err)
	}
	if dropped, err := c.Damaged(ctx, o.ID); !dropped || err != nil {
		t.Errorf("Damaged = %v, %v; want true", dropped, err)
	}
}

// failing makes the n-th operation that o picks fail, and no other.
func failing(o op, n int64, err error) (fault, *atomic.Int64) {
	var seen atomic.Int64
	return func(what op, _ string, size int) (int, error) {
		if what == o && seen.Add(1) == n {
			return size / 2, err // a short one
		}
		return size, nil
	}, &seen
}

// TestFaults makes each operation of a deposit, an eviction, an acquisition and
// a pin fail once, in all ways: never a wrong byte, no room lost but for what
// cannot be removed, and everything works afterwards.
func TestFaults(t *testing.T) {
	for _, o := range []op{opCreate, opOpen, opRead, opWrite, opSync, opRename, opRemove, opSpace} {
		t.Run(string(o), func(t *testing.T) {
			errnos := []syscall.Errno{syscall.ENOSPC, syscall.EIO, syscall.EMFILE, syscall.EROFS}
			for n := int64(1); ; n++ {
				if reached := faultAt(t, o, n, errnos[n%4]); !reached {
					if n == 1 {
						t.Fatal("the operation is never used")
					}
					return
				}
			}
		})
	}
}

// faultAt works with a cache whose n-th operation o fails, and reports whether
// it came to that.
func faultAt(t *testing.T, o op, n int64, errno error) bool {
	dir := t.TempDir()
	fault, seen := failing(o, n, errno)
	size := Cost(int64(len(small(0).Bytes)))
	config := Config{Dir: dir, MaxBytes: 3 * size, MinFree: 1, fault: fault}
	c, err := Open(ctx, config)
	if err != nil {
		if !errors.Is(err, errno) {
			t.Fatalf("Open: %v; want %v", err, errno)
		}
		c = open(t, config)
	}
	failures := 0
	tell := func(err error) {
		if err != nil {
			failures++
			if !errors.Is(err, errno) && !errors.Is(err, chunk.ErrNotFound) {
				t.Fatalf("%s %d: %v; want %v", o, n, err, errno)
			}
		}
	}
	for i := range uint64(8) {
		h, err := deposit(c, small(i), 2000)
		tell(err)
		if err == nil {
			checkHandle(t, h, small(i))
			h.Release()
		}
		c.mu.Lock()
		for _, e := range c.entries {
			e.checked = false // as after a restart
		}
		c.mu.Unlock()
		h, err = c.Acquire(small(i).ID)
		tell(err)
		if err == nil {
			checkHandle(t, h, small(i))
			h.Release()
		}
		if i == 5 {
			tell(c.Pin(ctx, small(i).ID))
			for range 2 { // of which one works
				tell(c.Unpin(ctx, small(i).ID))
			}
		}
		checkInvariants(t, c)
	}
	if failures > 3 {
		t.Errorf("%s %d: one fault, %d failures", o, n, failures)
	}
	if s := c.Stats(); s.Reserved != 0 || s.Kept != 0 || s.InUse != 0 {
		t.Errorf("%s %d: stats %+v", o, n, s)
	}
	if err := c.Close(); err != nil && !errors.Is(err, errno) {
		t.Errorf("Close: %v", err)
	}
	again := open(t, Config{Dir: dir})
	for i := range uint64(8) {
		if !holds(t, again, small(i)) {
			put(t, again, small(i))
		}
	}
	return seen.Load() >= n
}

// checkInvariants checks the books of a cache that nobody uses just now, against
// what is on disk too.
func checkInvariants(t testing.TB, c *Cache) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var used, kept, policy int64
	inUse := 0
	for id, e := range c.entries {
		used += e.cost()
		if e.kept() {
			kept += e.cost()
		}
		if e.open != nil {
			inUse++
		}
		if !e.pinned {
			policy += e.cost()
		}
		if id != e.id || e.going != e.stuck {
			t.Errorf("entry %v: %+v", id, e)
		}
	}
	var reserved int64
	for _, d := range c.deposits {
		reserved += Cost(d.size)
	}
	if c.reserved != reserved || c.kept != kept || c.inUse != inUse {
		t.Errorf("reserved %d, kept %d, in use %d; want %d, %d, %d", c.reserved, c.kept, c.inUse, reserved, kept, inUse)
	}
	if c.used < used+reserved || c.used > c.max {
		t.Errorf("used %d of %d; want at least %d", c.used, c.max, used+reserved)
	}
	if c.policy.Bytes() != policy {
		t.Errorf("the policy knows %d bytes, want %d", c.policy.Bytes(), policy)
	}
}

// TestStuck: a damaged file that cannot be removed is not served, and counts;
// whoever brings the chunk anew removes it when that works again.
func TestStuck(t *testing.T) {
	var readOnly atomic.Bool
	c := open(t, Config{Dir: t.TempDir(), fault: func(o op, _ string, n int) (int, error) {
		if o == opRemove && readOnly.Load() {
			return 0, syscall.EROFS
		}
		return n, nil
	}})
	o := small(1)
	size := int64(len(o.Bytes))
	put(t, c, o)
	rot(t, c, o, 1000)
	readOnly.Store(true)
	if dropped, err := c.Damaged(ctx, o.ID); !dropped || err != nil {
		t.Errorf("Damaged = %v, %v", dropped, err)
	}
	if holds(t, c, o) {
		t.Error("served all the same")
	}
	if _, err := c.Begin(o.ID, size); !errors.Is(err, syscall.EROFS) {
		t.Errorf("Begin: %v; want EROFS", err)
	}
	if s := c.Stats(); s.Bytes != Cost(size) {
		t.Errorf("stats %+v: the file does not count", s)
	}
	checkInvariants(t, c)
	readOnly.Store(false)
	var wg sync.WaitGroup
	var won atomic.Int64
	for range 8 {
		wg.Go(func() {
			h, err := deposit(c, o, 5000)
			switch {
			case err == nil:
				won.Add(1)
				checkHandle(t, h, o)
				h.Release()
			case !errors.Is(err, ErrExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d deposits of one chunk", won.Load())
	}
	checkInvariants(t, c)
	if s := c.Stats(); s.Bytes != Cost(size) || s.Chunks != 1 {
		t.Errorf("stats %+v", s)
	}
}
