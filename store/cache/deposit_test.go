package cache

import (
	"bytes"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

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

// TestFullAtTheEnd has the file system be full when a deposit gets its name: that
// is ErrFull, as it is before, and whoever brings chunks gives up.
func TestFullAtTheEnd(t *testing.T) {
	var full atomic.Bool
	c := open(t, Config{Dir: t.TempDir(), fault: func(o op, _ string, n int) (int, error) {
		if o == opRename && full.Load() {
			return 0, syscall.ENOSPC
		}
		return n, nil
	}})
	full.Store(true)
	o := small(1)
	d, err := c.Begin(o.ID, int64(len(o.Bytes)))
	if err == nil {
		_, err = d.Write(o.Bytes)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(ctx); !errors.Is(err, ErrFull) {
		t.Errorf("%v; want ErrFull", err)
	}
	if s := c.Stats(); s.NoSpace != 1 || s.Bytes != 0 || s.Chunks != 0 {
		t.Errorf("stats %+v", s)
	}
	full.Store(false)
	checkInvariants(t, c)
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
