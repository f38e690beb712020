package dir

import (
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin/place"
)

// syncs counts the calls that make entries of dir durable while do runs.
func syncs(t *testing.T, s *Store, dir string, do func() error) int {
	t.Helper()
	var dirs []string
	s.sync = func(dir string) error {
		dirs = append(dirs, dir)
		return syncDir(dir)
	}
	if err := do(); err != nil {
		t.Fatal(err)
	}
	s.sync = syncDir
	return len(slices.DeleteFunc(dirs, func(d string) bool { return d != dir }))
}

// TestNewEntriesAreSynced is about a file that another process has put in its
// place and not synced, or was killed before: who finds it there says that it is
// durable, and so must sync. How old its content claims to be does not matter.
func TestNewEntriesAreSynced(t *testing.T) {
	o := openOrigin(t, t.TempDir())
	first, second := o.generation(1), o.generation(2)
	c := chunktest.Random(1, 1000, chunk.FrameSize)
	put := func(s *Store) func() error {
		return func() error {
			_, err := s.Put(ctx, c.ID, c.Bytes)
			return err
		}
	}
	copied := func() error {
		_, err := o.CopyChunk(ctx, c.ID, 1, 2)
		return err
	}
	path, dir := first.place(place.Chunks, c.ID)
	if n := syncs(t, first, dir, put(first)); n != 1 {
		t.Errorf("put: %d syncs", n)
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	if n := syncs(t, first, dir, put(first)); n != 1 {
		t.Errorf("put again: %d syncs", n)
	}
	_, dir = second.place(place.Chunks, c.ID)
	for _, do := range []func() error{copied, copied, put(second)} {
		if n := syncs(t, second, dir, do); n != 1 {
			t.Errorf("a link to an old file: %d syncs", n)
		}
	}
}

// TestOldEntriesAreNotSynced: one sync for each chunk that is there already would
// cost as much as storing it.
func TestOldEntriesAreNotSynced(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells when a file got its name")
	}
	s := open(t, t.TempDir())
	c := chunktest.Random(1, 1000, chunk.FrameSize)
	if _, err := s.Put(ctx, c.ID, c.Bytes); err != nil {
		t.Fatal(err)
	}
	path, dir := s.place(place.Chunks, c.ID)
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	settle := func() error { return s.settle(info, dir) }
	if n := syncs(t, s, dir, settle); n != 1 {
		t.Errorf("new: %d syncs", n)
	}
	age(info, 2*fresh)
	if n := syncs(t, s, dir, settle); n != 0 {
		t.Errorf("old: %d syncs", n)
	}
}
