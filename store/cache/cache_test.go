package cache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

var ctx = context.Background()

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		crashWriter(dir) // until it is killed
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// open opens a cache that is closed when the test ends.
func open(t testing.TB, config Config) *Cache {
	t.Helper()
	if config.MaxBytes == 0 {
		config.MaxBytes = 1 << 30
	}
	c, err := Open(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// deposit puts o into c in pieces of step bytes.
func deposit(c *Cache, o *chunktest.Object, step int) (*Handle, error) {
	d, err := c.Begin(o.ID, int64(len(o.Bytes)))
	if err != nil {
		return nil, err
	}
	defer d.Abort()
	for b := o.Bytes; len(b) > 0; {
		n := min(step, len(b))
		if _, err := d.Write(b[:n]); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	return d.Commit(ctx)
}

// put deposits o and releases it.
func put(t testing.TB, c *Cache, o *chunktest.Object) {
	t.Helper()
	h, err := deposit(c, o, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
}

// holds reports whether c serves o, and fails the test if it serves anything
// else.
func holds(t testing.TB, c *Cache, o *chunktest.Object) bool {
	t.Helper()
	h, err := c.Acquire(o.ID)
	if errors.Is(err, chunk.ErrNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	checkHandle(t, h, o)
	return true
}

func checkHandle(t testing.TB, h *Handle, o *chunktest.Object) {
	t.Helper()
	b := make([]byte, h.Size())
	if _, err := h.File().ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, o.Bytes) {
		t.Fatalf("chunk %v: wrong bytes", o.ID)
	}
}

// small returns a chunk whose Cost is two blocks.
func small(seed uint64) *chunktest.Object {
	o := chunktest.Random(seed, 5000, chunk.MinFrameSize)
	return &o
}

func TestDepositAcquire(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "cache")
	c := open(t, Config{Dir: dir})
	objects := chunktest.Objects(1)
	for i := range objects {
		o := &objects[i]
		if holds(t, c, o) {
			t.Fatal("holds what nobody put")
		}
		h, err := deposit(c, o, 1000+i*37)
		if err != nil {
			t.Fatal(err)
		}
		checkHandle(t, h, o)
		h.Release()
		h.Release()
		if _, err := c.Begin(o.ID, int64(len(o.Bytes))); !errors.Is(err, ErrExists) {
			t.Errorf("Begin of what is there: %v; want ErrExists", err)
		}
	}
	var want int64
	for i := range objects {
		want += Cost(int64(len(objects[i].Bytes)))
	}
	for range 2 {
		for i := range objects {
			if !holds(t, c, &objects[i]) {
				t.Fatalf("chunk %d is not held", i)
			}
		}
		if s := c.Stats(); s.Chunks != len(objects) || s.Bytes != want || s.InUse != 0 || s.Kept != 0 || s.Reserved != 0 {
			t.Errorf("stats %+v, want %d bytes", s, want)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Acquire(objects[0].ID); !errors.Is(err, ErrClosed) {
			t.Errorf("Acquire after Close: %v", err)
		}
		c = open(t, Config{Dir: dir})
	}
}
