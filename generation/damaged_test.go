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
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/memory"
)

// TestDamagedPointers has a damaged pin, mark, alarm and name: the first three
// count all the same, and the other names are found.
func TestDamagedPointers(t *testing.T) {
	ctx := context.Background()
	img, other := blockmaptest.Small(1, 1), blockmaptest.Small(2, 1)
	rotten := map[string]bool{}
	o := origintest.Hooked{Origin: memory.New(), Get: func(_ origin.GenerationID, name string) error {
		if rotten[name] {
			return origin.ErrCorrupt
		}
		return nil
	}}
	publish(t, o, 1, "x", img)
	publish(t, o, 1, "y", other)
	v, now := NewView(o, Options{}), time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	_, err := v.Pin(ctx, "x")
	check(t, err)
	check(t, Mark(ctx, o, img.Digest(), now.Add(-1000*time.Hour)))
	check(t, Raise(ctx, o, Alarm{Generation: 1, Image: img.Digest().String()}))
	check(t, o.ListPointers(ctx, "", func(name string) error { rotten[name] = true; return nil }))
	rotten[catalog.NameKey("x")] = true

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
	delete(rotten, Pointer)
	var names []string
	err = v.Names(ctx, func(name string, _ origin.Digest) error { names = append(names, name); return nil })
	if !errors.Is(err, origin.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), "names/x") || !slices.Equal(names, []string{"y"}) {
		t.Errorf("names %q, %v; want y, and x to be named as damaged", names, err)
	}
}
