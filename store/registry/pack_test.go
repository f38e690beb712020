package registry

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

// small returns n chunks of about a kilobyte.
func small(seed uint64, n int) []chunktest.Object {
	list := make([]chunktest.Object, n)
	for i := range list {
		list[i] = chunktest.Random(seed<<32+uint64(i), 1000+i%100, chunk.FrameSize)
	}
	return list
}

func putAll(t testing.TB, s origin.Store, list []chunktest.Object) (added int) {
	t.Helper()
	for _, c := range list {
		is, err := s.Put(context.Background(), c.ID, c.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if is {
			added++
		}
	}
	return added
}

func flush(t testing.TB, s origin.Store) {
	t.Helper()
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestFewRequests counts what many chunks cost.
func TestFewRequests(t *testing.T) {
	ctx := context.Background()
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	list := small(1, 2000)
	f.Reset()
	putAll(t, o.Generation(1), list)
	flush(t, o.Generation(1))
	if n := f.Requests.Load(); n > 12 {
		t.Errorf("2000 chunks took %d requests: %v", n, f)
	}
	if n := f.Count(http.MethodPut, "/blobs/"); n != 3 { // pack, index, and the empty configuration
		t.Errorf("%d blobs were written, want 3: %v", n, f)
	}

	o = reopen(t, o)
	f.Reset()
	for _, c := range list {
		if size, err := o.Generation(1).Stat(ctx, c.ID); err != nil || size != int64(len(c.Bytes)) {
			t.Fatalf("Stat = %d, %v", size, err)
		}
	}
	n := 0
	if err := o.Generation(1).List(ctx, func(chunk.ID, int64) error { n++; return nil }); err != nil || n != len(list) {
		t.Errorf("List told of %d, %v", n, err)
	}
	if added := putAll(t, o.Generation(1), list); added != 0 {
		t.Errorf("%d chunks were added again", added)
	}
	flush(t, o.Generation(1))
	if n := f.Requests.Load(); n > 8 { // lists are asked for twice
		t.Errorf("asking for 2000 chunks took %d requests: %v", n, f)
	}
	f.Reset()
	checkDoor(t, o, list[:50], false)
	if n := f.Requests.Load(); n != 50 {
		t.Errorf("reading 50 chunks took %d requests", n)
	}
}

// TestPacksAreBounded puts from many goroutines, and counts packs.
func TestPacksAreBounded(t *testing.T) {
	f, host := faulty(t, true)
	dir := t.TempDir()
	o := hasty(t, host, Options{PackBytes: 100_000, TempDir: dir})
	s := o.Generation(1)
	list := small(2, 1000)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range list { // all put all, in other orders
				c := list[(i+g*125)%len(list)]
				if _, err := s.Put(context.Background(), c.ID, c.Bytes); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	flush(t, s)
	checkDoor(t, reopen(t, o), list, false)
	if n := f.Count(http.MethodPut, "/manifests/"); n < 8 || n > 13 {
		t.Errorf("%d packs for 1.1 MB, want about 11", n)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

// TestFailedUploadIsTriedAgain lets the registry fail while packs are uploaded.
func TestFailedUploadIsTriedAgain(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{PackBytes: 50_000})
	o.client.again.Longest = o.client.again.First // hundreds of retries fail, one after the other
	s := o.generation(1)
	list := small(3, 200)
	putAll(t, s, list[:10])
	f.Fail.Store(1 << 30)
	failed := 0
	for _, c := range list[10:] {
		if _, err := s.Put(context.Background(), c.ID, c.Bytes); err != nil {
			failed++
		}
	}
	if failed == 0 || s.Flush(context.Background()) == nil {
		t.Errorf("%d puts failed, and no flush", failed)
	}
	if n := len(s.waiting); n > maxWaiting {
		t.Errorf("%d packs wait, at most %d may", n, maxWaiting)
	}
	f.Fail.Store(0)
	putAll(t, s, list)
	flush(t, s)
	checkDoor(t, reopen(t, o), list, false)
	if len(s.waiting) != 0 || len(s.pending) != 0 || s.filling != nil {
		t.Errorf("after Flush: %d packs, %d chunks wait", len(s.waiting), len(s.pending))
	}
}

func TestFlushEndsWithItsContext(t *testing.T) {
	_, host := faulty(t, true)
	o := hasty(t, host, Options{})
	s := o.generation(1)
	list := small(4, 3)
	putAll(t, s, list)
	s.mu.Lock()
	s.seal()
	s.mu.Unlock()
	s.waiting[0].turn <- struct{}{} // somebody uploads, and takes long
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Flush: %v", err)
	}
	<-s.waiting[0].turn
	flush(t, s)
	checkDoor(t, o, list, false)
}

// TestTwoProcesses lets one see what the other stored, and not store it again.
func TestTwoProcesses(t *testing.T) {
	ctx := context.Background()
	_, host := faulty(t, true)
	a := hasty(t, host, Options{})
	b := reopen(t, a)
	first, second := small(5, 10), small(6, 10)
	putAll(t, a.Generation(1), first)
	if _, err := b.Generation(1).Stat(ctx, first[0].ID); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Stat of what was not flushed: %v", err)
	}
	flush(t, a.Generation(1))
	checkDoor(t, b, first, false)
	if added := putAll(t, b.Generation(1), first); added != 0 {
		t.Errorf("%d chunks were added twice", added)
	}
	putAll(t, a.Generation(1), second)
	flush(t, a.Generation(1))
	checkDoor(t, b, second, false) // b has read the indexes before these were there

	if err := a.Generation(1).Remove(ctx, first[0].ID); err != nil {
		t.Fatal(err)
	}
	c := chunktest.Random(1, 999, chunk.FrameSize)
	if _, err := b.Generation(1).Stat(ctx, c.ID); !errors.Is(err, chunk.ErrNotFound) { // makes b look again
		t.Errorf("Stat of an absent chunk: %v", err)
	}
	if _, err := b.Generation(1).Stat(ctx, first[0].ID); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("Stat of a removed chunk: %v", err)
	}
	checkDoor(t, b, append(first[1:], second...), false)
}

// TestLostPackIsStoredAgain deletes a pack behind our back.
func TestLostPackIsStoredAgain(t *testing.T) {
	ctx := context.Background()
	_, host := faulty(t, true)
	o := hasty(t, host, Options{})
	list := small(7, 10)
	putAll(t, o.Generation(1), list)
	flush(t, o.Generation(1))
	var lost origin.Digest
	for d := range o.generation(1).blobs {
		lost = d
	}
	req, err := http.NewRequest(http.MethodDelete, o.client.url("blobs/%v", lost), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatalf("delete: %v, %v", resp, err)
	}
	o = reopen(t, o)
	for i, read := range []func() error{
		func() error { _, err := o.Generation(1).Stat(ctx, list[0].ID); return err },
		func() error {
			_, err := reopen(t, o).Generation(1).Fetch(ctx, list[0].ID, make([]byte, 10), 0)
			return err
		},
	} {
		if err := read(); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("%d: a chunk of a lost pack: %v; want ErrNotFound", i, err)
		}
	}
	list = append(small(8, 1), list...) // one more, or it would be the same pack
	if added := putAll(t, o.Generation(1), list); added != len(list) {
		t.Errorf("%d of %d chunks were added again", added, len(list))
	}
	flush(t, o.Generation(1))
	for range 10 { // whichever index is read first
		checkDoor(t, reopen(t, o), list, false)
	}
}

// TestPointersOfTwoProcesses counts in a pointer of the origin from two
// processes, of which neither sees the other's lock.
func TestPointersOfTwoProcesses(t *testing.T) {
	_, host := faulty(t, true)
	const settle = 100 * time.Millisecond // far more than a request takes here
	a := hasty(t, host, Options{Settle: settle})
	b := reopen(t, a)
	b.client.locks = newLocks()
	const each = 3
	var wg sync.WaitGroup
	for _, o := range []*Origin{a, b} {
		wg.Go(func() {
			for range each {
				if err := increment(o, "generations"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if v, err := a.GetPointer(context.Background(), "generations"); err != nil || len(v) != 2*each {
		t.Errorf("counted to %d, %v; want %d", len(v), err, 2*each)
	}
}

// increment makes the value of a pointer longer by one byte.
func increment(o *Origin, name string) error {
	for {
		old, err := o.GetPointer(context.Background(), name)
		if err != nil && !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
		err = o.SwapPointer(context.Background(), name, old, append(old[:len(old):len(old)], 'x'))
		if !errors.Is(err, origin.ErrConflict) {
			return err
		}
	}
}

// TestForeignTags keeps an origin among an image's tags, in many pages.
func TestForeignTags(t *testing.T) {
	f, host := faulty(t, true)
	o := hasty(t, host, Options{})
	ctx := context.Background()
	if err := o.client.ensureEmpty(ctx); err != nil {
		t.Fatal(err)
	}
	b, desc := encodeManifest(newManifest("application/vnd.example"))
	const tags = 2*tagsAtOnce + 1
	err := each(ctx, tags, func(ctx context.Context, i int) error {
		return o.client.writeManifest(ctx, strings.Repeat("v", i%7+1)+hashOf(origin.Sum([]byte{byte(i), byte(i >> 8)})).Hex, desc.MediaType, b)
	})
	if err != nil {
		t.Fatal(err)
	}
	list := small(8, 5)
	putAll(t, o.Generation(1), list)
	flush(t, o.Generation(1))
	if err := o.SwapPointer(ctx, "zz", nil, []byte("v")); err != nil {
		t.Fatal(err)
	}
	f.Reset()
	checkDoor(t, reopen(t, o), list, false)
	if n := f.Count(http.MethodGet, "/tags/list"); n < 6 || n > 8 {
		t.Errorf("%d pages of tags, want 3, twice", n)
	}
	var names []string
	if err := o.ListPointers(ctx, "", func(name string) error { names = append(names, name); return nil }); err != nil || len(names) != 1 {
		t.Errorf("pointers %q, %v", names, err)
	}
	if err := o.DeleteGeneration(ctx, 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := o.client.tags(ctx, "v", func(string) { n++ }); err != nil || n != tags {
		t.Errorf("%d foreign tags are left of %d, %v", n, tags, err)
	}
}
