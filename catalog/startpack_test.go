package catalog

import (
	"errors"
	"slices"
	"testing"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/store/memory"
)

// TestStartPack: a start pack is put, replaced with its parts, carried and removed.
func TestStartPack(t *testing.T) {
	ctx := t.Context()
	o := memory.New()
	s, next := o.Generation(1), o.Generation(2)
	parts := func(names ...string) (b [][]byte, d []origin.Digest) {
		for _, n := range names {
			b, d = append(b, []byte(n)), append(d, origin.Sum([]byte(n)))
		}
		return b, d
	}
	there := func(s origin.Objects, d origin.Digest) bool {
		_, err := s.GetObject(ctx, d, 1<<10)
		return err == nil
	}
	want := func(s Store, workload string, want []origin.Digest) {
		t.Helper()
		got, err := StartPack(ctx, s, profiled, workload)
		if want == nil && !errors.Is(err, chunk.ErrNotFound) || want != nil && (err != nil || !slices.Equal(got, want)) {
			t.Errorf("workload %q: %v, %v; want %v", workload, got, err, want)
		}
	}
	want(s, "w", nil)
	if err := RemoveStartPack(ctx, s, profiled, "w"); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("removed what is not there: %v", err)
	}
	first, firstDigests := parts("a", "b")
	second, secondDigests := parts("b", "c")
	for _, b := range [][][]byte{first, second} {
		if err := PutStartPack(ctx, s, profiled, "w", b); err != nil {
			t.Fatal(err)
		}
	}
	want(s, "w", secondDigests)
	if there(s, firstDigests[0]) || !there(s, firstDigests[1]) {
		t.Error("a part that is not used any more stayed, or one went that is")
	}
	if err := PutStartPack(ctx, s, profiled, "many", make([][]byte, MaxPackParts+1)); err == nil {
		t.Error("more parts than a pointer has room for")
	}

	if err := carryPacks(ctx, s, next, profiled); err != nil {
		t.Fatal(err)
	}
	want(next, "w", secondDigests)
	if !there(next, secondDigests[0]) || !there(next, secondDigests[1]) {
		t.Error("parts were not carried")
	}
	// What the next generation has stays.
	third, thirdDigests := parts("d")
	if err := PutStartPack(ctx, next, profiled, "w", third); err != nil {
		t.Fatal(err)
	}
	if err := CarryProfiles(ctx, s, next, profiled); err != nil {
		t.Fatal(err)
	}
	want(next, "w", thirdDigests)

	if _, err := AddProfile(ctx, s, start("w", 1)); err != nil {
		t.Fatal(err)
	}
	if err := RemoveProfile(ctx, s, profiled, "w"); err != nil {
		t.Fatal(err)
	}
	want(s, "w", nil)
	if there(s, secondDigests[1]) {
		t.Error("a part stayed that went with its profile")
	}
	// What two workloads have in common stays until both are gone.
	other := origin.Sum([]byte("another image"))
	for image, workload := range map[origin.Digest]string{profiled: "two", other: "one"} {
		if err := PutStartPack(ctx, s, image, workload, first); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveStartPack(ctx, s, other, "one"); err != nil {
		t.Fatal(err)
	}
	want(s, "two", firstDigests)
	if !there(s, firstDigests[0]) {
		t.Error("a part went that another workload has")
	}
	if err := RemoveStartPack(ctx, s, profiled, "two"); err != nil {
		t.Fatal(err)
	}
	if there(s, firstDigests[0]) {
		t.Error("a part stayed that nobody has")
	}
	// One with a part lost is worth nothing, and is left behind.
	if err := PutStartPack(ctx, s, profiled, "lost", first); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveObject(ctx, firstDigests[0]); err != nil {
		t.Fatal(err)
	}
	if err := carryPacks(ctx, s, next, profiled); err != nil {
		t.Fatal(err)
	}
	want(next, "lost", nil)
}

func TestPackKey(t *testing.T) {
	for _, w := range []string{"", "nginx -g 'daemon off;'", "."} {
		key := PackKey(profiled, w)
		image, back, err := ParsePackKey(key)
		if image != profiled || back != w || err != nil || origin.ValidName(key) != nil {
			t.Errorf("%q: %q is read back as %q, %v", w, key, back, err)
		}
	}
	if _, _, err := ParsePackKey(ProfileKey(profiled, "w")); err == nil {
		t.Error("a profile's pointer names a start pack")
	}
	if _, err := ParsePack([]byte("nonsense")); !errors.Is(err, ErrPack) {
		t.Errorf("nonsense: %v", err)
	}
}
