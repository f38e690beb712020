package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/internal/openfiles"
	"github.com/rivuletfs/rivulet/store/cache/evict"
)

// TestStress does everything at once to a cache that is far too small. Meanwhile
// its bytes stay below the cap, on disk too, and what is held is not evicted.
func TestStress(t *testing.T) {
	const chunks = 60
	var objects []*chunktest.Object
	for n := range uint64(chunks) {
		objects = append(objects, crashObject(n))
	}
	before := openfiles.In(t)
	for _, p := range []evict.Policy{nil, evict.NewSIEVE()} {
		c := open(t, Config{Dir: t.TempDir(), MaxBytes: 600_000, ScrubRate: 1 << 30, Policy: p})
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var steps atomic.Int64
		run := func(step func(rng *rand.Rand) error) {
			seed := steps.Add(1)
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(seed), 3))
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := step(rng); err != nil {
						t.Error(err)
						return
					}
					steps.Add(1)
				}
			})
		}
		pick := func(rng *rand.Rand) *chunktest.Object { return objects[min(rng.IntN(chunks), rng.IntN(chunks))] }
		for range 6 {
			run(func(rng *rand.Rand) error { return stressUse(t, c, pick(rng), rng) })
		}
		run(func(rng *rand.Rand) error { return stressAdmin(c, pick(rng), rng) })
		run(func(*rand.Rand) error { return checkDisk(c) })
		evictions := int64(500)
		if testing.Short() {
			evictions = 50
		}
		for c.Stats().Evictions < evictions && !t.Failed() {
			time.Sleep(10 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		checkInvariants(t, c)
		s := c.Stats()
		if s.InUse != 0 || s.Reserved != 0 || s.Damaged != 0 || s.Evictions == 0 || s.Hits == 0 || s.Deposits == 0 {
			t.Errorf("stats %+v", s)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d steps, %+v", steps.Load(), s)
	}
	if after := openfiles.In(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// stressUse reads a chunk, or deposits it, and holds it for a while: its file
// keeps its name.
func stressUse(t *testing.T, c *Cache, o *chunktest.Object, rng *rand.Rand) error {
	h, err := c.Acquire(o.ID)
	if errors.Is(err, chunk.ErrNotFound) {
		d, err := c.Begin(o.ID, int64(len(o.Bytes)))
		if errors.Is(err, ErrExists) || errors.Is(err, ErrFull) {
			return nil
		}
		if err != nil {
			return err
		}
		defer d.Abort()
		for b := o.Bytes; len(b) > 0; {
			n := min(len(b), 1+rng.IntN(30_000))
			if _, err := d.Write(b[:n]); err != nil {
				return err
			}
			b = b[n:]
			part := make([]byte, d.Checked())
			if _, err := d.File().ReadAt(part, 0); err != nil || string(part) != string(o.Bytes[:len(part)]) {
				return fmt.Errorf("what is checked of a deposit differs, or %v", err)
			}
			if rng.IntN(40) == 0 {
				return nil // aborted
			}
		}
		if h, err = d.Commit(ctx); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	defer h.Release()
	checkHandle(t, h, o)
	runtime.Gosched()
	if _, err := os.Stat(c.place(object{id: o.ID, size: h.Size()})); err != nil {
		return fmt.Errorf("in use, and gone: %w", err)
	}
	return nil
}

func stressAdmin(c *Cache, o *chunktest.Object, rng *rand.Rand) error {
	var err error
	switch rng.IntN(6) {
	case 0:
		err = c.Evict(ctx, o.ID)
	case 1:
		err = c.Pin(ctx, o.ID)
	case 2, 3:
		err = c.Unpin(ctx, o.ID)
	case 4:
		_, err = c.Damaged(ctx, o.ID)
	case 5:
		err = c.List(ctx, o.ID, func(Entry) bool { return rng.IntN(3) > 0 })
	}
	if errors.Is(err, chunk.ErrNotFound) || errors.Is(err, ErrInUse) || errors.Is(err, ErrFull) {
		return nil
	}
	return err
}

// checkDisk compares what is on disk with the cap: files are there only while
// their room is taken.
func checkDisk(c *Cache) error {
	if s := c.Stats(); s.Bytes > s.MaxBytes || s.Kept > s.Bytes {
		return fmt.Errorf("over the cap: %+v", s)
	}
	// One file after the other is looked at, and chunks come and go meanwhile:
	// only files at rest, in one directory, can be summed up.
	list, err := os.ReadDir(c.path(tempDir))
	if err != nil {
		return err
	}
	var bytes int64
	for _, e := range list {
		if info, err := e.Info(); err == nil {
			bytes += info.Size()
		}
	}
	if bytes > c.max {
		return fmt.Errorf("deposits take %d bytes of %d", bytes, c.max)
	}
	return nil
}

// TestModel compares a cache with a model of it, by random operations, restarts
// and crashes.
func TestModel(t *testing.T) {
	var objects []*chunktest.Object
	for n := range uint64(12) {
		objects = append(objects, small(n))
	}
	size := Cost(int64(len(objects[0].Bytes)))
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp("", "rivulet-cache-model-")
		if err != nil {
			r.Fatal(err)
		}
		m := &model{t: t, r: r, config: Config{Dir: dir, MaxBytes: 5 * size}, objects: objects}
		m.reopen()
		defer func() {
			m.release()
			if err := errors.Join(m.c.Close(), os.RemoveAll(m.config.Dir)); err != nil {
				r.Error(err)
			}
		}()
		r.Repeat(map[string]func(*rapid.T){
			"put": m.put, "get": m.get, "hold": m.hold, "free": m.free, "evict": m.evict, "pin": m.pin, "unpin": m.unpin,
			"rot": m.rot, "scrub": m.scrub, "abort": m.abort, "crash": m.crash,
			"restart": func(*rapid.T) {
				m.release()
				if err := m.c.Close(); err != nil {
					r.Fatal(err)
				}
				m.reopen()
			},
			"": func(*rapid.T) { m.check() },
		})
	})
}

// A model knows which chunks a cache may hold. Which go when room is made is the
// policy's to say, so it is told by the cache what is left.
type model struct {
	t       *testing.T
	r       *rapid.T
	c       *Cache
	config  Config
	objects []*chunktest.Object
	held    map[int]bool
	rotten  map[int]bool
	pinned  map[int]bool
	handles map[int]*Handle
}

func (m *model) reopen() {
	var err error
	if m.c, err = Open(ctx, m.config); err != nil {
		m.r.Fatal(err)
	}
	m.handles = map[int]*Handle{}
	if m.held == nil {
		m.held, m.rotten, m.pinned = map[int]bool{}, map[int]bool{}, map[int]bool{}
	}
}

func (m *model) release() {
	for _, h := range m.handles {
		h.Release()
	}
	m.handles = map[int]*Handle{}
}

func (m *model) pick(r *rapid.T) int { return rapid.IntRange(0, len(m.objects)-1).Draw(r, "chunk") }

// kept reports how many chunks of those held cannot be evicted.
func (m *model) kept() (n int) {
	for i := range m.held {
		if m.pinned[i] || m.handles[i] != nil {
			n++
		}
	}
	return n
}

func (m *model) put(r *rapid.T) {
	i := m.pick(r)
	h, err := deposit(m.c, m.objects[i], 3000)
	switch {
	case m.held[i]:
		if !errors.Is(err, ErrExists) {
			r.Fatalf("put of what is held: %v", err)
		}
	case m.kept() >= 5:
		if !errors.Is(err, ErrFull) {
			r.Fatalf("put into a full cache: %v", err)
		}
	case err != nil:
		r.Fatal(err)
	default:
		h.Release()
		m.held[i] = true
		m.evicted()
	}
}

// evicted takes from the model what the cache evicted, which must be allowed.
func (m *model) evicted() {
	present := map[chunk.ID]bool{}
	if err := m.c.List(ctx, chunk.ID{}, func(e Entry) bool { present[e.ID] = true; return true }); err != nil {
		m.r.Fatal(err)
	}
	over := len(m.held) - 5
	for i := range m.held {
		if present[m.objects[i].ID] {
			continue
		}
		if m.pinned[i] || m.handles[i] != nil {
			m.r.Fatalf("chunk %d is in use or pinned, and was evicted", i)
		}
		delete(m.held, i)
		delete(m.rotten, i)
		over--
	}
	if over > 0 {
		m.r.Fatalf("%d chunks too many", over)
	}
}

func (m *model) get(r *rapid.T) {
	i := m.pick(r)
	h, err := m.c.Acquire(m.objects[i].ID)
	if m.held[i] && errors.Is(err, chunk.ErrNotFound) && m.rotten[i] {
		m.dropped(i)
		return
	}
	if !m.held[i] {
		if !errors.Is(err, chunk.ErrNotFound) {
			r.Fatalf("get of what is not held: %v", err)
		}
		return
	}
	if err != nil {
		r.Fatal(err)
	}
	if !m.rotten[i] { // what rots while the cache is open is for the reader to find
		checkHandle(m.t, h, m.objects[i])
	}
	h.Release()
}

func (m *model) dropped(i int) {
	delete(m.held, i)
	delete(m.rotten, i)
}

func (m *model) hold(r *rapid.T) {
	i := m.pick(r)
	if m.handles[i] != nil || m.rotten[i] {
		return
	}
	if h, err := m.c.Acquire(m.objects[i].ID); err == nil {
		m.handles[i] = h
	}
}

func (m *model) free(r *rapid.T) {
	i := m.pick(r)
	if h := m.handles[i]; h != nil {
		checkHandle(m.t, h, m.objects[i])
		h.Release()
		delete(m.handles, i)
	}
}

func (m *model) evict(r *rapid.T) {
	i := m.pick(r)
	err := m.c.Evict(ctx, m.objects[i].ID)
	switch {
	case !m.held[i]:
		if !errors.Is(err, chunk.ErrNotFound) {
			r.Fatalf("evict of what is not held: %v", err)
		}
	case m.pinned[i] || m.handles[i] != nil:
		if !errors.Is(err, ErrInUse) {
			r.Fatalf("evict of what is in use: %v", err)
		}
	case err != nil:
		r.Fatal(err)
	default:
		m.dropped(i)
	}
}

func (m *model) pin(r *rapid.T) {
	i := m.pick(r)
	err := m.c.Pin(ctx, m.objects[i].ID)
	switch {
	case !m.held[i]:
		if !errors.Is(err, chunk.ErrNotFound) {
			r.Fatalf("pin of what is not held: %v", err)
		}
	case !m.pinned[i] && len(m.pinned) >= 2:
		if !errors.Is(err, ErrFull) {
			r.Fatalf("a third pin: %v", err)
		}
	case err != nil:
		r.Fatal(err)
	default:
		m.pinned[i] = true
	}
}

func (m *model) unpin(r *rapid.T) {
	i := m.pick(r)
	if err := m.c.Unpin(ctx, m.objects[i].ID); err != nil {
		r.Fatal(err)
	}
	delete(m.pinned, i)
}

func (m *model) rot(r *rapid.T) {
	i := m.pick(r)
	if m.held[i] && !m.rotten[i] && m.handles[i] == nil {
		rot(m.t, m.c, m.objects[i], rapid.IntRange(0, len(m.objects[i].Bytes)-1).Draw(r, "byte"))
		m.rotten[i] = true
	}
}

func (m *model) scrub(r *rapid.T) {
	s, err := m.c.Scrub(ctx, 0)
	if err != nil || s.Chunks != len(m.held) || s.Damaged != len(m.rotten) {
		r.Fatalf("Scrub = %+v, %v; want %d chunks, %d damaged", s, err, len(m.held), len(m.rotten))
	}
	for i := range m.rotten {
		m.dropped(i)
	}
}

// abort begins a deposit that comes to nothing, but may push others out.
func (m *model) abort(r *rapid.T) {
	i := m.pick(r)
	o := m.objects[i]
	d, err := m.c.Begin(o.ID, int64(len(o.Bytes)))
	if err != nil {
		return
	}
	if _, err := d.Write(o.Bytes[:rapid.IntRange(0, len(o.Bytes)).Draw(r, "bytes")]); err != nil {
		r.Fatal(err)
	}
	d.Abort()
	m.evicted()
}

// crash goes on with the directory as it is in the middle of a deposit, as after
// a kill.
func (m *model) crash(r *rapid.T) {
	o := m.objects[m.pick(r)]
	d, err := m.c.Begin(o.ID, int64(len(o.Bytes)))
	if err != nil {
		return
	}
	defer d.Abort()
	if _, err := d.Write(o.Bytes[:rapid.IntRange(0, len(o.Bytes)).Draw(r, "bytes")]); err != nil {
		r.Fatal(err)
	}
	m.evicted()
	old, dir := m.config.Dir, m.config.Dir+"x"
	if err := os.CopyFS(dir, os.DirFS(old)); err != nil {
		r.Fatal(err)
	}
	m.release()
	if err := errors.Join(m.c.Close(), os.RemoveAll(old)); err != nil {
		r.Fatal(err)
	}
	m.config.Dir = dir
	m.reopen()
	if s := m.c.Stats(); s.Orphans != 1 {
		r.Fatalf("%d temporary files were found, want 1", s.Orphans)
	}
}

func (m *model) check() {
	checkInvariants(m.t, m.c)
	if m.t.Failed() {
		m.r.FailNow()
	}
	s := m.c.Stats()
	if s.Chunks != len(m.held) || s.InUse != len(m.handles) || s.Pinned != len(m.pinned) {
		m.r.Fatalf("stats %+v; want %d chunks, %d in use, %d pinned", s, len(m.held), len(m.handles), len(m.pinned))
	}
}
