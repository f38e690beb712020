package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/seal/agewrap"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A site is a store with a locked image, "tree", and who can read it.
type site struct {
	t      testing.TB
	origin *memory.Origin
	signer *sign.Key
	ids    *agewrap.Identities
	state  string
	front  *double
	opens  atomic.Int64 // of the store
	broken atomic.Int64 // calls of Open that still fail; -1: all
	cache  Cache        // of its hosts; nil: none
}

var errBroken = errors.New("the store is not to be reached")

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, origin: memory.New(), state: filepath.Join(t.TempDir(), "state"), front: &double{}}
	var err error
	if s.signer, err = sign.CreateKey(filepath.Join(t.TempDir(), "key")); err != nil {
		t.Fatal(err)
	}
	if s.ids, err = agewrap.CreateIdentity(filepath.Join(t.TempDir(), "id")); err != nil {
		t.Fatal(err)
	}
	s.publish("tree", "one")
	return s
}

func (s *site) publish(name, content string) {
	s.t.Helper()
	tree := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "file"), bytes.Repeat([]byte(content), 1000), 0o644); err != nil {
		s.t.Fatal(err)
	}
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = publish.Image(s.t.Context(), s.origin, []string{"dir:" + tree}, publish.Options{
		Salt: salt, Signer: s.signer, Recipients: []seal.Recipient{s.ids.Recipients()[0]}, Name: name, TempDir: s.t.TempDir(),
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// config is that of a host whose attachments are kept.
func (s *site) config() Config {
	return Config{
		Open: func(context.Context, string) (Source, error) {
			s.opens.Add(1)
			if n := s.broken.Load(); n < 0 || n > 0 && s.broken.Add(-1) >= 0 {
				return Source{}, errBroken
			}
			return Source{View: generation.NewView(s.origin, generation.Options{}), Near: true}, nil
		},
		Unwrappers: func(_ context.Context, names []string) ([]seal.Unwrapper, error) {
			if len(names) > 0 {
				return nil, nil // somebody else's
			}
			return []seal.Unwrapper{s.ids}, nil
		},
		Frontends: map[string]Frontend{"double": s.front},
		State:     s.state,
		Cache:     s.cache,
		RetryMin:  time.Millisecond, RetryMax: 5 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
	}
}

// start returns a host that has recovered what is in the state folder.
func (s *site) start() *Host {
	s.t.Helper()
	h := s.bare()
	if err := h.Recover(s.t.Context(), &keep.Inherited{}); err != nil {
		s.t.Fatal(err)
	}
	return h
}

func (s *site) bare() *Host {
	s.t.Helper()
	h, err := New(s.config())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = h.Close() })
	return h
}

func (s *site) close(h *Host) {
	s.t.Helper()
	if err := h.Close(); err != nil {
		s.t.Error(err)
	}
}

// restartWithoutStore has another host take over from h, while the store is away, by records of an older version,
// which keep nothing of what opens images.
func (s *site) restartWithoutStore(h *Host) *Host {
	s.t.Helper()
	s.close(h)
	s.rewrite(func(r *record) { r.Kept = nil })
	s.broken.Store(-1)
	return s.start()
}

func spec(image, where string) Spec {
	return Spec{Image: image, Store: "memory", Frontend: "double", Where: where, Name: "disk"}
}

func (s *site) attach(h *Host, specs ...Spec) []Info {
	s.t.Helper()
	infos, err := h.Attach(s.t.Context(), specs...)
	if err != nil {
		s.t.Fatal(err)
	}
	return infos
}

// records returns the names in the state folder.
func (s *site) records() []string {
	s.t.Helper()
	names, err := filepath.Glob(filepath.Join(s.state, "*"+recordSuffix))
	if err != nil {
		s.t.Fatal(err)
	}
	return names
}

// rewrite changes all records.
func (s *site) rewrite(fn func(r *record)) {
	s.t.Helper()
	for _, path := range s.records() {
		r, err := readRecord(path)
		if err != nil {
			s.t.Fatal(err)
		}
		fn(r)
		b, err := json.Marshal(r)
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// maps returns the names of the block maps in the state folder.
func (s *site) maps() []string {
	s.t.Helper()
	names, err := filepath.Glob(filepath.Join(s.state, "*"+mapSuffix))
	if err != nil {
		s.t.Fatal(err)
	}
	return names
}

// eventually waits for what happens soon.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func states(h *Host) map[State]int {
	n := map[State]int{}
	for _, i := range h.List() {
		n[i.State]++
	}
	return n
}

// A double is a frontend that remembers what it was asked.
type double struct {
	mu       sync.Mutex
	offers   []Offer
	now      map[string]*doubleOffered // by Where
	begins   int
	fail     map[string]error // of the next Offers at Where
	failures int              // how many of them fail; -1: all
	leave    []keep.Descriptor
}

func (d *double) Offer(_ context.Context, o Offer) (Offered, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.offers = append(d.offers, o)
	if err := d.fail[o.Where]; err != nil && d.failures != 0 {
		d.failures--
		return nil, err
	}
	if err := o.Save(json.RawMessage(`{"where":"` + o.Where + `"}`)); err != nil {
		return nil, err
	}
	f := &doubleOffered{double: d, offer: o, done: make(chan struct{})}
	if d.now == nil {
		d.now = map[string]*doubleOffered{}
	}
	d.now[o.Where] = f
	return f, nil
}

func (d *double) Begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begins++
	return nil
}

func (d *double) Release(context.Context) ([]keep.Descriptor, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.now)
	return d.leave, nil
}

// at returns what is offered at a place, or nil.
func (d *double) at(where string) *doubleOffered {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now[where]
}

// last returns the last Offer at a place, and how many there were.
func (d *double) last(where string) (o Offer, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, one := range d.offers {
		if one.Where == where {
			o = one
			n++
		}
	}
	return o, n
}

type doubleOffered struct {
	*double
	offer Offer
	done  chan struct{}
	err   error
	busy  atomic.Bool
}

func (f *doubleOffered) Address() string       { return "at:" + f.offer.Where }
func (f *doubleOffered) Done() <-chan struct{} { return f.done }
func (f *doubleOffered) Err() error            { return f.err }

func (f *doubleOffered) Detach(_ context.Context, force bool) error {
	if f.busy.Load() && !force {
		return ErrBusy
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.now, f.offer.Where)
	return nil
}
