package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/store/memory"
)

var profiled = origin.Sum([]byte("profiled image"))

// start is a profile of one start that reads the given frames of chunk 0.
func start(workload string, frames ...uint16) *profile.Profile {
	r := profile.Recording{Image: profiled, Workload: workload, Length: time.Second}
	for _, n := range frames {
		r.Touches = append(r.Touches, profile.Touch{Frame: profile.Frame{Number: n}})
	}
	return r.Profile()
}

func TestProfileKey(t *testing.T) {
	seen := map[string]string{}
	for _, w := range []string{"", "%", "%25", ".", "..", "a.b", "A", "a", "a/b", "nginx -g 'daemon off;'", "é", "\\", strings.Repeat("/", profile.MaxWorkloadBytes)} {
		key := ProfileKey(profiled, w)
		if err := origin.ValidName(key); err != nil {
			t.Errorf("%q: %v", w, err)
		}
		image, back, err := ParseProfileKey(key)
		if image != profiled || back != w || err != nil {
			t.Errorf("%q: read back as %q, %v", w, back, err)
		}
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q are %s", w, other, key)
		}
		seen[key] = w
	}
	prefix := ProfilePrefix(profiled)
	for _, bad := range []string{
		prefix, prefix + "%4", prefix + "%zz", prefix + "%61", prefix + "a%2", prefix + "a/b", prefix + "%2F", prefix + ".a", prefix + "%0a",
		prefix + strings.Repeat("a", profile.MaxWorkloadBytes+1), "profiles/abc/a", "profiles/" + strings.ToUpper(prefix[9:]) + "a", "names/a", "",
	} {
		if _, w, err := ParseProfileKey(bad); err == nil {
			t.Errorf("%q was read as workload %q", bad, w)
		}
	}
}

func TestParseProfiles(t *testing.T) {
	var list []origin.Digest
	for i := range MaxProfiles {
		list = append(list, origin.Sum([]byte{byte(i)}))
		got, err := ParseProfiles(profilesValue(list))
		if err != nil || !slices.Equal(got, list) {
			t.Errorf("%d versions: %v, %v", len(list), got, err)
		}
	}
	one := string(Value(list[0]))
	for name, bad := range map[string]string{
		"nothing": "", "no newline": strings.TrimSuffix(one, "\n"), "twice": one + one, "something after": one + "x", "empty line": one + "\n",
		"no digest": "sha256:abc\n", "too many": string(profilesValue(append(slices.Clone(list), profiled))), "long": strings.Repeat(one, 1000),
	} {
		if got, err := ParseProfiles([]byte(bad)); !errors.Is(err, ErrProfile) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzParseProfiles(f *testing.F) {
	f.Add(profilesValue([]origin.Digest{profiled, {}}))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := ParseProfiles(b); err == nil && string(profilesValue(list)) != string(b) {
			t.Errorf("%q was read as %v", b, list)
		}
	})
}

func FuzzParseProfileKey(f *testing.F) {
	f.Add(ProfileKey(profiled, "a b"))
	f.Add(ProfileKey(profiled, ""))
	f.Fuzz(func(t *testing.T, key string) {
		if image, w, err := ParseProfileKey(key); err == nil && ProfileKey(image, w) != key {
			t.Errorf("%q was read as %v, %q", key, image, w)
		}
	})
}

func TestAddProfile(t *testing.T) {
	ctx, s := context.Background(), memory.New().Generation(1)
	if _, err := LoadProfile(ctx, s, profiled, "w"); !errors.Is(err, chunk.ErrNotFound) || !strings.Contains(err.Error(), `"w"`) {
		t.Errorf("none: %v", err)
	}
	var versions []origin.Digest
	for i := range 2 * MaxProfiles {
		d, err := AddProfile(ctx, s, start("w", 1, uint16(10+i)))
		if err != nil {
			t.Fatal(err)
		}
		versions = slices.Insert(versions, 0, d)
	}
	got, err := ProfileVersions(ctx, s, profiled, "w")
	if err != nil || !slices.Equal(got, versions[:MaxProfiles]) {
		t.Errorf("versions %v, %v", got, err)
	}
	p, err := LoadProfile(ctx, s, profiled, "w")
	if err != nil || p.Starts != 2*MaxProfiles || p.Entries[0].Starts != p.Starts {
		t.Errorf("newest: %+v, %v", p, err)
	}
	for i, d := range versions {
		_, err := ReadProfile(ctx, s, profiled, "w", d)
		if kept := i < MaxProfiles; kept != (err == nil) || !kept && !errors.Is(err, ErrProfile) {
			t.Errorf("version %d: %v", i, err)
		}
	}
	if _, err := AddProfile(ctx, s, start("", 5)); err != nil {
		t.Fatal(err)
	}
	var workloads []string
	err = Profiles(ctx, s, profiled, func(w string, versions []origin.Digest) error {
		workloads = append(workloads, fmt.Sprintf("%q %d", w, len(versions)))
		return nil
	})
	if want := []string{`"" 1`, `"w" 16`}; err != nil || !slices.Equal(workloads, want) {
		t.Errorf("workloads %q, %v", workloads, err)
	}
	if err := RemoveProfile(ctx, s, profiled, "w"); err != nil {
		t.Error(err)
	}
	if err := RemoveProfile(ctx, s, profiled, "w"); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("removed again: %v", err)
	}
	objects := 0
	_ = s.ListObjects(ctx, func(origin.Digest, int64) error { objects++; return nil })
	if objects != 1 {
		t.Errorf("%d objects left, want that of the other workload", objects)
	}
}

// TestAddPredicted: what was predicted is there until there is a start, and then for nobody.
func TestAddPredicted(t *testing.T) {
	ctx, s := context.Background(), memory.New().Generation(1)
	guess := start("", 1)
	guess.Predicted = true
	add := func(p *profile.Profile) origin.Digest {
		t.Helper()
		d, err := AddProfile(ctx, s, p)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	newest := func(predicted bool, frame uint16) {
		t.Helper()
		p, err := LoadProfile(ctx, s, profiled, "")
		if err != nil || p.Predicted != predicted || p.Starts != 1 || len(p.Entries) != 1 || p.Entries[0].Number != frame {
			t.Errorf("%+v, %v", p, err)
		}
	}
	add(guess)
	newest(true, 1)
	kept := add(start("", 2))
	newest(false, 2)
	if again := add(guess); again != kept {
		t.Errorf("predicted again: %v, want %v as before", again, kept)
	}
	newest(false, 2)
}

// TestAddProfileAtOnce: of starts that end at once none is lost, but those that say so.
func TestAddProfileAtOnce(t *testing.T) {
	ctx, s := context.Background(), memory.New().Generation(1)
	const hosts = 6
	var wg sync.WaitGroup
	errs := make([]error, hosts)
	for i := range hosts {
		wg.Go(func() { _, errs[i] = AddProfile(ctx, s, start("w", uint16(i))) })
	}
	wg.Wait()
	added := uint32(0)
	for _, err := range errs {
		if err == nil {
			added++
		} else if !errors.Is(err, origin.ErrConflict) {
			t.Error(err)
		}
	}
	p, err := LoadProfile(ctx, s, profiled, "w")
	if err != nil || added == 0 || p.Starts != added || len(p.Entries) != int(added) {
		t.Errorf("%d were added: %+v, %v", added, p, err)
	}
}

// busy changes a pointer whenever somebody has read it.
type busy struct {
	Store
	n int
}

func (b *busy) GetPointer(ctx context.Context, name string) ([]byte, error) {
	old, err := b.Store.GetPointer(ctx, name)
	b.n++
	value := profilesValue([]origin.Digest{origin.Sum([]byte{byte(b.n)})})
	if err := b.SwapPointer(ctx, name, old, value); err != nil {
		return nil, err
	}
	return old, err
}

func TestAddProfileGivesUp(t *testing.T) {
	s := &busy{Store: memory.New().Generation(1)}
	if _, err := AddProfile(context.Background(), s, start("w", 1)); !errors.Is(err, origin.ErrConflict) || s.n != addAttempts {
		t.Errorf("%v after %d attempts", err, s.n)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("no time"))
	if _, err := AddProfile(ctx, s, start("w", 1)); err == nil {
		t.Error("added though there was no time")
	}
}

// TestHostileProfiles: what leads to no profile is one clear error for who reads, and
// no hindrance for who adds.
func TestHostileProfiles(t *testing.T) {
	ctx := context.Background()
	encode := func(p *profile.Profile) []byte {
		b, err := p.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	elsewhere := start("w", 1)
	elsewhere.Image = origin.Sum(nil)
	for name, c := range map[string]struct{ value, object []byte }{
		"no list":          {value: []byte("x\n")},
		"no object":        {value: Value(origin.Sum([]byte("gone")))},
		"no profile":       {object: []byte("rvprofl1 or what")},
		"other workload":   {object: encode(start("v", 1))},
		"other image":      {object: encode(elsewhere)},
		"too large":        {object: make([]byte, profile.MaxBytes+1)},
		"pages of nothing": {value: []byte(strings.Repeat("\n", 4000))},
	} {
		s := memory.New().Generation(1)
		if c.object != nil {
			d, err := s.PutObject(ctx, c.object)
			if err != nil {
				t.Fatal(err)
			}
			c.value = Value(d)
		}
		if err := s.SwapPointer(ctx, ProfileKey(profiled, "w"), nil, c.value); err != nil {
			t.Fatal(err)
		}
		_, err := LoadProfile(ctx, s, profiled, "w")
		if err == nil || errors.Is(err, chunk.ErrNotFound) || name != "too large" && !errors.Is(err, ErrProfile) {
			t.Errorf("%s: load: %v", name, err)
		}
		if _, err := AddProfile(ctx, s, start("w", 1)); err != nil {
			t.Errorf("%s: add: %v", name, err)
		}
		if p, err := LoadProfile(ctx, s, profiled, "w"); err != nil || p.Starts != 1 {
			t.Errorf("%s: load what was added: %+v, %v", name, p, err)
		}
	}
	s := memory.New().Generation(1)
	for key, value := range map[string]string{ProfilePrefix(profiled) + "%zz": "x", ProfileKey(profiled, "a"): "x"} {
		if err := s.SwapPointer(ctx, key, nil, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := AddProfile(ctx, s, start("w", 1)); err != nil {
		t.Fatal(err)
	}
	found := 0
	count := func(string, []origin.Digest) error { found++; return nil }
	if err := Profiles(ctx, s, profiled, count); found != 1 || !errors.Is(err, ErrProfile) {
		t.Errorf("%d workloads, %v", found, err)
	}
	s = memory.New().Generation(1)
	for i := range MaxWorkloads + 1 {
		if err := s.SwapPointer(ctx, ProfileKey(profiled, fmt.Sprint(i)), nil, Value(profiled)); err != nil {
			t.Fatal(err)
		}
	}
	found = 0
	if err := Profiles(ctx, s, profiled, count); found != MaxWorkloads || !errors.Is(err, ErrProfile) {
		t.Errorf("%d workloads, %v", found, err)
	}
}

func TestCarryProfiles(t *testing.T) {
	ctx, o := context.Background(), memory.New()
	src, dst := o.Generation(1), o.Generation(2)
	add := func(s Store, p *profile.Profile) origin.Digest {
		t.Helper()
		d, err := AddProfile(ctx, s, p)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	carry := func(workload string, want ...origin.Digest) {
		t.Helper()
		if err := CarryProfiles(ctx, src, dst, profiled); err != nil {
			t.Fatal(err)
		}
		if got, err := ProfileVersions(ctx, dst, profiled, workload); !slices.Equal(got, want) || err != nil {
			t.Errorf("carried %v, %v; want %v", got, err, want)
		}
	}
	if err := CarryProfiles(ctx, src, dst, profiled); err != nil {
		t.Errorf("nothing: %v", err)
	}
	a := add(src, start("w", 1))
	carry("w", a)
	b := add(src, start("w", 2))
	carry("w", b, a) // on from what was carried
	c := add(dst, start("w", 3))
	add(src, start("w", 4))
	carry("w", c, b, a) // there is more there
	if _, err := LoadProfile(ctx, dst, profiled, "w"); err != nil {
		t.Error(err)
	}

	// Damage stays behind, and hinders nothing.
	d, e := add(src, start("v", 1)), add(src, start("v", 2))
	if err := src.RemoveObject(ctx, e); err != nil {
		t.Fatal(err)
	}
	if err := src.SwapPointer(ctx, ProfileKey(profiled, "u"), nil, []byte("x")); err != nil {
		t.Fatal(err)
	}
	carry("v", d)
	if _, err := dst.GetPointer(ctx, ProfileKey(profiled, "u")); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("the damaged one was carried: %v", err)
	}
}

// unlisted cannot list; deaf answers nothing.
type unlisted struct{ Store }

func (unlisted) ListPointers(context.Context, string, func(string) error) error {
	return origin.ErrNoListing
}

type deaf struct{ Store }

var errDeaf = errors.New("no answer")

func (deaf) GetObject(context.Context, origin.Digest, int64) ([]byte, error) { return nil, errDeaf }

func TestCarryProfilesFrom(t *testing.T) {
	ctx, o := context.Background(), memory.New()
	src, dst := o.Generation(1), o.Generation(2)
	if _, err := AddProfile(ctx, src, start("", 1)); err != nil {
		t.Fatal(err)
	}
	if err := src.SwapPointer(ctx, ProfileKey(profiled, "u"), nil, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := CarryProfiles(ctx, deaf{src}, dst, profiled); !errors.Is(err, errDeaf) {
		t.Errorf("from one that does not answer: %v", err)
	}
	if err := CarryProfiles(ctx, unlisted{src}, dst, profiled); err != nil {
		t.Error(err)
	}
	if _, err := LoadProfile(ctx, dst, profiled, ""); err != nil {
		t.Errorf("from one that cannot list: %v", err)
	}
	if err := CarryProfiles(ctx, unlisted{o.Generation(3)}, dst, profiled); err != nil {
		t.Errorf("none, from one that cannot list: %v", err)
	}
}
