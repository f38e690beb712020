package cache

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

// extractOf returns e's object of o.
func extractOf(o *chunktest.Object, e chunk.Extract) []byte {
	b := bytes.Clone(o.Bytes[:o.Header.Len()])
	for i := range o.Header.Frames {
		if e.Has(i) {
			b = append(b, o.Bytes[o.Header.FrameOffset(i):o.Header.FrameOffset(i+1)]...)
		}
	}
	return b
}

// putExtract deposits e's object of o.
func putExtract(t *testing.T, c *Cache, o *chunktest.Object, e chunk.Extract) {
	t.Helper()
	b := extractOf(o, e)
	d, err := c.BeginExtract(o.ID, e, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Write(b); err != nil {
		t.Fatal(err)
	}
	h, err := d.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
}

// wantExtract checks that c has e's object of o, 0 being all, and nothing else.
func wantExtract(t *testing.T, c *Cache, o *chunktest.Object, e chunk.Extract) {
	t.Helper()
	h, err := c.Acquire(o.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	want := extractOf(o, e)
	got, err := h.AppendObject(nil)
	if err != nil || h.Extract() != e || h.Size() != int64(len(want)) || !bytes.Equal(got, want) {
		t.Errorf("frames %x, %d bytes, %v; want %x, %d bytes", h.Extract(), len(got), err, e, len(want))
	}
	files, err := filepath.Glob(filepath.Join(c.dir, chunksDir, "*", o.ID.String()+"*"))
	if err != nil || len(files) != 1 {
		t.Errorf("files %v, %v; want one", files, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cost := Cost(int64(len(want))); c.used != cost || c.policy.Bytes() != cost || c.kept != cost || c.reserved != 0 {
		t.Errorf("used %d, of the policy %d, kept %d, reserved %d; want %d, and nothing reserved", c.used, c.policy.Bytes(), c.kept, c.reserved, cost)
	}
}

// TestExtract: frames of a chunk are kept, over restarts, until more of it comes, and whoever
// reads the fewer goes on.
func TestExtract(t *testing.T) {
	dir := t.TempDir()
	config := Config{Dir: dir, MaxBytes: 4 << 20}
	c := open(t, config)
	o := chunktest.Random(1, 8*chunk.FrameSize-100, chunk.FrameSize)
	putExtract(t, c, &o, 0x90)
	wantExtract(t, c, &o, 0x90)
	if err := c.Pin(t.Context(), o.ID); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("pinned what is not held whole: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, config)
	wantExtract(t, c, &o, 0x90)
	for _, fewer := range []chunk.Extract{0x90, 0x80, 0x03} {
		if _, err := c.BeginExtract(o.ID, fewer, 1000); !errors.Is(err, ErrExists) {
			t.Errorf("deposit of frames %x, where there are %x: %v", fewer, 0x90, err)
		}
	}
	old, err := c.Acquire(o.ID)
	if err != nil {
		t.Fatal(err)
	}
	putExtract(t, c, &o, 0x93)
	wantExtract(t, c, &o, 0x93)
	if b, err := old.AppendObject(nil); err != nil || !bytes.Equal(b, extractOf(&o, 0x90)) {
		t.Errorf("who had fewer frames reads %d bytes, %v", len(b), err)
	}
	old.Release()
	put(t, c, &o)
	wantExtract(t, c, &o, 0)
	if _, err := c.BeginExtract(o.ID, 0x93, 1000); !errors.Is(err, ErrExists) {
		t.Errorf("deposit of frames of a chunk that is there: %v", err)
	}
	if dropped, err := c.Damaged(t.Context(), o.ID); dropped || err != nil {
		t.Errorf("good frames: dropped %v, %v", dropped, err)
	}
}

// TestExtractDoor: what is not the extract that it is said to be is refused, as it comes and
// on disk.
func TestExtractDoor(t *testing.T) {
	o := chunktest.Random(1, 3*chunk.FrameSize, chunk.FrameSize)
	good := extractOf(&o, 0b101)
	c := open(t, Config{Dir: t.TempDir(), MaxBytes: 4 << 20})
	for _, tt := range []struct {
		name    string
		extract chunk.Extract
		b       []byte
	}{
		{"another frame", 0b110, good},
		{"fewer frames", 0b100, good},
		{"more frames", 0b1101, good},
		{"all frames", 0b111, o.Bytes},
		{"a flipped bit", 0b101, flip(good, len(good)-1)},
		{"the whole", 0, good},
	} {
		d, err := c.BeginExtract(o.ID, tt.extract, int64(len(tt.b)))
		if err != nil {
			t.Fatal(err)
		}
		var corrupt *chunk.CorruptError
		if _, err = d.Write(tt.b); err == nil {
			_, err = d.Commit(t.Context())
		}
		if !errors.As(err, &corrupt) {
			t.Errorf("%s: %v; want a CorruptError", tt.name, err)
		}
		d.Abort()
	}
	putExtract(t, c, &o, 0b101)
	path := c.place(object{o.ID, int64(len(good)), 0b101})
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func() error {
		return exec.Command("sh", filepath.Join("..", "..", "doc", "format", "check-cache.sh"), c.dir).Run()
	}
	many := chunktest.Random(2, 64*chunk.MinFrameSize, chunk.MinFrameSize)
	putExtract(t, c, &many, 1<<63|1<<4)
	if err := check(); err != nil {
		t.Errorf("check-cache.sh of a good directory: %v", err)
	}
	if err := os.WriteFile(path, flip(file, len(good)-1), 0o600); err != nil {
		t.Fatal(err)
	}
	if check() == nil {
		t.Error("check-cache.sh of a changed frame passes")
	}
	if dropped, err := c.Damaged(t.Context(), o.ID); !dropped || err != nil {
		t.Errorf("a changed frame: dropped %v, %v", dropped, err)
	}
}

// TestExtractSuperseded: an extract whose file goes, for more of the chunk, before it is opened is
// neither a chunk that is not held nor a damaged one.
func TestExtractSuperseded(t *testing.T) {
	var opens string // before that is opened, comes is called
	var comes func()
	c := open(t, Config{Dir: t.TempDir(), MaxBytes: 4 << 20, fault: func(o op, path string, n int) (int, error) {
		if o == opOpen && path == opens {
			opens = ""
			comes()
		}
		return n, nil
	}})
	for seed, look := range []func(o *chunktest.Object){
		func(o *chunktest.Object) {
			if h, err := c.Acquire(o.ID); err != nil {
				t.Error(err)
			} else {
				h.Release()
			}
		},
		func(o *chunktest.Object) {
			if dropped, err := c.Damaged(t.Context(), o.ID); dropped || err != nil {
				t.Errorf("dropped %v, %v", dropped, err)
			}
		},
	} {
		o := chunktest.Random(uint64(seed), 3*chunk.FrameSize, chunk.FrameSize)
		putExtract(t, c, &o, 0b1)
		opens, comes = c.place(object{o.ID, int64(len(extractOf(&o, 0b1))), 0b1}), func() { put(t, c, &o) }
		if look(&o); opens != "" {
			t.Error("it was not opened")
		}
	}
	if s := c.Stats(); s.Damaged != 0 {
		t.Errorf("%d damaged", s.Damaged)
	}
}

// TestExtractCrash: a crash between what has more and the end of what has fewer costs
// nothing but that.
func TestExtractCrash(t *testing.T) {
	dir := t.TempDir()
	config := Config{Dir: dir, MaxBytes: 4 << 20}
	c := open(t, config)
	o := chunktest.Random(1, 3*chunk.FrameSize, chunk.FrameSize)
	putExtract(t, c, &o, 0b1)
	fewer := c.place(object{o.ID, int64(len(extractOf(&o, 0b1))), 0b1})
	file, err := os.ReadFile(fewer)
	if err != nil {
		t.Fatal(err)
	}
	putExtract(t, c, &o, 0b11)
	if err := errors.Join(c.Close(), os.WriteFile(fewer, file, 0o600)); err != nil {
		t.Fatal(err)
	}
	c = open(t, config)
	wantExtract(t, c, &o, 0b11)
	if s := c.Stats(); s.Orphans != 1 || s.Damaged != 0 {
		t.Errorf("%d orphans, %d damaged; want one orphan", s.Orphans, s.Damaged)
	}
}

// TestVersion1: a directory of the version before is taken over.
func TestVersion1(t *testing.T) {
	dir := t.TempDir()
	config := Config{Dir: dir, MaxBytes: 1 << 20}
	c := open(t, config)
	put(t, c, small(1))
	if err := errors.Join(c.Close(), os.WriteFile(filepath.Join(dir, versionFile), []byte(lastVersion), 0o600)); err != nil {
		t.Fatal(err)
	}
	c = open(t, config)
	if h, err := c.Acquire(small(1).ID); err != nil {
		t.Error(err)
	} else {
		h.Release()
	}
	if text, err := os.ReadFile(filepath.Join(dir, versionFile)); err != nil || string(text) != version {
		t.Errorf("its version is %q, %v", text, err)
	}
}
