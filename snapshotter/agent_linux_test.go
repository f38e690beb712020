package snapshotter

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
	"github.com/rivuletfs/rivulet/store/memory"
)

// mounts is a frontend that mounts something else.
type mounts struct{}

func (mounts) Offer(_ context.Context, o host.Offer) (host.Offered, error) {
	if o.Again { // it goes on, or is made anew
		if ok, err := isMounted(o.Where); ok || err != nil {
			return offeredMount(o.Where), err
		}
	}
	return offeredMount(o.Where), unix.Mount("none", o.Where, "tmpfs", 0, "size=64k")
}
func (mounts) Begin() error                                       { return nil }
func (mounts) Release(context.Context) ([]keep.Descriptor, error) { return nil, nil }

type offeredMount string

func (o offeredMount) Address() string                    { return string(o) }
func (offeredMount) Done() <-chan struct{}                { return nil }
func (offeredMount) Err() error                           { return nil }
func (o offeredMount) Detach(context.Context, bool) error { return unix.Unmount(string(o), 0) }

// An agentSite is an agent that can be stopped and started, with two stores: "memory" has
// an image, "empty" none, any other cannot be reached.
type agentSite struct {
	t      *testing.T
	agent  *Agent
	state  string
	origin *memory.Origin
	result *publish.Result
	stop   func()
}

func newAgentSite(t *testing.T) *agentSite {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts")
	}
	s := &agentSite{t: t, origin: memory.New(), state: t.TempDir()}
	files := t.TempDir()
	tree{"file": "content"}.write(t, files)
	salt, err := seal.NewSalt(seal.DefaultDomain, 1)
	check(t, err)
	signer, err := sign.NewKey()
	check(t, err)
	s.result, err = publish.Image(t.Context(), s.origin, []string{"dir:" + files}, publish.Options{Salt: salt, Signer: signer, Open: true, Name: "x", TempDir: t.TempDir()})
	check(t, err)
	s.agent = &Agent{Socket: filepath.Join(t.TempDir(), "s"), Stores: []string{"empty", "memory"}}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *agentSite) start() {
	s.t.Helper()
	h, err := host.New(host.Config{
		Open: func(_ context.Context, url string) (host.Source, error) {
			switch url {
			case "memory":
				return host.Source{View: generation.NewView(s.origin, generation.Options{}), Near: true}, nil
			case "empty":
				return host.Source{View: generation.NewView(memory.New(), generation.Options{}), Near: true}, nil
			}
			return host.Source{}, errors.New("no such host")
		},
		Unwrappers: func(context.Context, []string) ([]seal.Unwrapper, error) { return nil, nil },
		Frontends:  map[string]host.Frontend{mountFrontend: mounts{}},
		State:      s.state,
	})
	check(s.t, err)
	check(s.t, h.Recover(s.t.Context(), &keep.Inherited{}))
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.agent.Socket, Net: "unix"})
	check(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- (&control.Server{Host: h}).Serve(ctx, ln) }()
	s.stop = func() {
		cancel()
		check(s.t, <-ended, h.Close())
		s.stop = func() {}
	}
}

func TestAgentFinds(t *testing.T) {
	s := newAgentSite(t)
	manifest, chain := digest.Digest(s.result.SourceDigest), digest.Digest(s.result.ChainID)
	for what, q := range map[string]Query{
		"by manifest": {Manifest: manifest},
		"by chain ID": {Chain: chain},
	} {
		f, err := s.agent.Find(t.Context(), q)
		check(t, err)
		if f.Store != "memory" || string(f.Digest) != s.result.BlockMap || chainOf(f.Layers) != chain {
			t.Errorf("%s: found %+v", what, f)
		}
	}
	for _, q := range []Query{{Manifest: digest.FromString("x")}, {Chain: digest.FromString("x")}} {
		if _, err := s.agent.Find(t.Context(), q); !errors.Is(err, ErrNoDisk) {
			t.Errorf("found what is not there: %v", err)
		}
	}
	s.agent.Stores = []string{"away", "empty"}
	if _, err := s.agent.Find(t.Context(), Query{Chain: chain}); err == nil || errors.Is(err, ErrNoDisk) {
		t.Errorf("nobody knows what the other store has: %v", err)
	}
	s.agent.Stores = []string{"away", "memory"}
	if f, err := s.agent.Find(t.Context(), Query{Chain: chain}); err != nil || f.Store != "memory" {
		t.Errorf("found %+v beside a store that is away, %v", f, err)
	}
	s.agent.Stores = nil
	if _, err := s.agent.Find(t.Context(), Query{Chain: chain}); !errors.Is(err, ErrNoDisk) {
		t.Errorf("without stores: %v", err)
	}
	s.stop()
	s.agent.Stores = []string{"memory"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.agent.Find(ctx, Query{Chain: chain}); !errors.Is(err, control.ErrNoAgent) {
		t.Errorf("without an agent: %v", err)
	}
	found := make(chan error, 1)
	go func() {
		_, err := s.agent.Find(t.Context(), Query{Chain: chain})
		found <- err
	}()
	s.start()
	if err := <-found; err != nil {
		t.Errorf("while an agent was being started: %v", err)
	}
}

func TestOwnRepository(t *testing.T) {
	a := &Agent{Stores: []string{"s3://x"}, OwnRepository: true}
	for ref, want := range map[string]int{"example.org/x:1": 2, "": 1, "NONSENSE/..": 1} {
		if got := a.stores(ref); len(got) != want {
			t.Errorf("%q: stores %q, want %d", ref, got, want)
		}
	}
	if got := a.stores("localhost:5000/a/b@" + string(digest.FromString("x")))[1]; got != "oci://localhost:5000/a/b" {
		t.Errorf("own repository is %q", got)
	}
	a.Stores = []string{"oci://example.org/x"}
	if got := a.stores("example.org/x:1"); len(got) != 1 {
		t.Errorf("stores are %q", got)
	}
}

// TestAgentMounts mounts a disk over restarts of the agent, and what else may have
// become of a mount.
func TestAgentMounts(t *testing.T) {
	s := newAgentSite(t)
	dir := filepath.Join(t.TempDir(), "disk")
	check(t, os.Mkdir(dir, 0o700))
	d := Disk{"memory", digest.Digest(s.result.BlockMap)}
	mounted := func(want bool) {
		t.Helper()
		if got, err := isMounted(dir); err != nil || got != want {
			t.Fatalf("mounted: %v, %v, want %v", got, err, want)
		}
	}
	attached := func(want int) {
		t.Helper()
		c, err := control.Dial(t.Context(), s.agent.Socket)
		check(t, err)
		list, err := c.List(t.Context())
		check(t, err)
		if len(list) != want {
			t.Fatalf("the agent has %d attachments, want %d", len(list), want)
		}
	}
	for range 2 {
		check(t, s.agent.Mount(t.Context(), d, dir))
		mounted(true)
		attached(1)
	}
	s.stop() // its mounts go on
	check(t, s.agent.Mount(t.Context(), d, dir))
	s.start()
	check(t, s.agent.Mount(t.Context(), d, dir))
	attached(1)

	// Its state was lost, or somebody else has mounted something there.
	check(t, s.agent.Unmount(t.Context(), dir))
	mounted(false)
	attached(0)
	check(t, unix.Mount("none", dir, "tmpfs", 0, ""))
	check(t, s.agent.Mount(t.Context(), d, dir))
	mounted(true)
	attached(1)

	check(t, s.agent.Unmount(t.Context(), dir), s.agent.Unmount(t.Context(), dir))
	mounted(false)
	if err := s.agent.Mount(t.Context(), Disk{"memory", digest.FromString("x")}, dir); !errors.Is(err, ErrNoDisk) {
		t.Errorf("mounted what is not there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.agent.Mount(ctx, Disk{"away", d.Digest}, dir); err == nil || errors.Is(err, ErrNoDisk) {
		t.Errorf("mounted from a store that is away: %v", err)
	}
	mounted(false)
}

// TestAgentFills wants an agent to be told of the fill of what it mounts.
func TestAgentFills(t *testing.T) {
	s := newAgentSite(t)
	s.agent.Fill = &host.Fill{Rate: 1 << 20, Optional: true}
	dir := filepath.Join(t.TempDir(), "mnt")
	check(t, os.Mkdir(dir, 0o700))
	check(t, s.agent.Mount(t.Context(), Disk{Store: "memory", Digest: digest.Digest(s.result.BlockMap)}, dir))
	c, err := control.Dial(t.Context(), s.agent.Socket)
	check(t, err)
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Spec.Fill == nil || *list[0].Spec.Fill != *s.agent.Fill {
		t.Errorf("%+v, %v", list, err)
	}
	check(t, s.agent.Unmount(t.Context(), dir))
}
