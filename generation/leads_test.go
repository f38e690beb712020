package generation

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

// TestClaim: an image that is opened by its block map is marked, and found where it is by then:
// not in a generation that was closed before the mark.
func TestClaim(t *testing.T) {
	o := memory.New()
	img := blockmaptest.Small(1, 2)
	publish(t, o, 1, "x", img)
	v := NewView(o, Options{})
	wantName(t, v, "x", img) // so v knows the states, as they are before what follows
	g2 := renew(t, o)
	f := Forwarder{Origin: o}
	_, err := f.Forward(ctx, img.Digest(), 1, g2)
	check(t, err)
	advance(t, o, 1, StateExpired, StateDeleted)
	i, err := v.OpenMap(ctx, img.Digest())
	check(t, err)
	if i.Generation() != 1 {
		t.Errorf("opened in %v, want 1 by the states of before", i.Generation())
	}
	l, err := v.Claim(ctx, img.Digest())
	check(t, err)
	check(t, i.Settle(ctx, l))
	if i.Generation() != g2 {
		t.Errorf("settled in %v, want %v", i.Generation(), g2)
	}
	check(t, i.Settle(ctx, l)) // where it is now can be read
	marked := false
	check(t, Marks(ctx, o, t0, func(d origin.Digest, _ time.Time) error {
		marked = marked || d == img.Digest()
		return nil
	}))
	if !marked {
		t.Error("it is not marked")
	}
	if _, err := v.OpenMap(ctx, origin.Sum(nil)); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("of an image that is not there: %v", err)
	}
}

// TestSettleGone: an image that only a closed generation has is not settled.
func TestSettleGone(t *testing.T) {
	o := memory.New()
	img := blockmaptest.Small(1, 2)
	publish(t, o, 1, "x", img)
	v := NewView(o, Options{})
	i, err := v.OpenMap(ctx, img.Digest())
	check(t, err)
	renew(t, o)
	advance(t, o, 1, StateExpired, StateDeleted)
	l, err := v.Claim(ctx, img.Digest())
	check(t, err)
	if err := i.Settle(ctx, l); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("settled: %v", err)
	}
}

// TestLeads: a digest leads to its block map by one round trip when the states were read before,
// and what has been carried to a newer generation since is found there.
func TestLeads(t *testing.T) {
	o := memory.New()
	img := blockmaptest.Small(1, 2)
	publish(t, o, 1, "x", img)
	source := img.Map.Info().Source
	v := NewView(o, Options{})
	leads := func(v *View) {
		t.Helper()
		if to, err := v.Leads(ctx, source); err != nil || to != img.Digest() {
			t.Errorf("leads to %v, %v", to, err)
		}
	}
	leads(v)
	leads(v)
	if _, err := v.Leads(ctx, origin.Sum([]byte("none"))); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("an unknown digest: %v", err)
	}
	g2 := renew(t, o)
	_, err := (&Forwarder{Origin: o}).Forward(ctx, img.Digest(), 1, g2)
	check(t, err)
	advance(t, o, 1, StateExpired, StateDeleted)
	check(t, o.DeleteGeneration(ctx, 1, func(int) {}))
	leads(v) // begins where it was
	late := NewView(o, Options{})
	leads(late)
	synctest.Test(t, func(t *testing.T) {
		far := lateGets{o}
		v := NewView(far, Options{})
		_, err := v.Leads(t.Context(), source)
		check(t, err)
		time.Sleep(2 * fresh) // so that the states are read anew
		begun := time.Now()
		_, err = v.Leads(t.Context(), source)
		check(t, err)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("took %v, want one round trip", took)
		}
	})
}

// A lateGets answers each question for a pointer a second late.
type lateGets struct{ origin.Origin }

func (o lateGets) GetPointer(ctx context.Context, name string) ([]byte, error) {
	time.Sleep(time.Second)
	return o.Origin.GetPointer(ctx, name)
}

func (o lateGets) Generation(id origin.GenerationID) origin.Store {
	return lateGetsIn{o.Origin.Generation(id)}
}

type lateGetsIn struct{ origin.Store }

func (s lateGetsIn) GetPointer(ctx context.Context, name string) ([]byte, error) {
	time.Sleep(time.Second)
	return s.Store.GetPointer(ctx, name)
}
