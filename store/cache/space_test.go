package cache

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// TestFull: what is in use, pinned or on its way is never given up.
func TestFull(t *testing.T) {
	size := Cost(int64(len(small(0).Bytes)))
	c := open(t, Config{Dir: t.TempDir(), MaxBytes: 4*size + size/2})
	put(t, c, small(0))
	if err := c.Pin(ctx, small(0).ID); err != nil {
		t.Fatal(err)
	}
	used, err := deposit(c, small(1), 5000)
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Begin(small(2).ID, int64(len(small(2).Bytes)))
	if err != nil {
		t.Fatal(err)
	}
	put(t, c, small(3))
	put(t, c, small(4)) // evicts 3
	last, err := c.Acquire(small(4).ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Begin(small(5).ID, 5000); !errors.Is(err, ErrFull) {
		t.Errorf("Begin without room: %v; want ErrFull", err)
	}
	for i, want := range []bool{true, true, false, false, true} {
		if got := holds(t, c, small(uint64(i))); got != want {
			t.Errorf("chunk %d is held: %v, want %v", i, got, want)
		}
	}
	for _, i := range []uint64{0, 1, 4} {
		if err := c.Evict(ctx, small(i).ID); !errors.Is(err, ErrInUse) {
			t.Errorf("Evict of chunk %d: %v; want ErrInUse", i, err)
		}
	}
	last.Release()
	put(t, c, small(5))
	d.Abort()
	used.Release()
	if _, err := c.Begin(small(6).ID, chunk.MaxStoredSize); !errors.Is(err, ErrFull) {
		t.Errorf("Begin of more than the cap: %v; want ErrFull", err)
	}
	if s := c.Stats(); s.Full != 2 || s.Chunks != 3 {
		t.Errorf("stats %+v; the chunk that cannot fit pushed others out, or Full is wrong", s)
	}
	checkInvariants(t, c)
}

func TestPins(t *testing.T) {
	dir := t.TempDir()
	size := Cost(int64(len(small(0).Bytes)))
	config := Config{Dir: dir, MaxBytes: 4 * size}
	c := open(t, config)
	for i := range uint64(4) {
		put(t, c, small(i))
	}
	if err := c.Pin(ctx, small(0).ID, chunktest.Absent); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Pin of a chunk that is not held: %v", err)
	}
	if err := c.Pin(ctx, small(0).ID, small(1).ID, small(2).ID); !errors.Is(err, ErrFull) {
		t.Errorf("Pin of more than half: %v", err)
	}
	if s := c.Stats(); s.Pinned != 0 || s.Kept != 0 {
		t.Errorf("a Pin that failed left %+v", s)
	}
	if err := c.Pin(ctx, small(0).ID, small(1).ID); err != nil {
		t.Fatal(err)
	}
	for range 2 { // before and after a restart
		for i := range uint64(10) {
			put(t, c, small(100+i))
			if err := c.Evict(ctx, small(100+i).ID); err != nil {
				t.Fatal(err)
			}
			if !holds(t, c, small(0)) || !holds(t, c, small(1)) {
				t.Fatal("a pinned chunk is gone")
			}
		}
		if s := c.Stats(); s.Pinned != 2 || s.PinnedBytes != 2*size || s.Kept != 2*size {
			t.Errorf("stats %+v", s)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = open(t, config)
	}
	rot(t, c, small(0), 400) // lost, it stays pinned, and is so when it is back
	if _, err := c.Damaged(ctx, small(0).ID); err != nil {
		t.Fatal(err)
	}
	if s := c.Stats(); s.Pinned != 2 || s.Kept != size {
		t.Errorf("stats %+v", s)
	}
	put(t, c, small(0))
	if err := c.Evict(ctx, small(0).ID); !errors.Is(err, ErrInUse) {
		t.Errorf("Evict of what is pinned anew: %v", err)
	}
	if err := c.Unpin(ctx, small(0).ID, small(1).ID, chunktest.Absent); err != nil {
		t.Fatal(err)
	}
	checkInvariants(t, c)
	for i := range uint64(4) {
		put(t, c, small(200+i))
	}
	if holds(t, c, small(0)) || holds(t, c, small(1)) {
		t.Error("unpinned chunks are kept")
	}
	if err := c.Pin(ctx, small(200).ID, small(201).ID); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, Config{Dir: dir, MaxBytes: 3 * size}) // two are more than half of it
	if s := c.Stats(); s.Pinned != 0 || s.Chunks != 3 {
		t.Errorf("with a smaller cap: %+v", s)
	}
	if err := os.WriteFile(c.path(pinsFile), []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, config)
	if s := c.Stats(); s.Pinned != 0 || s.Chunks != 3 {
		t.Errorf("with a damaged list of pins: %+v", s)
	}
}

// TestManySmall: very small chunks are bounded in number.
func TestManySmall(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir()})
	if c.maxChunks != 1<<15 {
		t.Errorf("at most %d chunks in 1 GiB", c.maxChunks)
	}
	c.maxChunks = 5
	for i := range uint64(20) {
		put(t, c, small(i))
		if s := c.Stats(); s.Chunks > 5 {
			t.Fatalf("%d chunks are held, want at most 5", s.Chunks)
		}
	}
	if s := c.Stats(); s.Chunks != 5 || s.Evictions != 15 {
		t.Errorf("stats %+v", s)
	}
	checkInvariants(t, c)
}

// TestMinFree tells the cache how much the file system has left: it gives way,
// to the cache's own deposits and to others; and does not empty itself for bytes
// that do not come back.
func TestMinFree(t *testing.T) {
	size := Cost(int64(len(small(0).Bytes)))
	var taken, stuck atomic.Int64 // by others; by files without a name
	dir := t.TempDir()
	c, err := newCache(Config{Dir: dir, MaxBytes: 1 << 30, MinFree: 10 * size})
	if err != nil {
		t.Fatal(err)
	}
	const disk = 30
	c.space = func() (int64, error) {
		s := c.Stats()
		return disk*size - s.Bytes + s.Reserved - taken.Load() - stuck.Load(), nil
	}
	if err := c.run(ctx, 0); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range uint64(50) {
		put(t, c, small(i))
		if s := c.Stats(); s.Bytes > 20*size {
			t.Fatalf("%d bytes are held, and only %d are left free", s.Bytes, disk*size-s.Bytes)
		}
	}
	if s := c.Stats(); s.Chunks != 20 || s.Evictions != 30 {
		t.Errorf("stats %+v", s)
	}
	taken.Store(5 * size)
	c.trim()
	if s := c.Stats(); s.Chunks != 15 {
		t.Errorf("others took five chunks' room: %d are held, want 15", s.Chunks)
	}
	c.space = func() (int64, error) { return 9 * size, nil } // whatever goes
	for i := range uint64(100) {
		if _, err := c.Begin(small(1000+i).ID, 5000); !errors.Is(err, ErrFull) {
			t.Fatalf("Begin: %v; want ErrFull", err)
		}
	}
	if s := c.Stats(); s.Chunks < 12 {
		t.Errorf("%d chunks are left of 15: evicted for nothing", s.Chunks)
	}
	c.space = func() (int64, error) { return 0, syscall.EIO }
	if _, err := c.Begin(small(1).ID, 5000); !errors.Is(err, syscall.EIO) {
		t.Errorf("Begin: %v; want EIO", err)
	}
	checkInvariants(t, c)
}

// TestFullDisk is a cache with a cap above what its file system has, for real.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a tmpfs")
	}
	dir := t.TempDir()
	if err := mountTmpfs(dir, 2<<20); err != nil {
		t.Skip("cannot mount a tmpfs: ", err)
	}
	defer func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	}()
	for _, minFree := range []int64{0, 300_000} {
		c, err := Open(ctx, Config{Dir: dir, MaxBytes: 1 << 30, MinFree: minFree})
		if err != nil {
			t.Fatal(err)
		}
		full, stored := 0, 0
		for n := range uint64(150) {
			o := crashObject(n)
			h, err := deposit(c, o, 20_000)
			switch {
			case errors.Is(err, ErrFull):
				full++
				c.making.Lock()
				c.shy = time.Time{} // a second later
				c.making.Unlock()
			case errors.Is(err, ErrExists):
			case err != nil:
				t.Fatal(err)
			default:
				stored++
				checkHandle(t, h, o)
				h.Release()
			}
		}
		s := c.Stats()
		if stored < 50 || minFree > 0 && s.NoSpace > 0 || minFree == 0 && (s.NoSpace == 0 || full == 0) {
			t.Errorf("free %d: %d stored, %d times full, stats %+v", minFree, stored, full, s)
		}
		for n := range uint64(150) {
			holds(t, c, crashObject(n))
		}
		checkInvariants(t, c)
		if s := c.Stats(); s.Damaged != 0 {
			t.Errorf("free %d: %d chunks are damaged", minFree, s.Damaged)
		}
		if err := c.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}
