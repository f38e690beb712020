package generation

import (
	"errors"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/blockmap/blockmaptest"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/store/memory"
)

func started(img *blockmaptest.Image, workload string, chunks ...uint32) *profile.Profile {
	r := profile.Recording{Image: img.Digest(), Workload: workload}
	for _, c := range chunks {
		r.Touches = append(r.Touches, profile.Touch{Frame: profile.Frame{Chunk: c}})
	}
	return r.Profile()
}

// TestProfiles: profiles are where their image is, go with it, and are found in the
// newest place.
func TestProfiles(t *testing.T) {
	o := memory.New()
	img := blockmaptest.Small(1, 4)
	publish(t, o, 1, "x", img)
	v := NewView(o, Options{})
	if _, err := v.Profile(ctx, img.Digest(), ""); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("none: %v", err)
	}
	if list, err := v.Profiles(ctx, img.Digest()); len(list) != 0 || err != nil {
		t.Errorf("none: %v, %v", list, err)
	}
	if _, err := AddProfile(ctx, o, started(blockmaptest.Small(2, 1), "", 0)); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("of an image that is not there: %v", err)
	}
	first, err := AddProfile(ctx, o, started(img, "", 1))
	check(t, err)
	_, err = AddProfile(ctx, o, started(img, "w", 2))
	check(t, err)

	g2 := renew(t, o)
	f := Forwarder{Origin: o}
	_, err = f.Forward(ctx, img.Digest(), 1, g2)
	check(t, err)
	second, err := AddProfile(ctx, o, started(img, "", 1, 3))
	check(t, err)
	if p, err := v.Profile(ctx, img.Digest(), ""); err != nil || p.Starts > 2 {
		t.Errorf("by states that may be some seconds old: %+v, %v", p, err)
	}
	v = NewView(o, Options{})
	p, err := v.Profile(ctx, img.Digest(), "")
	check(t, err)
	if p.Starts != 2 || len(p.Entries) != 2 || p.Fits(img.Map) != nil {
		t.Errorf("profile %+v", p)
	}
	list, err := v.Profiles(ctx, img.Digest())
	check(t, err)
	if len(list) != 2 || list[0].Generation != g2 || !slices.Equal(list[0].Versions, []origin.Digest{second, first}) || list[1].Workload != "w" {
		t.Errorf("profiles %v", list)
	}
	if p, err := v.ReadProfile(ctx, img.Digest(), "", first); err != nil || p.Starts != 1 {
		t.Errorf("the first version: %+v, %v", p, err)
	}

	// A damaged one does not hide a sound one that is older, but says so alone.
	s := o.Generation(g2)
	check(t, s.RemoveObject(ctx, second))
	if p, err := v.Profile(ctx, img.Digest(), ""); err != nil || p.Starts != 1 {
		t.Errorf("of the older generation: %+v, %v", p, err)
	}
	check(t, o.DeleteGeneration(ctx, 1, func(int) {}))
	if _, err := v.Profile(ctx, img.Digest(), ""); !errors.Is(err, catalog.ErrProfile) {
		t.Errorf("a damaged one alone: %v", err)
	}
	if _, err := v.Profile(ctx, img.Digest(), "w"); err != nil {
		t.Errorf("carried: %v", err)
	}
	check(t, s.SwapPointer(ctx, catalog.ProfileKey(img.Digest(), "bad"), nil, []byte("x")))
	if list, err := v.Profiles(ctx, img.Digest()); len(list) != 2 || !errors.Is(err, catalog.ErrProfile) {
		t.Errorf("beside a damaged one: %v, %v", list, err)
	}

	check(t, RemoveProfile(ctx, o, img.Digest(), "bad"))
	check(t, RemoveProfile(ctx, o, img.Digest(), "w"))
	if err := RemoveProfile(ctx, o, img.Digest(), "w"); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if list, err := v.Profiles(ctx, img.Digest()); len(list) != 1 || err != nil {
		t.Errorf("left: %v, %v", list, err)
	}
}
