// Package origintest has the suites that every origin.Origin, and every
// origin.Store by itself, passes.
package origintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

// TestStore tests a store. open returns an empty one.
func TestStore(t *testing.T, open func(t *testing.T) origin.Store) {
	t.Run("Chunks", func(t *testing.T) {
		chunktest.TestStore(t, func(t *testing.T) chunktest.Store { return open(t) })
	})
	t.Run("Request", func(t *testing.T) { testRequest(t, open(t)) })
	t.Run("Objects", func(t *testing.T) { testObjects(t, open(t)) })
	t.Run("ObjectLimit", func(t *testing.T) { testObjectLimit(t, open(t)) })
	t.Run("ObjectList", func(t *testing.T) { testObjectList(t, open(t)) })
	t.Run("Attachments", func(t *testing.T) { testAttachments(t, open(t)) })
	t.Run("AttachmentLimits", func(t *testing.T) { testAttachmentLimits(t, open(t)) })
	testAllPointers(t, func(t *testing.T) origin.Pointers { return open(t) })
	t.Run("Cancelled", func(t *testing.T) { testCancelled(t, open(t)) })
}

func testAllPointers(t *testing.T, open func(t *testing.T) origin.Pointers) {
	t.Run("Pointers", func(t *testing.T) { testPointers(t, open(t)) })
	t.Run("PointerConflict", func(t *testing.T) { testPointerConflict(t, open(t)) })
	t.Run("PointerNames", func(t *testing.T) { testPointerNames(t, open(t)) })
	t.Run("PointerLimits", func(t *testing.T) { testPointerLimits(t, open(t)) })
	t.Run("PointerList", func(t *testing.T) { testPointerList(t, open(t)) })
	t.Run("PointerRace", func(t *testing.T) { TestPointerRace(t, open(t)) })
}

func testObjects(t *testing.T, s origin.Store) {
	ctx := context.Background()
	for _, size := range []int{0, 1, 4096, 100_000} {
		data := bytes.Repeat([]byte{7}, size)
		want := origin.Sum(data)
		for range 2 { // putting again changes nothing
			if d, err := s.PutObject(ctx, data); err != nil || d != want {
				t.Fatalf("PutObject of %d bytes = %v, %v; want %v", size, d, err, want)
			}
		}
		clear(data) // the store must not have kept it
		got, err := s.GetObject(ctx, want, int64(size))
		if err != nil || origin.Sum(got) != want {
			t.Fatalf("GetObject of %d bytes: %d bytes, %v", size, len(got), err)
		}
		clear(got) // it is the caller's
		if got, err = s.GetObject(ctx, want, origin.MaxObjectBytes); err != nil || origin.Sum(got) != want {
			t.Errorf("GetObject again: %d bytes, %v", len(got), err)
		}
	}
	if _, err := s.GetObject(ctx, origin.Sum([]byte("absent")), 100); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("GetObject of an absent one: %v; want ErrNotFound", err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.PutObject(ctx, []byte("all at once")); err != nil {
				t.Errorf("PutObject: %v", err)
			}
		})
	}
	wg.Wait()
}

func testObjectLimit(t *testing.T, s origin.Store) {
	d, err := s.PutObject(context.Background(), make([]byte, 1000))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.GetObject(context.Background(), d, 999)
	if err == nil || errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), d.String()) {
		t.Errorf("GetObject of 1000 bytes with max 999: %v; want an error with its name", err)
	}
}

func mustSwap(t *testing.T, s origin.Pointers, name string, old, new []byte) {
	t.Helper()
	if err := s.SwapPointer(context.Background(), name, old, new); err != nil {
		t.Fatalf("SwapPointer %q from %q to %q: %v", name, old, new, err)
	}
}

func wantPointer(t *testing.T, s origin.Pointers, name string, want []byte) {
	t.Helper()
	got, err := s.GetPointer(context.Background(), name)
	if want == nil {
		if !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("GetPointer %q = %q, %v; want ErrNotFound", name, got, err)
		}
	} else if err != nil || !bytes.Equal(got, want) {
		t.Errorf("GetPointer %q = %q, %v; want %q", name, got, err, want)
	}
}

func testPointers(t *testing.T, s origin.Pointers) {
	a, b := []byte("a"), []byte("b")
	wantPointer(t, s, "x/y", nil)
	mustSwap(t, s, "x/y", nil, a)
	a[0] = 'z' // the store must not have kept it
	wantPointer(t, s, "x/y", []byte("a"))
	mustSwap(t, s, "x/y", []byte("a"), b)
	wantPointer(t, s, "x/y", b)
	mustSwap(t, s, "x/y", b, []byte{}) // an empty value is a value
	wantPointer(t, s, "x/y", []byte{})
	mustSwap(t, s, "x/y", []byte{}, b)
	mustSwap(t, s, "x/y", b, nil)
	wantPointer(t, s, "x/y", nil)
	mustSwap(t, s, "x/y", nil, nil) // absent, and stays so
	mustSwap(t, s, "x/y", nil, b)
	wantPointer(t, s, "x/y", b)
}

func testPointerConflict(t *testing.T, s origin.Pointers) {
	mustSwap(t, s, "p", nil, []byte("now"))
	for _, c := range []struct {
		name     string
		old, new []byte
	}{
		{"p", nil, []byte("new")},
		{"p", []byte("before"), []byte("new")},
		{"p", []byte{}, []byte("new")},
		{"p", []byte("before"), nil},
		{"p", nil, nil},
		{"absent", []byte("before"), []byte("new")},
		{"absent", []byte{}, []byte("new")},
		{"absent", []byte("before"), nil},
	} {
		if err := s.SwapPointer(context.Background(), c.name, c.old, c.new); !errors.Is(err, origin.ErrConflict) {
			t.Errorf("%s from %q to %q: %v; want ErrConflict", c.name, c.old, c.new, err)
		}
	}
	wantPointer(t, s, "p", []byte("now"))
	wantPointer(t, s, "absent", nil)
}

// names are pointer names that a store may mix up, in byte order.
var names = []string{
	"A", "A/b", "B=", "a", "a!", "a%41", "a/B", "a/b", "a/b/c", "a=", "aA", "a~",
	"docker.io/library/python:3.12", "docker.io/library/python@sha256:00", "z",
	"z/" + strings.Repeat("Long", 100), "z/" + strings.Repeat("Long", 100) + "/more", "z/" + strings.Repeat("x", 500),
}

func testPointerNames(t *testing.T, s origin.Pointers) {
	for i, name := range names {
		mustSwap(t, s, name, nil, fmt.Append(nil, i))
	}
	for i, name := range names {
		wantPointer(t, s, name, fmt.Append(nil, i))
	}
	wantPointer(t, s, "b", nil)
	mustSwap(t, s, "a/b", []byte("7"), nil) // leaves those around it
	wantPointer(t, s, "a/b", nil)
	wantPointer(t, s, "a/b/c", []byte("8"))
	wantPointer(t, s, "a", []byte("3"))
	for _, bad := range []string{"", "/a", "a/", "a//b", ".", "a/../b", "a b", "a\\b", "ä", strings.Repeat("x", origin.MaxPointerName+1)} {
		if err := s.SwapPointer(context.Background(), bad, nil, []byte("x")); err == nil {
			t.Errorf("SwapPointer %q: no error", bad)
		}
		if _, err := s.GetPointer(context.Background(), bad); err == nil || errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("GetPointer %q: %v; want an error about the name", bad, err)
		}
	}
}

func testPointerLimits(t *testing.T, s origin.Pointers) {
	most := bytes.Repeat([]byte{1}, origin.MaxPointerBytes)
	mustSwap(t, s, "most", nil, most)
	wantPointer(t, s, "most", most)
	if err := s.SwapPointer(context.Background(), "over", nil, append(most, 1)); err == nil {
		t.Error("a value over the limit is taken")
	}
	wantPointer(t, s, "over", nil)
	long := strings.Repeat("x", origin.MaxPointerName)
	mustSwap(t, s, long, nil, most)
	wantPointer(t, s, long, most)
}

func list(t *testing.T, s origin.Pointers, prefix string) []string {
	t.Helper()
	var got []string
	err := s.ListPointers(context.Background(), prefix, func(name string) error {
		got = append(got, name)
		return nil
	})
	if err != nil {
		t.Fatalf("ListPointers %q: %v", prefix, err)
	}
	return got
}

func testPointerList(t *testing.T, s origin.Pointers) {
	if got := list(t, s, ""); len(got) != 0 {
		t.Errorf("an empty store lists %q", got)
	}
	for _, name := range names {
		mustSwap(t, s, name, nil, []byte("v"))
	}
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "A", "docker.io/lib", "docker.io/library/", "z/Lo", "none", "none/", "/", "a//", "../", "."} {
		var want []string
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		if got := list(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("ListPointers %q = %q, want %q", prefix, got, want)
		}
	}
	mustSwap(t, s, names[0], []byte("v"), nil)
	if got := list(t, s, ""); !slices.Equal(got, names[1:]) {
		t.Errorf("after removing one: %q", got)
	}
	stop := errors.New("stop")
	calls := 0
	err := s.ListPointers(context.Background(), "", func(string) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("ListPointers = %v after %d calls; want fn's error after 1", err, calls)
	}
}

// TestPointerRace lets writers count in one pointer through all of stores,
// which are views of one origin, and checks that no step is lost.
func TestPointerRace(t *testing.T, stores ...origin.Pointers) {
	const writers, steps = 8, 20
	ctx := context.Background()
	var wg sync.WaitGroup
	for w := range writers {
		s := stores[w%len(stores)]
		wg.Go(func() {
			for range steps {
				if err := increment(ctx, s, "race/counter"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	wantPointer(t, stores[0], "race/counter", fmt.Append(nil, writers*steps))
}

// increment adds one to the number in a pointer, however often it must try.
func increment(ctx context.Context, s origin.Pointers, name string) error {
	for {
		n := 0
		old, err := s.GetPointer(ctx, name)
		if err == nil {
			_, err = fmt.Sscan(string(old), &n)
		}
		if err != nil && !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
		err = s.SwapPointer(ctx, name, old, fmt.Append(nil, n+1))
		if !errors.Is(err, origin.ErrConflict) {
			return err
		}
	}
}

func testCancelled(t *testing.T, s origin.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for what, err := range map[string]error{
		"SwapPointer":  s.SwapPointer(ctx, "p", nil, []byte("v")),
		"ListPointers": s.ListPointers(ctx, "", func(string) error { return nil }),
		"List":         s.List(ctx, func(chunk.ID, int64) error { return nil }),
		"ListObjects":  s.ListObjects(ctx, func(origin.Digest, int64) error { return nil }),
		"Attach":       s.Attach(ctx, origin.Digest{}, "note", []byte("v")),
	} {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: %v", what, err)
		}
	}
}
