package dir

import (
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin/place"
)

// syncs counts the calls that make entries of dir durable while do runs.
func syncs(t *testing.T, s *Store, dir string, do func() error) int {
	t.Helper()
	var n atomic.Int32
	s.sync = func(d string) error {
		if d == dir {
			n.Add(1)
		}
		return syncDir(d)
	}
	if err := do(); err != nil {
		t.Fatal(err)
	}
	s.sync = syncDir
	return int(n.Load())
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
			return errors.Join(err, s.Flush(ctx))
		}
	}
	copied := func() error {
		_, err := o.CopyChunk(ctx, c.ID, 1, 2)
		return errors.Join(err, second.Flush(ctx))
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
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	path, dir := s.place(place.Chunks, c.ID)
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	settle := func() error {
		s.chunks.settle(c.ID, info)
		return s.Flush(ctx)
	}
	if n := syncs(t, s, dir, settle); n != 1 {
		t.Errorf("new: %d syncs", n)
	}
	age(info, 2*fresh)
	if n := syncs(t, s, dir, settle); n != 0 {
		t.Errorf("old: %d syncs", n)
	}
}

// TestFlush: entries are made durable by Flush, once for all of a folder, and by Put
// itself before other processes take them for durable.
func TestFlush(t *testing.T) {
	s := open(t, t.TempDir())
	c := chunktest.Random(1, 1000, chunk.FrameSize)
	_, dir := s.place(place.Chunks, c.ID)
	flush := func() error { return s.Flush(ctx) }
	put := func() error {
		_, err := s.Put(ctx, c.ID, c.Bytes)
		return err
	}
	want := func(what string, want int, do func() error) {
		t.Helper()
		if n := syncs(t, s, dir, do); n != want {
			t.Errorf("%s: %d syncs, want %d", what, n, want)
		}
	}
	want("put", 0, put)
	s.sync = func(string) error { return errDisk }
	if err := s.Flush(ctx); !errors.Is(err, errDisk) {
		t.Errorf("a flush that fails: %v", err)
	}
	want("flush after one that failed", 1, flush)
	want("flush again", 0, flush)
	want("put of what is there and new", 0, put)
	s.chunks.since[c.ID[0]].Store(time.Now().Add(-fresh).UnixNano())
	want("put beside an entry that waited long", 1, put)
}
