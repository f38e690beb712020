package cache

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// crashDir tells the test binary to be a writer to the cache in that directory
// until it is killed.
const crashDir = "RIVULET_CACHE_CRASH_DIR"

// crashChunks is how many different chunks the writers deposit.
const crashChunks = 200

func crashObject(n uint64) *chunktest.Object {
	o := chunktest.Random(n, 1+int(n*1777%100_000), chunk.FrameSize)
	return &o
}

// crashWriter deposits, acquires, pins, evicts and scrubs in a cache that is too
// small. It prints what is committed, and what is wrong.
func crashWriter(dir string) {
	c, err := Open(ctx, Config{Dir: dir, MaxBytes: 4 << 20, ScrubRate: 10 << 20})
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				if err := crashStep(c, crashObject(rand.Uint64N(crashChunks))); err != nil {
					fmt.Println(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

var indexing sync.Mutex

func crashStep(c *Cache, o *chunktest.Object) error {
	h, err := c.Acquire(o.ID)
	if errors.Is(err, chunk.ErrNotFound) {
		if h, err = deposit(c, o, 10_000); errors.Is(err, ErrExists) || errors.Is(err, ErrFull) {
			return nil
		}
		if err == nil {
			fmt.Println("chunk", o.ID)
		}
	}
	if err != nil {
		return err
	}
	defer h.Release()
	switch rand.IntN(30) {
	case 0:
		if err := c.Pin(ctx, o.ID); err != nil && !errors.Is(err, ErrFull) {
			return err
		}
	case 1:
		return c.Unpin(ctx, o.ID)
	case 2: // housekeeping is too slow for this test
		indexing.Lock()
		defer indexing.Unlock()
		return c.saveIndex()
	}
	return nil
}

// TestKill kills a process with a cache at random moments. What is there
// afterwards is whole: no chunk is found damaged.
func TestKill(t *testing.T) {
	kills := 20
	if testing.Short() {
		kills = 3
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 1))
	committed, orphans := 0, int64(0)
	for range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		upTo := 1 + rng.IntN(60)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if !strings.HasPrefix(lines.Text(), "chunk ") {
				t.Fatalf("the writer failed: %s", lines.Text())
			}
			committed++
			if upTo--; upTo == 0 {
				time.Sleep(time.Duration(rng.Int64N(int64(5 * time.Millisecond))))
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait() // it was killed
		c := open(t, Config{Dir: dir, MaxBytes: 4 << 20})
		orphans += c.Stats().Orphans
		held := 0
		for n := range uint64(crashChunks) {
			if holds(t, c, crashObject(n)) {
				held++
			}
		}
		checkInvariants(t, c)
		if s := c.Stats(); s.Damaged != 0 || s.Chunks != held {
			t.Fatalf("after a kill %d chunks are held of %d, %d are damaged", held, s.Chunks, s.Damaged)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if committed == 0 || orphans == 0 {
		t.Errorf("%d chunks committed, %d deposits interrupted: no test", committed, orphans)
	}
}

// powerCut makes the directory of a cache what a power cut may leave of a file
// system that syncs nothing: each file may have lost its end, any of its pages,
// its name, or have its temporary name; one that was unlinked may be back.
func powerCut(t *testing.T, dir string, before map[string][]byte, rng *rand.Rand) {
	t.Helper()
	now := readTree(t, dir)
	for name, b := range before { // unlinked since: some come back
		if _, ok := now[name]; !ok && rng.IntN(2) == 0 {
			now[name] = b
		}
	}
	for name, b := range now {
		if name == pinsFile || name == versionFile { // they are synced
			continue
		}
		path := filepath.Join(dir, name)
		b = tear(b, rng)
		switch {
		case rng.IntN(8) == 0: // its name never came to the medium
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if strings.HasPrefix(name, chunksDir) {
				path = filepath.Join(dir, tempDir, strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)))
			}
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// tear returns what a power cut may leave of a file's content.
func tear(b []byte, rng *rand.Rand) []byte {
	b = append([]byte(nil), b...)
	if len(b) == 0 {
		return b
	}
	switch rng.IntN(4) {
	case 0: // the length was not written
		return b[:rng.IntN(len(b))]
	case 1: // pages were not
		for off := 0; off < len(b); off += PageSize {
			if rng.IntN(4) == 0 {
				clear(b[off:min(off+PageSize, len(b))])
			}
		}
	case 2: // sectors have what was there before
		for off := 0; off < len(b); off += 512 {
			if rng.IntN(16) == 0 {
				for i := range b[off:min(off+512, len(b))] {
					b[off+i] = byte(rng.Uint32())
				}
			}
		}
	}
	return b
}

// readTree returns all files below dir.
func readTree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	tree := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		tree[name], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestPowerCut cuts the power of a cache that was used, again and again: what is
// served is right, what is torn is found, and the cache goes on.
func TestPowerCut(t *testing.T) {
	cuts := 40
	if testing.Short() {
		cuts = 5
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(7, 7))
	damaged, served := int64(0), 0
	for range cuts {
		c := open(t, Config{Dir: dir, MaxBytes: 1 << 20})
		for n := range uint64(40) {
			if holds(t, c, crashObject(n)) {
				served++
			}
		}
		damaged += c.Stats().Damaged
		before := readTree(t, dir)
		for range 60 {
			o := crashObject(rng.Uint64N(40))
			if !holds(t, c, o) {
				put(t, c, o)
			}
			if !holds(t, c, o) {
				t.Fatal("a chunk that was just put is not held")
			}
			if rng.IntN(20) == 0 {
				if err := c.Pin(ctx, o.ID); err != nil && !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
			}
		}
		checkInvariants(t, c)
		if err := c.Close(); err != nil { // else its lock stays; what it wrote is torn all the same
			t.Fatal(err)
		}
		powerCut(t, dir, before, rng)
	}
	if damaged == 0 || served == 0 {
		t.Errorf("%d chunks damaged, %d served: no test", damaged, served)
	}
}
