package gc_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/store/memory"
)

// rotten is o with a pointer of generation 1 damaged, which name has.
func rotten(o origin.Origin, name *string) origin.Origin {
	return origintest.Hooked{Origin: o, Get: func(in origin.GenerationID, of string) error {
		if in == 1 && of == *name {
			return origin.ErrCorrupt
		}
		return nil
	}}
}

// TestDamagedName has a name that nobody can read: what it leads to is not known,
// so nothing goes.
func TestDamagedName(t *testing.T) {
	var name string
	l := newLabOn(t, rotten(memory.New(), &name))
	l.publish("x", blockmaptest.Small(1, 3))
	l.publish("y", blockmaptest.Small(2, 4))
	name = "names/x"
	for _, after := range []time.Duration{30 * day, 7 * day, 7 * day, 30 * day} {
		l.now = l.now.Add(after)
		if r, err := l.Run(ctx); !errors.Is(err, origin.ErrCorrupt) || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if p, err := l.Plan(ctx); err != nil || !slices.Equal(p.Broken, []string{"x"}) {
		t.Errorf("plan: %+v, %v", p, err)
	}
	if n := l.chunks(1); n != 7 {
		t.Errorf("%d chunks are left", n)
	}
	name = "" // mended
	l.run(0)
	l.run(7 * day)
	if l.run(7 * day); l.chunks(1) != 0 {
		t.Errorf("%d chunks are left when it is mended", l.chunks(1))
	}
	if _, err := l.view().Open(ctx, "x"); err != nil {
		t.Error(err)
	}
}

// TestLastLookAtDamagedName has one come late, which only the last look sees.
func TestLastLookAtDamagedName(t *testing.T) {
	l, _ := closed(t, func(l *lab, img *blockmaptest.Image) error {
		_, err := catalog.SetName(ctx, l.o.Generation(1), "late", img.Digest())
		return err
	})
	name := "names/late"
	l.Origin = rotten(l.o, &name)
	if r, err := l.Run(ctx); !errors.Is(err, origin.ErrCorrupt) || len(r.Deleted) != 0 || l.chunks(1) != 3 {
		t.Errorf("%+v, %v, %d chunks", r, err, l.chunks(1))
	}
	l.states(generation.StateExpired, generation.StateActive)
}
