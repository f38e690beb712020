package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
)

// A profileOrigin does with pointers to profiles what it is told.
type profileOrigin struct {
	origin.Origin
	readOnly bool
	hang     chan struct{} // reads of them wait for it; nil: they do not
}

type profileStore struct {
	origin.Store
	o *profileOrigin
}

func (o *profileOrigin) Generation(id origin.GenerationID) origin.Store {
	return &profileStore{o.Origin.Generation(id), o}
}

func (s *profileStore) SwapPointer(ctx context.Context, name string, old, new []byte) error {
	if s.o.readOnly && strings.HasPrefix(name, "profiles/") {
		return origin.ErrReadOnly
	}
	return s.Store.SwapPointer(ctx, name, old, new)
}

func (s *profileStore) GetPointer(ctx context.Context, name string) ([]byte, error) {
	if s.o.hang != nil && strings.HasPrefix(name, "profiles/") {
		select {
		case <-s.o.hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.Store.GetPointer(ctx, name)
}

// startWith returns a host of a site whose origin is o, that has recovered.
func (s *site) startWith(o origin.Origin) *Host { return s.startAt(o, true) }

// startAt is startWith of an origin that is near, or far.
func (s *site) startAt(o origin.Origin, near bool) *Host {
	s.t.Helper()
	c := s.config()
	c.Open = func(context.Context, string) (Source, error) {
		return Source{View: generation.NewView(o, generation.Options{}), Near: near}, nil
	}
	h, err := New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = h.Close() })
	if err := h.Recover(s.t.Context(), &keep.Inherited{}); err != nil {
		s.t.Fatal(err)
	}
	return h
}

// profile returns the origin's profile of the image "tree" and a workload.
func (s *site) profile(workload string) (*profile.Profile, error) {
	s.t.Helper()
	v := generation.NewView(s.origin, generation.Options{})
	d, err := v.Find(s.t.Context(), "tree")
	if err != nil {
		s.t.Fatal(err)
	}
	return v.Profile(s.t.Context(), d, workload)
}

// run attaches the image, reads its file and detaches it, and returns what there was to
// tell of it before that.
func (s *site) run(h *Host, use ProfileUse, workload string) Info {
	s.t.Helper()
	return s.runWhen(h, use, workload, func(i Info) bool { return i.Start.Replay == nil || !i.Start.Replay.Running })
}

// replayed is run of what has a profile, and reads when all of that was read ahead.
func (s *site) replayed(h *Host, use ProfileUse, workload string) Info {
	s.t.Helper()
	return s.runWhen(h, use, workload, func(i Info) bool { return i.Start.Replay != nil && !i.Start.Replay.Running })
}

func (s *site) runWhen(h *Host, use ProfileUse, workload string, ready func(Info) bool) Info {
	s.t.Helper()
	sp := spec("tree", "a")
	sp.Profile, sp.Workload = use, workload
	i := s.attach(h, sp)[0]
	if use.replays() {
		eventually(s.t, "reading ahead", func() bool { return ready(h.List()[0]) })
	}
	o, _ := s.front.last("a")
	readFile(s.t, o)
	i = h.List()[0]
	if err := h.Detach(s.t.Context(), i.ID, false); err != nil {
		s.t.Fatal(err)
	}
	h.saving.Wait()
	return i
}

// TestStart records a start on one host, and has another one read ahead by it, whose
// start is merged with the first; of another workload nothing is known.
func TestStart(t *testing.T) {
	s := newSite(t)
	first := s.start()
	i := s.run(first, ProfileRecord, "work")
	if i.Start == nil || i.Start.Replay != nil || i.Start.Frames == 0 || i.Start.Workload != "work" || i.Start.Profile != ProfileRecord {
		t.Errorf("the first start: %+v", i.Start)
	}
	p, err := s.profile("work")
	if err != nil || p.Starts != 1 || len(p.Entries) != i.Start.Frames || p.Fits(i.mapOf(t, s)) != nil {
		t.Fatalf("recorded %+v, %v; want %d frames", p, err, i.Start.Frames)
	}
	s.close(first)
	s.state = t.TempDir()
	second := s.start()
	sp := spec("tree", "a")
	sp.Workload = "work"
	i = s.attach(second, sp)[0]
	eventually(t, "reading ahead", func() bool {
		r := second.List()[0].Start.Replay
		return r != nil && !r.Running && r.Brought == len(p.Entries)
	})
	o, _ := s.front.last("a")
	readFile(t, o)
	if i = second.List()[0]; i.Reads.Misses != 0 || i.Reads.AheadUsed != int64(len(p.Entries)) || i.Start.Replay.Unused != 0 || i.Start.Replay.Starts != 1 {
		t.Errorf("the second start reads %+v, by %+v", i.Reads, i.Start.Replay)
	}
	if err := second.Mark(i.ID); err != nil {
		t.Error(err)
	}
	second.saving.Wait()
	if i = second.List()[0]; !i.Start.Over || i.Start.Kept != "origin" || i.Start.Problem != "" {
		t.Errorf("after its end: %+v", i.Start)
	}
	if p, err = s.profile("work"); err != nil || p.Starts != 2 {
		t.Errorf("after the second start: %+v, %v", p, err)
	}
	if err := second.Detach(t.Context(), i.ID, false); err != nil {
		t.Error(err)
	}
	if i = s.run(second, ProfileOn, ""); i.Start.Replay != nil || i.Start.Problem != "" {
		t.Errorf("of a workload that nobody recorded: %+v", i.Start)
	}
	if _, err := s.profile(""); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("a start that read next to nothing is recorded: %v", err)
	}
	if got, want := second.Stats().Starts, (StartStats{Replayed: 1, Recorded: 1, Published: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	s.close(second)
}

// TestStartPredicted wants a prediction to be followed from a far origin alone: from a near
// one it would gain nothing, and an idle disk would hold what it brought.
func TestStartPredicted(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.run(h, ProfileRecord, "work")
	s.close(h)
	p, err := s.profile("work")
	if err != nil {
		t.Fatal(err)
	}
	p.Workload = "guess"
	if _, err := generation.AddProfile(t.Context(), s.origin, profile.Predict(p)); err != nil {
		t.Fatal(err)
	}
	for _, near := range []bool{true, false} {
		s.state = t.TempDir()
		h := s.startAt(s.origin, near)
		run := s.replayed
		if near {
			run = s.run
		}
		i := run(h, ProfileReplay, "guess")
		if r := i.Start.Replay; near && (r != nil || i.Reads.Ahead != 0) || !near && (!r.Predicted || i.Reads.AheadUsed == 0) {
			t.Errorf("near %v: %+v, reads %+v", near, r, i.Reads)
		}
		s.close(h)
	}
}

// mapOf is the block map that i is of.
func (i *Info) mapOf(t *testing.T, s *site) *blockmap.Map {
	t.Helper()
	image, err := generation.NewView(s.origin, generation.Options{}).Open(t.Context(), i.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image.Map
}

// TestStartUses wants nothing to be recorded or read ahead that was not asked for.
func TestStartUses(t *testing.T) {
	s := newSite(t)
	h := s.start()
	for _, use := range []ProfileUse{ProfileOff, ProfileReplay} {
		i := s.run(h, use, "")
		if use == ProfileOff && i.Start != nil {
			t.Errorf("%s: %+v", use, i.Start)
		}
		if _, err := s.profile(""); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("%s: recorded, or %v", use, err)
		}
	}
	s.run(h, ProfileRecord, "")
	if i := s.run(h, ProfileRecord, ""); i.Start.Replay != nil || i.Reads.Ahead != 0 {
		t.Errorf("%s: read ahead: %+v", ProfileRecord, i.Start)
	}
	s.replayed(h, ProfileReplay, "")
	if p, err := s.profile(""); err != nil || p.Starts != 2 {
		t.Errorf("%+v, %v; want two starts", p, err)
	}
	for what, sp := range map[string]Spec{
		"use":      {Image: "tree", Store: "memory", Frontend: "double", Where: "b", Profile: "sometimes"},
		"workload": {Image: "tree", Store: "memory", Frontend: "double", Where: "b", Workload: strings.Repeat("x", profile.MaxWorkloadBytes+1)},
	} {
		if _, err := h.Attach(t.Context(), sp); !errors.As(err, new(SpecError)) {
			t.Errorf("%s: %v, want a user's mistake", what, err)
		}
	}
	s.close(h)
}

// TestStartReadOnly wants what the origin does not take to be remembered by this host,
// and handed over when it does.
func TestStartReadOnly(t *testing.T) {
	s := newSite(t)
	o := &profileOrigin{Origin: s.origin, readOnly: true}
	h := s.startWith(o)
	s.run(h, ProfileRecord, "")
	s.run(h, ProfileRecord, "")
	files := func() int {
		list, err := filepath.Glob(filepath.Join(s.state, "*"+profileSuffix))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if got := h.Stats().Starts; got.Kept != 2 || got.Published != 0 || files() != 1 {
		t.Fatalf("%+v, %d files", got, files())
	}
	if i := s.replayed(h, ProfileReplay, ""); i.Start.Replay.Starts != 2 {
		t.Errorf("not read ahead by what is remembered here: %+v", i.Start)
	}
	o.readOnly = false
	s.run(h, ProfileRecord, "")
	if p, err := s.profile(""); err != nil || p.Starts != 3 || files() != 0 {
		t.Errorf("%+v, %v, %d files; want all three starts at the origin", p, err, files())
	}
	s.close(h)
}

// TestOwnProfiles has a host whose starts are its own business, and one that has
// published enough for now: both remember, and the second one hands it over later.
func TestOwnProfiles(t *testing.T) {
	s := newSite(t)
	for name, change := range map[string]func(*Config){
		"own":      func(c *Config) { c.OwnProfiles = true },
		"too many": func(c *Config) { c.ProfilesPerHour = 1 },
	} {
		s.state = t.TempDir()
		c := s.config()
		change(&c)
		h, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Recover(t.Context(), &keep.Inherited{}); err != nil {
			t.Fatal(err)
		}
		before := uint32(0)
		if p, err := s.profile(name); err == nil {
			before = p.Starts
		}
		for range 3 {
			s.run(h, ProfileRecord, name)
		}
		want, published := before, int64(0)
		if name != "own" {
			want, published = before+1, 1
		}
		p, err := s.profile(name)
		if got := h.Stats().Starts; got.Published != published || got.Kept != 3-published || got.Lost != 0 {
			t.Errorf("%s: %+v", name, got)
		}
		if want == 0 && !errors.Is(err, chunk.ErrNotFound) || want > 0 && (err != nil || p.Starts != want) {
			t.Errorf("%s: published %+v, %v", name, p, err)
		}
		if i := s.replayed(h, ProfileReplay, name); i.Start.Replay.Starts != 3 {
			t.Errorf("%s: read ahead by %+v", name, i.Start.Replay)
		}
		if name != "own" { // an hour later
			h.profiles.mu.Lock()
			h.profiles.bucket.Add(time.Now(), 1)
			h.profiles.mu.Unlock()
			s.run(h, ProfileRecord, name)
			if p, err := s.profile(name); err != nil || p.Starts != 4 {
				t.Errorf("%s: published %+v, %v; want all starts", name, p, err)
			}
		}
		s.close(h)
	}
}

// TestStartNotDelayed wants an attach, and reads, not to wait for a profile that does not
// come, and a detach neither.
func TestStartNotDelayed(t *testing.T) {
	s := newSite(t)
	o := &profileOrigin{Origin: s.origin, hang: make(chan struct{})}
	h := s.startWith(o)
	i := s.attach(h, spec("tree", "a"))[0]
	offer, _ := s.front.last("a")
	readFile(t, offer)
	if i.Start == nil || i.Start.Replay != nil {
		t.Errorf("%+v", i.Start)
	}
	if err := h.Detach(t.Context(), i.ID, false); err != nil {
		t.Error(err)
	}
	s.close(h)
}

// TestStartCutShort wants half a start to be forgotten when its host ends, and one that
// was going on in an earlier process not to be recorded again.
func TestStartCutShort(t *testing.T) {
	s := newSite(t)
	h := s.start()
	sp := spec("tree", "a")
	sp.Profile = ProfileRecord
	s.attach(h, sp)
	o, _ := s.front.last("a")
	readFile(t, o)
	s.close(h)
	h = s.start()
	eventually(t, "back", func() bool { return states(h)[Ready] == 1 })
	i := h.List()[0]
	if i.Start != nil {
		t.Errorf("the start of an earlier process: %+v", i.Start)
	}
	if err := h.Mark(i.ID); !errors.As(err, new(SpecError)) {
		t.Errorf("marked: %v", err)
	}
	if err := h.Mark("nosuch"); !errors.Is(err, ErrNotFound) {
		t.Errorf("marked: %v", err)
	}
	if err := h.Detach(t.Context(), i.ID, false); err != nil {
		t.Error(err)
	}
	h.saving.Wait()
	if _, err := s.profile(""); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("recorded, or %v", err)
	}
	s.close(h)
}

// TestStartUnmounted wants a start to be remembered whose attachment has ended by itself
// just before its process ends.
func TestStartUnmounted(t *testing.T) {
	s := newSite(t)
	h := s.start()
	sp := spec("tree", "a")
	sp.Profile = ProfileRecord
	i := s.attach(h, sp)[0]
	o, _ := s.front.last("a")
	readFile(t, o)
	close(s.front.at("a").done)
	if err := h.Wait(t.Context(), i.ID); err != nil {
		t.Error(err)
	}
	s.close(h)
	if p, err := s.profile(""); err != nil || p.Starts != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestStartDamagedProfile wants damaged profiles, here and at the origin, to do no harm.
func TestStartDamagedProfile(t *testing.T) {
	s := newSite(t)
	h := s.start()
	i := s.run(h, ProfileRecord, "")
	d, err := origin.ParseDigest(i.Digest)
	if err != nil {
		t.Fatal(err)
	}
	store := s.origin.Generation(1)
	old, err := store.GetPointer(t.Context(), catalog.ProfileKey(d, ""))
	if err == nil {
		err = store.SwapPointer(t.Context(), catalog.ProfileKey(d, ""), old, []byte("nonsense\n"))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(s.state, profileName(d, "")), []byte("nonsense"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if i := s.runWhen(h, ProfileReplay, "", func(i Info) bool { return i.Start.Problem != "" }); i.Start.Replay != nil {
		t.Errorf("%+v", i.Start)
	}
	s.run(h, ProfileRecord, "")
	if _, err := os.Stat(filepath.Join(s.state, profileName(d, ""))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is damaged here is kept: %v", err)
	}
	if p, err := s.profile(""); err != nil || p.Starts != 1 {
		t.Errorf("%+v, %v; want what is damaged to be replaced", p, err)
	}
	s.close(h)
}

// TestKeptProfilesBounded wants the newest profiles to be kept, and not too many.
func TestKeptProfilesBounded(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	f := &folder{path: dir.Name(), dir: dir}
	age := func(name string, i int) {
		at := time.Unix(int64(i), 0)
		if err := os.Chtimes(filepath.Join(f.path, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxProfiles { // of earlier processes
		name := profileName(origin.Digest{byte(i)}, "earlier")
		if err := os.WriteFile(filepath.Join(f.path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		age(name, i+10)
	}
	for i := range 3 {
		p := &profile.Profile{Image: origin.Digest{byte(i)}, Starts: 1}
		if err := f.writeProfile(p); err != nil {
			t.Fatal(err)
		}
		age(profileName(p.Image, ""), 1<<30+i)
	}
	for i, want := range map[int]bool{0: false, 2: false, 3: true, maxProfiles - 1: true} {
		_, err := os.Stat(filepath.Join(f.path, profileName(origin.Digest{byte(i)}, "earlier")))
		if (err == nil) != want {
			t.Errorf("earlier profile %d: %v", i, err)
		}
		if p, err := f.readProfile(origin.Digest{byte(i)}, ""); err != nil || (p != nil) != (i < 3) {
			t.Errorf("profile %d: %v, %v", i, p, err)
		}
	}
}
