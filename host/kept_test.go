package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

// signed is a spec that asks for the site's signature.
func (s *site) signed(where string) Spec {
	sp := spec("tree", where)
	sp.Required = []string{s.signer.Public().String()}
	return sp
}

// TestOriginAway starts a host whose origin does not answer: what the cache has is
// read, the rest waits for the origin, and then the image is marked as in use.
func TestOriginAway(t *testing.T) {
	s := newSite(t)
	warm := &warmCache{chunks: make(map[chunk.ID]map[int64][]byte)}
	s.cache = warm
	h := s.start()
	s.attach(h, s.signed("a"), spec("tree", "b"))
	o, _ := s.front.last("a")
	readFile(t, o)
	s.close(h)

	s.broken.Store(-1)
	h = s.start()
	eventually(t, "two to be ready", func() bool { return states(h)[Ready] == 2 })
	for _, where := range []string{"a", "b"} {
		o, _ = s.front.last(where)
		if got := readFile(t, o); got != strings.Repeat("one", 1000) {
			t.Errorf("%s reads %d bytes", where, len(got))
		}
	}
	eventually(t, "the problem to be told", func() bool { return strings.Contains(h.List()[0].Problem, errBroken.Error()) })
	s.close(h)

	clear(warm.chunks)
	h = s.start()
	o, _ = s.front.last("a")
	read := make(chan string)
	go func() { read <- readFile(t, o) }()
	select {
	case <-read:
		t.Fatal("read what is nowhere")
	case <-time.After(20 * time.Millisecond):
	}
	for _, m := range marks(t, s) {
		if err := generation.Unmark(t.Context(), s.origin, m, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	s.broken.Store(0)
	if got := <-read; got != strings.Repeat("one", 1000) {
		t.Error("wrong bytes")
	}
	eventually(t, "no problem", func() bool { return h.List()[0].Problem == "" })
	eventually(t, "a mark", func() bool { return len(marks(t, s)) == 1 })
}

// marks returns which images are marked as in use.
func marks(t *testing.T, s *site) (list []origin.Digest) {
	t.Helper()
	err := generation.Marks(t.Context(), s.origin, time.Now(), func(d origin.Digest, _ time.Time) error {
		list = append(list, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestFollows restarts a host away from its origin, where the image is carried to
// another generation meanwhile, and the one that it was attached in is erased.
func TestFollows(t *testing.T) {
	s := newSite(t)
	h := s.start()
	digest := s.attach(h, spec("tree", "a"))[0].Digest
	s.close(h)
	s.broken.Store(-1)
	s.start()
	d, _ := catalog.ParseRef(digest)
	next, err := generation.New(t.Context(), s.origin, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&generation.Forwarder{Origin: s.origin}).Forward(t.Context(), d, 1, next); err != nil {
		t.Fatal(err)
	}
	if err := s.origin.DeleteGeneration(t.Context(), 1, func(int) {}); err != nil {
		t.Fatal(err)
	}
	s.broken.Store(0)
	o, _ := s.front.last("a")
	if got := readFile(t, o); got != strings.Repeat("one", 1000) {
		t.Error("wrong bytes")
	}
}

// TestUpgradeWithoutStore prepares a take-over while the origin is away.
func TestUpgradeWithoutStore(t *testing.T) {
	s := newSite(t)
	h := s.start()
	s.attach(h, spec("tree", "a"), s.signed("b"))
	s.broken.Store(-1)
	next := s.bare()
	done, err := next.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.close(h)
	if err := next.Recover(t.Context(), &keep.Inherited{}); err != nil {
		t.Fatal(err)
	}
	done()
	if n := states(next); n[Ready] != 2 {
		t.Errorf("states %v, want two ready", n)
	}
}

// TestKeptIsChecked damages what is kept: nothing is opened by it, and it is kept
// anew when the origin is there.
func TestKeptIsChecked(t *testing.T) {
	flip := func(b []byte) { b[len(b)/2] ^= 1 }
	for what, damage := range map[string]func(s *site){
		"block map": func(s *site) {
			b, err := os.ReadFile(s.maps()[0])
			if err == nil {
				flip(b)
				err = os.WriteFile(s.maps()[0], b, 0o600)
			}
			if err != nil {
				s.t.Fatal(err)
			}
		},
		"torn block map": func(s *site) {
			if err := os.Truncate(s.maps()[0], 100); err != nil {
				s.t.Fatal(err)
			}
		},
		"no block map": func(s *site) {
			if err := os.Remove(s.maps()[0]); err != nil {
				s.t.Fatal(err)
			}
		},
		"wrapped key": func(s *site) { s.rewrite(func(r *record) { flip(r.Kept.Attachments["age"]) }) },
		"signature":   func(s *site) { s.rewrite(func(r *record) { flip(r.Kept.Attachments["minisign"]) }) },
		"no key":      func(s *site) { s.rewrite(func(r *record) { delete(r.Kept.Attachments, "age") }) },
		"unsigned":    func(s *site) { s.rewrite(func(r *record) { delete(r.Kept.Attachments, "minisign") }) },
	} {
		t.Run(what, func(t *testing.T) {
			s := newSite(t)
			h := s.start()
			s.attach(h, s.signed("a"))
			s.close(h)
			damage(s)
			s.broken.Store(-1)
			h = s.start()
			if n := states(h); n[Opening] != 1 {
				t.Fatalf("states %v, want one opening", n)
			}
			s.broken.Store(0)
			eventually(t, "the disk to open", func() bool { return states(h)[Ready] == 1 })
			s.close(h)
			s.broken.Store(-1)
			h = s.start()
			eventually(t, "what was kept anew to do", func() bool { return states(h)[Ready] == 1 })
		})
	}
}

// TestKeptHasNoKeys looks for image key and chunk keys in the state folder.
func TestKeptHasNoKeys(t *testing.T) {
	s := newSite(t)
	h := s.start()
	info := s.attach(h, s.signed("a"))[0]
	image, err := generation.NewView(s.origin, generation.Options{}).Open(t.Context(), info.Digest)
	if err != nil {
		t.Fatal(err)
	}
	open, key, err := seal.UnlockKey(t.Context(), image.Map, image.Store(), s.ids)
	if err != nil {
		t.Fatal(err)
	}
	secrets := [][]byte{key[:], fmt.Appendf(nil, "%x", key[:])}
	for i := range open.Len() {
		k := open.Chunk(i).Key
		secrets = append(secrets, k[:])
	}
	files, err := filepath.Glob(filepath.Join(s.state, "*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("files %q, %v", files, err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if bytes.Contains(b, secret) {
				t.Errorf("%s has a key in it", path)
			}
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
}

// TestKeptGoes removes a block map with the last attachment of its image, and what
// a process left that was killed in between.
func TestKeptGoes(t *testing.T) {
	s := newSite(t)
	s.publish("other", "two")
	h := s.start()
	infos := s.attach(h, spec("tree", "a"), spec("tree", "b"), spec("other", "c"))
	if n := len(s.maps()); n != 2 {
		t.Fatalf("%d block maps are kept, want 2", n)
	}
	for i, want := range []int{2, 1, 0} {
		if err := h.Detach(t.Context(), infos[i].ID, false); err != nil {
			t.Fatal(err)
		}
		if n := len(s.maps()); n != want {
			t.Errorf("%d block maps after %d detached, want %d", n, i+1, want)
		}
	}
	s.front.fail, s.front.failures = map[string]error{"bad": errBroken}, -1
	if _, err := h.Attach(t.Context(), spec("tree", "bad")); err == nil || len(s.maps()) != 0 {
		t.Errorf("attached: %v; %d block maps are left", err, len(s.maps()))
	}
	s.attach(h, spec("tree", "a"))
	s.close(h)
	stray := filepath.Join(s.state, strings.Repeat("0", 64)+mapSuffix)
	unread := filepath.Join(s.state, "newer.json")
	for _, path := range []string{stray, unread} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.close(s.start())
	if len(s.maps()) != 2 {
		t.Error("a block map is gone that an attachment may need which could not be read")
	}
	if err := os.Remove(unread); err != nil {
		t.Fatal(err)
	}
	h = s.start()
	if left := s.maps(); len(left) != 1 || left[0] == stray {
		t.Errorf("%q are left, want that of the attachment alone", left)
	}
	if err := h.Detach(t.Context(), h.List()[0].ID, false); err != nil || len(s.maps()) != 0 {
		t.Errorf("detached: %v; %d block maps are left", err, len(s.maps()))
	}
}

// TestKeptAtOnce attaches and detaches one image from many goroutines: while one
// attachment is there, so is the block map.
func TestKeptAtOnce(t *testing.T) {
	s := newSite(t)
	h := s.start()
	done := make(chan error)
	const n = 8
	for i := range n {
		go func() {
			var err error
			for range 5 {
				var infos []Info
				if infos, err = h.Attach(t.Context(), spec("tree", fmt.Sprint("place", i))); err != nil {
					break
				}
				if len(s.maps()) != 1 {
					err = errors.New("attached, and no block map is kept")
				}
				if err = errors.Join(err, h.Detach(t.Context(), infos[0].ID, false)); err != nil {
					break
				}
			}
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if len(s.maps()) != 0 || len(s.records()) != 0 {
		t.Errorf("%d block maps and %d records are left", len(s.maps()), len(s.records()))
	}
}

// TestLateIsBounded ends what waits for an origin that does not come, and says why.
func TestLateIsBounded(t *testing.T) {
	tried := make(chan struct{}, 100)
	l := newLate(func(context.Context) (*generation.Image, chunk.Source, error) {
		tried <- struct{}{}
		return nil, nil, errBroken
	})
	keeping, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.keep(keeping, time.Millisecond, time.Hour, func(error, time.Duration) {})
	}()
	<-tried
	canceled, none := context.WithCancel(t.Context())
	none()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := l.Fetch(ctx, chunk.ID{}, make([]byte, 1), 0)
		failed <- err
	}()
	for range 12 { // by pauses alone that would take a second and more
		<-tried
		if err := l.wait(canceled); !errors.Is(err, errAway) {
			t.Errorf("waited: %v", err)
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, errAway) || !errors.Is(err, errBroken) {
		t.Errorf("fetch: %v", err)
	}
	if _, err := l.Stat(ctx, chunk.ID{}); !errors.Is(err, errAway) {
		t.Errorf("stat: %v", err)
	}
	if _, err := l.Request(ctx, chunk.ID{}); !errors.Is(err, errAway) {
		t.Errorf("request: %v", err)
	}
	stop()
	<-ended
}
