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
	if text, err := os.ReadFile(filepath.Join(dir, "version")); string(text) != "rivulet cache 2\n" || err != nil {
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
	path := c.place(object{id: objects[0].ID, size: int64(len(objects[0].Bytes))})
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
	if err := os.Remove(c.place(object{id: small(1).ID, size: h.Size()})); err != nil {
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
