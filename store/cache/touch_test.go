package cache

import "testing"

// TestTouch counts uses without opening anything, and tells what is held and what
// was checked since the start.
func TestTouch(t *testing.T) {
	config := Config{Dir: t.TempDir(), MaxBytes: 1 << 20}
	o := small(1)
	for start := range 2 {
		c := open(t, config)
		if start == 0 {
			if c.Touch(o.ID) || c.Unchecked(o.ID) || c.Holds(o.ID) {
				t.Error("a chunk that is not held is")
			}
			put(t, c, o)
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
