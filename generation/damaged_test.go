package generation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

// A rotten origin has damaged pointers of its own, and in its generations.
type rotten struct {
	origin.Origin
	names map[string]bool
}

type rottenStore struct {
	origin.Store
	names map[string]bool
}

func (r rotten) Generation(g origin.GenerationID) origin.Store {
	return rottenStore{r.Origin.Generation(g), r.names}
}

func (r rotten) GetPointer(ctx context.Context, name string) ([]byte, error) {
	return getRotten(ctx, r.Origin, r.names, name)
}

func (r rottenStore) GetPointer(ctx context.Context, name string) ([]byte, error) {
	return getRotten(ctx, r.Store, r.names, name)
}

func getRotten(ctx context.Context, p origin.Pointers, names map[string]bool, name string) ([]byte, error) {
	if names[name] {
		return nil, fmt.Errorf("get pointer %s: %w", name, origin.ErrCorrupt)
	}
	return p.GetPointer(ctx, name)
}

// TestDamagedPointers has a damaged pin, mark, alarm and name: the first three
// count all the same, and the other names are found.
func TestDamagedPointers(t *testing.T) {
	ctx := context.Background()
	img, other := blockmaptest.Small(1, 1), blockmaptest.Small(2, 1)
	o := rotten{memory.New(), map[string]bool{}}
	publish(t, o, 1, "x", img)
	publish(t, o, 1, "y", other)
	v, now := NewView(o, Options{}), time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	_, err := v.Pin(ctx, "x")
	check(t, err)
	check(t, Mark(ctx, o, img.Digest(), now.Add(-1000*time.Hour)))
	check(t, Raise(ctx, o, Alarm{Generation: 1, Image: img.Digest().String()}))
	check(t, o.ListPointers(ctx, "", func(name string) error { o.names[name] = true; return nil }))
	o.names[catalog.NameKey("x")] = true

	if pins, err := Pins(ctx, o); err != nil || len(pins) != 1 || pins[0].Image != img.Digest() {
		t.Errorf("pins: %v, %v", pins, err)
	}
	check(t, Mark(ctx, o, img.Digest(), now))
	marks := 0
	check(t, Marks(ctx, o, now, func(d origin.Digest, of time.Time) error {
		if marks++; d != img.Digest() || !of.Equal(now) {
			t.Errorf("a mark of %v, %v", d, of)
		}
		return nil
	}))
	if alarms, err := Alarms(ctx, o); err != nil || len(alarms) != 1 || marks != 1 {
		t.Errorf("%d marks, alarms: %v, %v", marks, alarms, err)
	}
	delete(o.names, Pointer)
	var names []string
	err = v.Names(ctx, func(name string, _ origin.Digest) error { names = append(names, name); return nil })
	if !errors.Is(err, origin.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "names/x") || !slices.Equal(names, []string{"y"}) {
		t.Errorf("names %q, %v; want y, and x to be named as damaged", names, err)
	}
}
