package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/cache/evict"
	"github.com/rivuletfs/rivulet/store/cache/evict/simulate"
)

// TestFileFormat makes a chunk's file as doc/format/cache.md tells.
func TestFileFormat(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Config{Dir: dir})
	o := chunktest.Random(1, 9000, chunk.MinFrameSize)
	put(t, c, &o)
	table := crc32.MakeTable(crc32.Castagnoli)
	var tail []byte
	for off := 0; off < len(o.Bytes); off += 4096 {
		tail = binary.LittleEndian.AppendUint32(tail, crc32.Checksum(o.Bytes[off:min(off+4096, len(o.Bytes))], table))
	}
	tail = append(tail, "rvp1"...)
	tail = binary.LittleEndian.AppendUint64(tail, uint64(len(o.Bytes)))
	tail = binary.LittleEndian.AppendUint32(tail, crc32.Checksum(tail, table))
	name := o.ID.String()
	got, err := os.ReadFile(filepath.Join(dir, "chunks", name[:2], fmt.Sprintf("%s.%d", name, len(o.Bytes))))
	if err != nil || !bytes.Equal(got, append(bytes.Clone(o.Bytes), tail...)) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(o.Bytes)+len(tail))
	}
	if text, err := os.ReadFile(filepath.Join(dir, "version")); string(text) != "rivulet cache 1\n" || err != nil {
		t.Errorf("version is %q, %v", text, err)
	}
	if Cost(4096-16-4) != 4096 || Cost(4096-16-4+1) != 8192 {
		t.Error("Cost does not round to blocks")
	}
}

// TestCheckScript runs doc/format/check-cache.sh on a good and on damaged
// directories.
func TestCheckScript(t *testing.T) {
	for _, tool := range []string{"sh", "sha256sum", "dd", "od", "mktemp", "head"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	dir := t.TempDir()
	check := func() error {
		return exec.Command("sh", filepath.Join("..", "..", "doc", "format", "check-cache.sh"), dir).Run()
	}
	if check() == nil {
		t.Error("an empty directory passes")
	}
	c := open(t, Config{Dir: dir})
	objects := []*chunktest.Object{small(1), small(2)}
	for _, o := range objects {
		put(t, c, o)
	}
	if err := check(); err != nil {
		t.Errorf("a good directory: %v", err)
	}
	path := c.place(objects[0].ID, int64(len(objects[0].Bytes)))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 30, 500, len(good) - 16, len(good) - 12} {
		if err := os.WriteFile(path, flip(good, at), 0o600); err != nil {
			t.Fatal(err)
		}
		if check() == nil {
			t.Errorf("byte %d changed: passes", at)
		}
	}
	if err := os.WriteFile(path, good[:len(good)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if check() == nil {
		t.Error("a byte less passes")
	}
}

// TestDepositRefuses: what is not the chunk never becomes visible, and leaves
// nothing behind.
func TestDepositRefuses(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir()})
	o := chunktest.Random(1, 200_000, chunk.FrameSize)
	size := int64(len(o.Bytes))
	other := chunktest.Random(2, 200_000, chunk.FrameSize)
	for name, b := range map[string][]byte{
		"nothing": {}, "short": o.Bytes[:size-1], "long": append(bytes.Clone(o.Bytes), 0), "other": other.Bytes,
		"header flipped": flip(o.Bytes, 40), "frame flipped": flip(o.Bytes, 100_000), "last flipped": flip(o.Bytes, int(size-1)),
	} {
		for _, step := range []int{1 << 20, 7777} {
			d, err := c.Begin(o.ID, size)
			if err != nil {
				t.Fatal(err)
			}
			for off := 0; off < len(b) && err == nil; off += step {
				_, err = d.Write(b[off:min(off+step, len(b))])
			}
			var corrupt *chunk.CorruptError
			if err != nil && !errors.As(err, &corrupt) {
				t.Errorf("%s: Write: %v; want a CorruptError", name, err)
			}
			if _, err := d.Commit(ctx); !errors.As(err, &corrupt) {
				t.Errorf("%s: Commit: %v; want a CorruptError", name, err)
			}
			d.Abort()
			if _, err := d.Write(b); err == nil {
				t.Errorf("%s: Write after the end succeeded", name)
			}
		}
	}
	for _, size := range []int64{size - 1, size + 1} {
		if h, err := deposit(c, &o, 1<<20); err != nil {
			t.Fatal(err)
		} else {
			h.Release()
		}
		if err := c.Evict(ctx, o.ID); err != nil {
			t.Fatal(err)
		}
		d, err := c.Begin(o.ID, size)
		if err != nil {
			t.Fatal(err)
		}
		var corrupt *chunk.CorruptError
		if _, err := d.Write(o.Bytes[:min(size, int64(len(o.Bytes)))]); !errors.As(err, &corrupt) {
			t.Errorf("told a size of %d: %v; want a CorruptError", size, err)
		}
		d.Abort()
	}
	for _, size := range []int64{-1, 0, chunk.MaxStoredSize + 1} {
		if _, err := c.Begin(o.ID, size); err == nil {
			t.Errorf("Begin of %d bytes succeeded", size)
		}
	}
	checkInvariants(t, c)
	if s := c.Stats(); s.Bytes != 0 || s.Reserved != 0 || s.Chunks != 0 {
		t.Errorf("stats %+v", s)
	}
	if list, err := os.ReadDir(c.path(tempDir)); err != nil || len(list) != 0 {
		t.Errorf("%d temporary files are left, %v", len(list), err)
	}
}

// TestOneDeposit: of many that bring one chunk, one may; the others can read
// what it has checked.
func TestOneDeposit(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir()})
	o := chunktest.Random(1, 300_000, chunk.FrameSize)
	d, err := c.Begin(o.ID, int64(len(o.Bytes)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Begin(o.ID, int64(len(o.Bytes))); !errors.Is(err, ErrExists) {
		t.Errorf("second Begin: %v; want ErrExists", err)
	}
	head := int64(o.Header.Len())
	for i, step := range []struct {
		upTo    int64
		checked int64
	}{{head - 1, 0}, {head, head}, {head + 1000, head}, {o.Header.FrameOffset(2) + 5, o.Header.FrameOffset(2)}} {
		from := d.at
		if _, err := d.Write(o.Bytes[from:step.upTo]); err != nil {
			t.Fatal(err)
		}
		if d.Checked() != step.checked {
			t.Errorf("step %d: %d bytes checked, want %d", i, d.Checked(), step.checked)
		}
		b := make([]byte, d.Checked())
		if _, err := d.File().ReadAt(b, 0); err != nil && len(b) > 0 || !bytes.Equal(b, o.Bytes[:len(b)]) {
			t.Errorf("step %d: what is checked reads otherwise, %v", i, err)
		}
	}
	if _, err := d.File().WriteAt([]byte("x"), 0); err == nil {
		t.Error("its descriptor can be written to")
	}
	if holds(t, c, &o) {
		t.Error("visible before Commit")
	}
	if _, err := d.Write(o.Bytes[d.at:]); err != nil {
		t.Fatal(err)
	}
	h, err := d.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	d.Abort() // does nothing
	checkHandle(t, h, &o)
	if _, err := h.File().WriteAt([]byte("x"), 0); err == nil {
		t.Error("its descriptor can be written to")
	}
	h.Release()
}

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
	if err := os.WriteFile(c.path(pinsFile), []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, config)
	if s := c.Stats(); s.Pinned != 0 || s.Chunks != 4 {
		t.Errorf("with a damaged list of pins: %+v", s)
	}
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

// TestHerd asks for one chunk from many sides after a restart: its file is read
// once.
func TestHerd(t *testing.T) {
	dir := t.TempDir()
	var reads atomic.Int64
	config := Config{Dir: dir, MaxBytes: 1 << 20, fault: func(o op, path string, n int) (int, error) {
		if o == opRead && filepath.Ext(path) != "" {
			reads.Add(1)
			time.Sleep(time.Millisecond)
		}
		return n, nil
	}}
	c := open(t, config)
	put(t, c, small(1))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, config)
	var wg sync.WaitGroup
	handles := make([]*Handle, 100)
	for i := range handles {
		wg.Go(func() {
			h, err := c.Acquire(small(1).ID)
			if err != nil {
				t.Error(err)
				return
			}
			checkHandle(t, h, small(1))
			handles[i] = h
		})
	}
	wg.Wait()
	if n := reads.Load(); n != 2 { // tail, object
		t.Errorf("%d reads to check one file, want 2", n)
	}
	if s := c.Stats(); s.Hits != 100 || s.InUse != 1 {
		t.Errorf("stats %+v", s)
	}
	for _, h := range handles {
		h.Release()
	}
}

// TestHandleOutlivesAll: a handle reads on after its chunk was dropped and the
// cache closed.
func TestHandleOutlivesAll(t *testing.T) {
	c := open(t, Config{Dir: t.TempDir()})
	h, err := deposit(c, small(1), 5000)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.place(small(1).ID, h.Size())); err != nil {
		t.Fatal(err)
	}
	if dropped, err := c.Damaged(ctx, small(1).ID); !dropped || err != nil {
		t.Errorf("Damaged = %v, %v", dropped, err)
	}
	d, err := c.Begin(small(2).ID, int64(len(small(2).Bytes)))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	checkHandle(t, h, small(1))
	h.Release()
	if _, err := d.Write(small(2).Bytes); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("Commit after Close: %v; want ErrClosed", err)
	}
	_, begin := c.Begin(small(3).ID, 10)
	_, damaged := c.Damaged(ctx, small(1).ID)
	for _, err := range []error{begin, damaged, c.Evict(ctx, small(1).ID), c.Pin(ctx, small(1).ID)} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v; want ErrClosed", err)
		}
	}
}

// TestScrubGoesOn: a background scrub that was stopped goes on where it was,
// over a restart, and keeps to its rate.
func TestScrubGoesOn(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var seen []string
	config := Config{Dir: dir, MaxBytes: 1 << 20, fault: func(o op, path string, n int) (int, error) {
		if o == opOpen && filepath.Dir(filepath.Dir(path)) == filepath.Join(dir, chunksDir) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, filepath.Base(path)[:64])
		}
		return n, nil
	}}
	c := open(t, config)
	for i := range uint64(10) {
		put(t, c, small(i))
	}
	ids := c.sorted(chunk.ID{})
	mu.Lock()
	seen = nil
	mu.Unlock()
	scrubbed := func(n int) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) >= n }
	}
	for round := range 3 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		config.ScrubRate = 20 * fileSize(int64(len(small(0).Bytes))) // a chunk in 50 ms
		if round == 2 {
			config.ScrubRate = 1 << 40
		}
		begun := time.Now()
		c = open(t, config)
		if round < 2 {
			await(t, scrubbed(3*round+2))
			if took := time.Since(begun); took < 50*time.Millisecond {
				t.Errorf("round %d took %v: faster than its rate", round, took)
			}
			continue
		}
		await(t, func() bool { return c.Stats().ScrubPasses == 1 })
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, name := range seen {
		switch {
		case at < len(ids) && name == ids[at].String():
			at++
		case at > 0 && name == ids[at-1].String(): // it was being looked at when the cache was closed
		default:
			t.Fatalf("chunk %s is looked at out of turn, after %d", name, at)
		}
	}
	if at != len(ids) {
		t.Errorf("%d chunks looked at, want %d", at, len(ids))
	}
}

// await waits until ok.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
	}
}

// TestLikeTheSimulator runs a trace through a cache and through the simulator:
// the hits are the same, or nearly so where a policy looks at the clock.
func TestLikeTheSimulator(t *testing.T) {
	trace := simulate.Zipf(1, 120, 3000, 0.9, 5)
	objects := make([]*chunktest.Object, len(trace.Costs))
	for i := range objects {
		o := chunktest.Random(uint64(i), 1+int(trace.Costs[i]%31_000), chunk.FrameSize)
		objects[i], trace.Costs[i] = &o, Cost(int64(len(o.Bytes)))
	}
	capacity := trace.WorkingSet() / 10
	for _, name := range []string{"lru", "sieve", "s3fifo", "lru-2", ""} {
		policy, err := evict.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		other, err := evict.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		c := open(t, Config{Dir: t.TempDir(), MaxBytes: capacity, Policy: policy})
		for _, r := range trace.Requests {
			c.mu.Lock()
			c.base = r.At - time.Since(c.begun)
			c.mu.Unlock()
			if !holds(t, c, objects[r.Chunk]) {
				put(t, c, objects[r.Chunk])
			}
		}
		want := simulate.Run(other, capacity, trace, 0)
		got, allowed := c.Stats().Hits, 0.0
		if name == "lru-2" || name == "" {
			allowed = 0.02
		}
		if math.Abs(float64(got-want.Hits)) > allowed*float64(want.Hits) || want.Hits == 0 {
			t.Errorf("%q: %d hits, the simulator has %d", name, got, want.Hits)
		}
	}
}
