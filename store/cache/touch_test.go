package cache

import (
	"context"
	"testing"

	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// TestTouch counts uses without opening anything, and tells what is held and what
// was checked since the start.
func TestTouch(t *testing.T) {
	config := Config{Dir: t.TempDir(), MaxBytes: 1 << 20}
	o := chunktest.Random(1, 5000, 1<<16)
	for start := range 2 {
		c, err := Open(context.Background(), config)
		if err != nil {
			t.Fatal(err)
		}
		if start == 0 {
			if c.Touch(o.ID) || c.Unchecked(o.ID) || c.Holds(o.ID) {
				t.Error("a chunk that is not held is")
			}
			d, err := c.Begin(o.ID, int64(len(o.Bytes)))
			if err == nil {
				_, err = d.Write(o.Bytes)
			}
			if err != nil {
				t.Fatal(err)
			}
			h, err := d.Commit(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			h.Release()
		}
		if !c.Touch(o.ID) || !c.Holds(o.ID) || c.Unchecked(o.ID) != (start == 1) {
			t.Errorf("start %d: not held, or unchecked is %v", start, c.Unchecked(o.ID))
		}
		h, err := c.Acquire(o.ID)
		if err != nil {
			t.Fatal(err)
		}
		h.Release()
		if c.Unchecked(o.ID) {
			t.Error("it was acquired, and is not checked")
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
