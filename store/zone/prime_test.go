package zone_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/memory"
	"github.com/rivuletfs/rivulet/store/zone"
)

func TestPrime(t *testing.T) {
	ctx := context.Background()
	store := &chunktest.Counting{Source: filled(t)}
	objects := chunktest.Objects(1)
	var ids []chunk.ID
	for _, o := range objects {
		ids = append(ids, o.ID)
	}
	list, urls := servers(t, 5)
	z := open(t, zone.Config{Nodes: urls})
	put(t, z, objects[0])
	told := 0
	got, err := z.Prime(ctx, ids, chunk.NewDoor(store), func(done, total int) {
		if told++; done != told || total != len(ids) {
			t.Errorf("told %d of %d", done, total)
		}
	})
	if want := (zone.Primed{Put: len(ids) - 1, There: 1}); err != nil || got != want || told != len(ids) {
		t.Errorf("%+v, %v; want %+v; told %d times", got, err, want, told)
	}
	for i := range objects {
		if err := read(z, &objects[i]); err != nil {
			t.Error(err)
		}
	}
	asked := store.Requests.Load()
	if got, err := z.Prime(ctx, ids, chunk.NewDoor(store), nil); err != nil || got.There != len(ids) || store.Requests.Load() != asked {
		t.Errorf("again: %+v, %v, and %d requests", got, err, store.Requests.Load()-asked)
	}
	if _, err := z.Prime(ctx, []chunk.ID{chunktest.Absent}, chunk.NewDoor(store), nil); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a chunk that nobody has: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := z.Prime(cancelled, ids, chunk.NewDoor(store), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
	for _, s := range list {
		s.Close()
	}
	z = open(t, zone.Config{Nodes: urls, Timeout: 100 * time.Millisecond})
	if got, err := z.Prime(ctx, ids, chunk.NewDoor(store), nil); err == nil || got.Lost != len(ids) {
		t.Errorf("nobody there: %+v, %v", got, err)
	}
}

// filled returns a store with Objects(1).
func filled(t *testing.T) chunk.Source {
	s := memory.New().Generation(1)
	chunktest.Fill(t, s)
	return s
}
