package catalog

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

// putMap stores a block map without chunks whose digests follow from word.
func putMap(t *testing.T, s Store, word string) origin.Digest {
	t.Helper()
	b, err := blockmap.Encode(&blockmap.Info{
		Layout: 1, Size: 1 << 20, ChunkLog2: 19, FrameLog2: 16,
		Disk: origin.Sum([]byte("disk " + word)), Source: origin.Sum([]byte("source " + word)),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.PutObject(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestNames(t *testing.T) {
	ctx, s := context.Background(), memory.New().Generation(1)
	a, b := putMap(t, s, "a"), putMap(t, s, "b")
	for _, step := range []struct {
		name    string
		d       origin.Digest
		changed bool
	}{{"x/y:1", a, true}, {"x/y:1", a, false}, {"x/y:1", b, true}, {"A", a, true}} {
		if changed, err := SetName(ctx, s, step.name, step.d); err != nil || changed != step.changed {
			t.Errorf("set %s: %v, %v", step.name, changed, err)
		}
	}
	var got []string
	err := Names(ctx, s, func(name string, d origin.Digest) error {
		got = append(got, name)
		return nil
	})
	if err != nil || strings.Join(got, " ") != "A x/y:1" {
		t.Errorf("names %q, %v", got, err)
	}
	if err := Remove(ctx, s, "A"); err != nil {
		t.Error(err)
	}
	for _, gone := range []error{Remove(ctx, s, "A"), second(Open(ctx, s, "A"))} {
		if !errors.Is(gone, chunk.ErrNotFound) || !strings.Contains(gone.Error(), `"A"`) {
			t.Errorf("a name that is gone: %v", gone)
		}
	}
	for _, bad := range []string{"", "/a", "a/", "a//b", "..", "a/../b", "a b", "ü", "sha256:abc", strings.Repeat("n", 600)} {
		if _, err := SetName(ctx, s, bad, a); err == nil {
			t.Errorf("name %q was accepted", bad)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestOpenByDigest(t *testing.T) {
	ctx, s := context.Background(), memory.New().Generation(1)
	a, b := putMap(t, s, "a"), putMap(t, s, "b")
	disk, source := origin.Sum([]byte("disk a")), origin.Sum([]byte("source a"))
	for _, d := range []origin.Digest{disk, source} {
		if _, err := Set(ctx, s, DigestKey(d), a); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []origin.Digest{a, disk, source} {
		for _, ref := range []string{d.String(), strings.TrimPrefix(d.String(), "sha256:")} {
			m, err := Open(ctx, s, ref)
			if err != nil || m.Digest() != a {
				t.Errorf("open %s: %v", ref, err)
			}
		}
	}
	// A store that leads a digest elsewhere is found out.
	for _, d := range []origin.Digest{disk, a} {
		if _, err := Set(ctx, s, DigestKey(d), b); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(ctx, s, d.String()); err == nil || !strings.Contains(err.Error(), "another digest") {
			t.Errorf("a digest that leads to another disk: %v", err)
		}
	}
	if _, err := Open(ctx, s, origin.Sum(nil).String()); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("an unknown digest: %v", err)
	}
}

func TestPointerWithoutDigest(t *testing.T) {
	ctx, s := context.Background(), memory.New().Generation(1)
	for _, value := range []string{"", "sha256:12\n", strings.Repeat("x", 100)} {
		name := "names/bad" + string(rune('a'+len(value)%26))
		if err := s.SwapPointer(ctx, name, nil, []byte(value)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(ctx, s, strings.TrimPrefix(name, "names/")); err == nil {
			t.Errorf("value %q was accepted", value)
		}
	}
}

// Several that set one pointer at once all succeed, and one of them wins.
func TestSetRace(t *testing.T) {
	ctx, s := context.Background(), memory.New().Generation(1)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if _, err := Set(ctx, s, "names/x", origin.Sum([]byte{byte(i)})); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := Get(ctx, s, "names/x"); err != nil {
		t.Error(err)
	}
}
