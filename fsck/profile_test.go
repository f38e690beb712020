package fsck_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/fsck"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/pack"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/store/dir"
)

// started is a profile of the image img, or of another.
func started(image origin.Digest, chunk uint32) *profile.Profile {
	r := profile.Recording{Image: image, Touches: []profile.Touch{{Frame: profile.Frame{Chunk: chunk}}}}
	return r.Profile()
}

func encoded(t *testing.T, p *profile.Profile) []byte {
	t.Helper()
	b, err := p.AppendBinary(nil)
	ok(t, err)
	return b
}

// TestProfiles: sound profiles are no orphans; of damaged ones each is one problem,
// which repair takes away, by good bytes or for good, and no image is unsound for it.
func TestProfiles(t *testing.T) {
	const versions = 2
	newest := encoded(t, func() *profile.Profile {
		p, err := profile.Merge(started(img.Digest(), 0), started(img.Digest(), 1))
		ok(t, err)
		return p
	}())
	object := origin.Sum(newest)
	key := catalog.ProfileKey(img.Digest(), "")
	set := func(s origin.Store, key string, b []byte) error {
		d, err := s.PutObject(ctx, b)
		if err == nil {
			_, err = catalog.Set(ctx, s, key, d)
		}
		return err
	}
	for _, c := range []struct {
		damage
		left int // versions that the pointer leads to after repair without good bytes
	}{
		{damage{name: "version missing", want: "object " + object.String() + ": missing: a profile",
			do: func(s origin.Store, _ string) error { return s.RemoveObject(ctx, object) }}, 1},
		{damage{name: "version altered", want: "object " + object.String() + ": damaged",
			do: func(_ origin.Store, path string) error {
				return overwrite(file(path, "objects/sha256", object), make([]byte, len(newest)))
			}}, 1},
		{damage{name: "no profile", want: "malformed profile", own: true,
			do: func(s origin.Store, _ string) error {
				return set(s, catalog.ProfileKey(img.Digest(), "w"), []byte("nonsense"))
			}}, versions},
		{damage{name: "profile of another image", want: "it is of image", own: true,
			do: func(s origin.Store, _ string) error {
				return set(s, catalog.ProfileKey(img.Digest(), "w"), encoded(t, started(origin.Sum(nil), 0)))
			}}, versions},
		{damage{name: "pointer of nonsense", want: "pointer " + key + ": damaged",
			do: func(s origin.Store, _ string) error {
				old, err := s.GetPointer(ctx, key)
				if err == nil {
					err = s.SwapPointer(ctx, key, old, []byte("nonsense"))
				}
				return err
			}}, 0},
		{damage{name: "pointer altered", want: "pointer " + key + ": damaged",
			do: func(_ origin.Store, path string) error {
				name := filepath.Join(path, place.Generation(1), place.Pointer(key))
				b, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				b[8] ^= 1
				return os.WriteFile(name, b, 0o666)
			}}, 0},
		{damage{name: "pointer of no workload", want: "it names no profile", own: true,
			do: func(s origin.Store, _ string) error {
				return s.SwapPointer(ctx, key+"zz", nil, catalog.Value(object))
			}}, versions},
		{damage{name: "pointer of no image", want: "dangling: no image", own: true,
			do: func(s origin.Store, _ string) error {
				_, err := catalog.AddProfile(ctx, s, started(origin.Sum(nil), 0))
				return err
			}}, versions},
	} {
		for _, donor := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, " ", donor), func(t *testing.T) {
				path := t.TempDir()
				o, err := dir.Open(path, true)
				ok(t, err)
				publish(t, o, 1, "x", img)
				for i := range uint32(versions) {
					_, err := generation.AddProfile(ctx, o, started(img.Digest(), i))
					ok(t, err)
				}
				if r := run(t, o, fsck.Options{}); !r.Sound() || len(r.OrphanObjects) != 0 {
					t.Fatalf("before: %+v", r)
				}
				left := c.left
				if donor {
					g2, err := generation.New(ctx, o, 1, time.Now())
					ok(t, err)
					_, err = (&generation.Forwarder{Origin: o}).Forward(ctx, img.Digest(), 1, g2)
					ok(t, err)
					if strings.HasPrefix(c.name, "version") {
						left = versions
					}
				}
				s := o.Generation(1)
				ok(t, c.do(s, path))
				r := run(t, o, fsck.Options{})
				if r.Sound() || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].String(), c.want) || r.Problems[0].Needed != "" {
					t.Errorf("%+v; want one problem, %q", r.Problems, c.want)
				}
				if r := run(t, o, fsck.Options{Repair: true}); !r.Sound() || len(r.Problems) != 1 {
					t.Errorf("when it is repaired: %+v", r.Problems)
				}
				if r := run(t, o, fsck.Options{}); len(r.Problems) != 0 {
					t.Errorf("after repair: %+v", r.Problems)
				}
				list, err := catalog.ProfileVersions(ctx, s, img.Digest(), "")
				if len(list) != left || left > 0 && err != nil {
					t.Errorf("%d versions left, %v; want %d", len(list), err, left)
				}
				if i := slices.Index(list, object); left == versions && i != 0 {
					t.Errorf("the newest version is at %d", i)
				}
			})
		}
	}
}

// TestStartPacks: a sound start pack is no orphan; one with a part that is lost or damaged
// is one problem, which repair takes away, by good bytes or for good.
func TestStartPacks(t *testing.T) {
	var b pack.Builder
	part := b.Bytes()
	d := origin.Sum(part)
	key := catalog.PackKey(img.Digest(), "w")
	for _, c := range []damage{
		{name: "part missing", want: "object " + d.String() + ": missing: a part",
			do: func(s origin.Store, _ string) error { return s.RemoveObject(ctx, d) }},
		{name: "part altered", want: "object " + d.String() + ": damaged",
			do: func(_ origin.Store, path string) error {
				return overwrite(file(path, "objects/sha256", d), make([]byte, len(part)))
			}},
		{name: "pointer of nonsense", want: "pointer " + key + ": damaged",
			do: func(s origin.Store, _ string) error {
				return s.SwapPointer(ctx, key, catalog.Value(d), []byte("nonsense"))
			}},
		{name: "no pack", want: "malformed pack", own: true,
			do: func(s origin.Store, _ string) error {
				return catalog.PutStartPack(ctx, s, img.Digest(), "other", [][]byte{[]byte("nonsense")})
			}},
		{name: "pointer of no image", want: "dangling: no image", own: true,
			do: func(s origin.Store, _ string) error {
				return catalog.PutStartPack(ctx, s, origin.Sum(nil), "", [][]byte{part})
			}},
	} {
		for _, donor := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, " ", donor), func(t *testing.T) {
				path := t.TempDir()
				o, err := dir.Open(path, true)
				ok(t, err)
				publish(t, o, 1, "x", img)
				ok(t, generation.PutStartPack(ctx, o, img.Digest(), "w", [][]byte{part}))
				if r := run(t, o, fsck.Options{}); !r.Sound() || len(r.OrphanObjects) != 0 {
					t.Fatalf("before: %+v", r)
				}
				if donor {
					g2, err := generation.New(ctx, o, 1, time.Now())
					ok(t, err)
					_, err = (&generation.Forwarder{Origin: o}).Forward(ctx, img.Digest(), 1, g2)
					ok(t, err)
				}
				s := o.Generation(1)
				ok(t, c.do(s, path))
				if r := run(t, o, fsck.Options{}); r.Sound() || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].String(), c.want) || r.Problems[0].Needed != "" {
					t.Errorf("%+v; want one problem, %q", r.Problems, c.want)
				}
				if r := run(t, o, fsck.Options{Repair: true}); !r.Sound() || len(r.Problems) != 1 {
					t.Errorf("when it is repaired: %+v", r.Problems)
				}
				if r := run(t, o, fsck.Options{}); len(r.Problems) != 0 {
					t.Errorf("after repair: %+v", r.Problems)
				}
				_, err = catalog.StartPack(ctx, s, img.Digest(), "w")
				if stays := c.own || donor && strings.HasPrefix(c.name, "part"); stays != (err == nil) {
					t.Errorf("the pack afterwards: %v", err)
				}
			})
		}
	}
}
