package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/host/control"
	"github.com/rivuletfs/rivulet/host/frontends"
	"github.com/rivuletfs/rivulet/host/keep"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/telemetry"
)

// A slowHost is an agent in this process, whose store can be made slow or broken
// under it.
type slowHost struct {
	t       *testing.T
	home    string
	host    *host.Host
	latency atomic.Int64 // of each request of chunks, in nanoseconds
	broken  atomic.Bool  // no chunk is found
}

// Fetch implements [chunk.Source].
func (s *slowSource) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if s.host.broken.Load() {
		return 0, fmt.Errorf("chunk %v: %w", id, chunk.ErrNotFound)
	}
	slow := chunktest.Slow{Source: s.src, Latency: time.Duration(s.host.latency.Load())}
	return slow.Fetch(ctx, id, dst, off)
}

type slowSource struct {
	host *slowHost
	src  chunk.Source
}

// newSlowHost publishes an image and attaches it over NBD, by an agent that commands
// of this process find.
func newSlowHost(t *testing.T) *slowHost {
	t.Helper()
	s := &slowHost{t: t, home: t.TempDir()}
	socket := filepath.Join(s.home, "agent.sock")
	for name, value := range map[string]string{
		"HOME": s.home, "RIVULET_STORE": "dir:" + s.home + "/store", "XDG_CONFIG_HOME": s.home + "/config", "XDG_RUNTIME_DIR": s.home + "/run",
		"TMPDIR": s.home, "RIVULET_KEYS": "", "RIVULET_IDENTITY": "", "RIVULET_CACHED": "none", "RIVULET_AGENT": socket,
	} {
		t.Setenv(name, value)
	}
	random := rand.NewChaCha8([32]byte{1})
	for _, name := range []string{"usr/lib/libslow.so", "usr/lib/libquick.so"} {
		b := make([]byte, 300<<10)
		_, _ = random.Read(b)
		path := filepath.Join(s.home, "tree", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.run(exitOK, "publish", "dir:"+filepath.Join(s.home, "tree"), "--name", "tree")
	a := &app{out: t.Output(), err: t.Output()}
	var err error
	s.host, err = host.New(host.Config{
		Open: func(ctx context.Context, url string) (host.Source, error) {
			src, err := a.openSource(ctx, url, new(telemetry.Origins))
			src.Near = true // so that all comes by chunks, also what a metadata object has
			src.Bound = func(src chunk.Source, _ string) chunk.Source { return &slowSource{s, src} }
			return src, err
		},
		Unwrappers: func(ctx context.Context, _ []string) ([]seal.Unwrapper, error) {
			id, err := a.identity(ctx, false)
			if err != nil {
				return nil, err
			}
			return id.opens, nil
		},
		Frontends: map[string]host.Frontend{frontendNBD: &frontends.NBD{Keeper: keep.None{}}},
		Memory:    1 << 20,
		Slow:      20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	server := control.Server{Host: s.host, Version: "v1.2.3"}
	go func() { served <- server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := s.host.Close(); err != nil {
			t.Error(err)
		}
	})
	s.run(exitOK, "agent", "attach", "tree", "--nbd", "unix:"+filepath.Join(s.home, "nbd.sock"))
	return s
}

// run runs a command line in this process, wants it to end with status, and returns
// what it printed.
func (s *slowHost) run(status int, args ...string) string {
	s.t.Helper()
	var out, errOut bytes.Buffer
	if got := run(s.t.Context(), args, &out, &errOut); got != status {
		s.t.Errorf("rivulet %q: status %d, want %d\n%s%s", args, got, status, &out, &errOut)
	}
	return out.String() + errOut.String()
}

// offsets returns where things lie on the disk, by what explain calls them.
func (s *slowHost) offsets() map[string]int64 {
	s.t.Helper()
	a := &app{out: s.t.Output(), err: s.t.Output()}
	v, err := a.openView(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	fsys, done, err := a.openFiles(s.t.Context(), v, "tree")
	if err != nil {
		s.t.Fatal(err)
	}
	defer done()
	at := map[string]int64{"superblock": 1024}
	for name, path := range map[string]string{"/usr/lib/libslow.so": "usr/lib/libslow.so", "/usr/lib/libquick.so": "usr/lib/libquick.so", "directory /usr/lib": "usr/lib"} {
		extents, err := fsys.Extents(path)
		if err != nil || len(extents) == 0 {
			s.t.Fatalf("extents of %s: %v, %v", path, extents, err)
		}
		at[name] = int64(extents[0].Start) * ext4.BlockSize
	}
	return at
}

func (s *slowHost) read(off int64, n int) error {
	s.t.Helper()
	c, err := nbdclient.Dial(s.t.Context(), "nbd+unix:///tree?socket="+filepath.Join(s.home, "nbd.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = c.ReadAt(make([]byte, n), off)
	return err
}

// TestExplain has a guest wait for known files and parts of the file system.
func TestExplain(t *testing.T) {
	s := newSlowHost(t)
	const latency = 30 * time.Millisecond
	at := s.offsets()
	quick := at["/usr/lib/libquick.so"]
	delete(at, "/usr/lib/libquick.so")
	s.latency.Store(int64(latency))
	for name, off := range at {
		if err := s.read(off, 3000); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	s.latency.Store(0)
	var e explanation
	if err := json.Unmarshal([]byte(s.run(exitOK, "explain", "tree", "--json")), &e); err != nil {
		t.Fatal(err)
	}
	if e.Problem != "" || e.Slow != 20*time.Millisecond || len(e.Reads) < len(at) {
		t.Fatalf("explained as %+v", e)
	}
	for name, off := range at {
		n := slices.IndexFunc(e.Reads, func(r explainedRead) bool { return r.Offset == off })
		if n < 0 {
			t.Fatalf("no read of %s at %d in %+v", name, off, e.Reads)
		}
		if r := e.Reads[n]; r.what() != name || r.Tier != "origin" || r.Wait < latency || r.Length != 3000 || len(r.Parts) != 1 || r.Parts[0].Length != 3000 {
			t.Errorf("read of %s is explained as %+v", name, r)
		}
		if !slices.ContainsFunc(e.Things, func(th slowThing) bool {
			return th.What == name && th.Reads >= 1 && th.Wait >= latency && th.Tier == "origin"
		}) {
			t.Errorf("%s is not among %+v", name, e.Things)
		}
	}
	if len(e.Suggestions) == 0 || !strings.Contains(e.Suggestions[0], "cold reads of the origin, and no host cache runs") {
		t.Errorf("suggestions %q", e.Suggestions)
	}
	text := s.run(exitOK, "explain", e.Disk.ID, "--reads", "--most", "1")
	for _, want := range []string{"reads took 20 ms or longer or failed", "origin ", "/usr/lib/libslow.so", "directory /usr/lib", "more; --most 0 lists all", "* "} {
		if !strings.Contains(text, want) {
			t.Errorf("explained without %q:\n%s", want, text)
		}
	}
	if text := s.run(exitFailed, "explain", "nosuch"); !strings.Contains(text, `disk "nosuch": no such attachment; 'rivulet agent ls'`) {
		t.Error(text)
	}

	// A read that fails, and whose file cannot be found out either.
	s.broken.Store(true)
	if err := s.read(quick, 100); err == nil {
		t.Error("a chunk that is not there was read")
	}
	if err := os.Rename(filepath.Join(s.home, "store"), filepath.Join(s.home, "away")); err != nil {
		t.Fatal(err)
	}
	text = s.run(exitOK, "explain", "tree", "--reads")
	for _, want := range []string{"which files they are of could not be found out", "FAILED: read disk at", "reads failed: 'rivulet status'"} {
		if !strings.Contains(text, want) {
			t.Errorf("explained without %q:\n%s", want, text)
		}
	}
}

// TestStatus looks at a host that is well, and at one that is not.
func TestStatus(t *testing.T) {
	s := newSlowHost(t)
	if err := s.read(1024, 1000); err != nil {
		t.Fatal(err)
	}
	text := s.run(exitOK, "status")
	for _, want := range []string{"agent  v1.2.3, up ", "store  dir:", " answers in ", "tree ", "ready", "no host cache runs"} {
		if !strings.Contains(text, want) {
			t.Errorf("status without %q:\n%s", want, text)
		}
	}
	var st hostStatus
	if err := json.Unmarshal([]byte(s.run(exitOK, "status", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	if !st.Healthy || len(st.Disks) != 1 || st.Disks[0].Served.Reads != 1 || len(st.Stores) != 1 || st.Stores[0].Took <= 0 || st.Agent.About.PID != os.Getpid() ||
		st.Disks[0].Ratios.Memory == nil || *st.Disks[0].Ratios.Memory != 0 || st.Cache != nil {
		t.Errorf("status %+v", st)
	}
	s.broken.Store(true)
	if err := s.read(s.offsets()["/usr/lib/libslow.so"], 100); err == nil {
		t.Fatal("a chunk that is not there was read")
	}
	text = s.run(exitUnwell, "status")
	if !strings.Contains(text, "a read failed") || !strings.Contains(text, "'rivulet explain "+st.Disks[0].ID+"' tells more") {
		t.Errorf("status of failed reads:\n%s", text)
	}
	if err := os.RemoveAll(filepath.Join(s.home, "store")); err != nil {
		t.Fatal(err)
	}
	text = s.run(exitUnwell, "status", "--cache", filepath.Join(s.home, "nosuch.sock"))
	if !strings.Contains(text, "3 things are not well") || !strings.Contains(text, "cache  statistics of the host cache: the host cache does not answer") || !strings.Contains(text, "which is attached: ") {
		t.Errorf("status without a store and a cache:\n%s", text)
	}
	text = s.run(exitNoAgent, "status", "--agent", filepath.Join(s.home, "other.sock"))
	if !strings.Contains(text, "no agent answers at "+filepath.Join(s.home, "other.sock")+"; start one with 'rivulet agent'") {
		t.Errorf("status without an agent:\n%s", text)
	}
}
