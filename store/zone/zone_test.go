package zone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/zone"
	"github.com/rivuletfs/rivulet/store/zone/zonetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// schemes are those that all tests of reading run with.
var schemes = map[string]zone.Scheme{
	"whole":    zone.Whole{},
	"replicas": zone.Replicas{},
	"4of5":     zone.Coded{K: 4, N: 5},
	"1of3":     zone.Coded{K: 1, N: 3},
	"3of3":     zone.Coded{K: 3, N: 3},
	"6of9":     zone.Coded{K: 6, N: 9},
}

// servers starts n servers and returns them with their addresses.
func servers(t testing.TB, n int) ([]*zonetest.Server, []string) {
	var list []*zonetest.Server
	var urls []string
	for range n {
		s := zonetest.NewServer(t)
		list, urls = append(list, s), append(urls, s.URL())
	}
	return list, urls
}

// open opens a zone for the time of a test. Time is no matter unless it says so.
func open(t testing.TB, c zone.Config) *zone.Zone {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout, c.MinTimeout = 20*time.Second, 20*time.Second
	}
	z, err := zone.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = z.Close() })
	return z
}

// put puts objects and fails if one cannot be.
func put(t testing.TB, z *zone.Zone, objects ...chunktest.Object) {
	t.Helper()
	for _, o := range objects {
		if err := z.Put(context.Background(), o.ID, o.Bytes); err != nil {
			t.Fatalf("Put: %v", err)
		}
	}
}

// read reads a whole object and reports what is wrong with it.
func read(z chunk.Source, o *chunktest.Object) error {
	got := make([]byte, len(o.Bytes)+1)
	n, err := z.Fetch(context.Background(), o.ID, got, 0)
	if err == nil && !bytes.Equal(got[:n], o.Bytes) {
		err = fmt.Errorf("%d bytes, want %d; or they differ", n, len(o.Bytes))
	}
	return err
}

// eventually waits until what it is given holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: never", what)
		}
	}
}

// healed waits until what it is given holds after reads. One may not do: requests
// that have not been sent when a chunk is rebuilt are not sent.
func healed(t *testing.T, z *zone.Zone, o *chunktest.Object, holds func() bool) {
	t.Helper()
	eventually(t, "healed", func() bool {
		if holds() {
			return true
		}
		if err := read(z, o); err != nil {
			t.Fatal(err)
		}
		return false
	})
}

// small returns those of chunktest's objects whose chunks are small.
func small() []chunktest.Object {
	objects := chunktest.Objects(1)
	return append(objects[:4:4], objects[7])
}

// TestSource runs the suite of sources with every scheme, on both protocols, and
// with fewer nodes than stripes. Chunks are small: all of one is fetched each time.
func TestSource(t *testing.T) {
	objects := small()
	for name, scheme := range schemes {
		for _, nodes := range []int{1, 9} {
			if testing.Short() && nodes == 1 && name != "4of5" {
				continue // it is the placement's matter, and that knows no schemes
			}
			t.Run(fmt.Sprintf("%s on %d", name, nodes), func(t *testing.T) {
				list, urls := servers(t, nodes)
				for i := range urls {
					if i%2 == 1 {
						urls[i] = "memcached://" + list[i].Addr()
					}
				}
				z := open(t, zone.Config{Nodes: urls, Scheme: scheme})
				for _, o := range objects {
					z.Fill(o.ID, o.Bytes)
				}
				eventually(t, "filled", func() bool { return z.Stats().Fills == int64(len(objects)) })
				chunktest.TestSource(t, z, objects)
			})
		}
	}
}

// TestServers runs the suites against the servers that people operate, and reads
// chunks of all sizes with every scheme.
func TestServers(t *testing.T) {
	programs := []string{zonetest.Redis, zonetest.Memcached}
	if _, err := exec.LookPath(zonetest.Valkey); err == nil { // not every distribution has it
		programs = append(programs, zonetest.Valkey)
	}
	for _, program := range programs {
		t.Run(program, func(t *testing.T) {
			var urls []string
			for range 5 {
				urls = append(urls, zonetest.Start(t, program).URL())
			}
			for name, scheme := range schemes {
				z := open(t, zone.Config{Nodes: urls, Scheme: scheme})
				objects := chunktest.Objects(1)
				put(t, z, objects...)
				for _, o := range objects {
					if err := read(z, &o); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				if name == "4of5" {
					chunktest.TestSource(t, z, small())
					chunktest.TestReader(t, chunk.NewDoor(z), small())
				}
			}
		})
	}
}

// TestLost takes stripes away, all sets of them: a chunk is there if enough are
// left, and then the others come back; else it is not found.
func TestLost(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			list, urls := servers(t, 9)
			z := open(t, zone.Config{Nodes: urls, Scheme: scheme})
			k, n := need(scheme)
			for lost := range 1 << n {
				if n == 9 && lost%7 != 0 {
					continue // some will do
				}
				o := chunktest.Random(uint64(lost), 70_000, chunk.FrameSize)
				put(t, z, o)
				left := n
				for i := range n {
					if lost>>i&1 == 1 {
						remove(list, key(scheme, &o, i))
						left--
					}
				}
				err := read(z, &o)
				switch {
				case left >= k && err != nil:
					t.Fatalf("%b lost: %v", lost, err)
				case left < k && !errors.Is(err, chunk.ErrNotFound):
					t.Fatalf("%b lost: %v, want ErrNotFound", lost, err)
				case left >= k && name != "replicas": // a second replica is not looked at unless the first one is lost
					healed(t, z, &o, func() bool { return count(list, &o) == n })
				}
			}
			if s := z.Stats(); s.Bad != 0 || s.Failed != 0 {
				t.Errorf("bad %d, failed %d", s.Bad, s.Failed)
			}
		})
	}
}

// need returns how many stripes a scheme needs, and how many there are.
func need(s zone.Scheme) (k, n int) {
	switch s := s.(type) {
	case zone.Coded:
		return s.K, s.N
	case zone.Replicas:
		return 1, 2
	}
	return 1, 1
}

func key(s zone.Scheme, o *chunktest.Object, i int) string {
	k, n := need(s)
	return fmt.Sprintf("rvz1:%v:%d:%d:%d", o.ID, k, n, i)
}

func remove(list []*zonetest.Server, key string) {
	for _, s := range list {
		s.SetValue(key, nil)
	}
}

// holder returns the server that holds a key.
func holder(t *testing.T, list []*zonetest.Server, key string) *zonetest.Server {
	t.Helper()
	for _, s := range list {
		if s.Value(key) != nil {
			return s
		}
	}
	t.Fatalf("nobody holds %s", key)
	return nil
}

// count returns how many stripes of a chunk there are.
func count(list []*zonetest.Server, o *chunktest.Object) (n int) {
	for _, s := range list {
		for _, k := range s.Keys() {
			if k[5:69] == o.ID.String() {
				n++
			}
		}
	}
	return n
}

// TestFlips flips a bit of a stripe, of every byte of its header and of many of its
// payload, in each stripe: it is never served, and put right by the read.
func TestFlips(t *testing.T) {
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			list, urls := servers(t, 9)
			z := open(t, zone.Config{Nodes: urls, Scheme: scheme})
			o := chunktest.Random(7, 20_000, chunk.FrameSize)
			put(t, z, o)
			k, n := need(scheme)
			for i := range n {
				if testing.Short() && i > 1 && i < n-1 {
					continue
				}
				key := key(scheme, &o, i)
				s := holder(t, list, key)
				good := s.Value(key)
				for at := 0; at < len(good); at += step(at, len(good)) {
					bad := bytes.Clone(good)
					bad[at] ^= 1 << (at % 8)
					s.SetValue(key, bad)
					err := read(z, &o)
					if n > k && err != nil || n == k && err == nil {
						t.Fatalf("bit of byte %d of stripe %d: %v", at, i, err)
					}
					if name == "replicas" && i == 1 { // not looked at
						s.SetValue(key, good)
						continue
					}
					if n == k { // gone, and to be filled again
						eventually(t, "removed", func() bool { return s.Value(key) == nil })
						put(t, z, o)
					}
					healed(t, z, &o, func() bool { return bytes.Equal(s.Value(key), good) })
				}
			}
			if s := z.Stats(); s.Bad == 0 || s.Forged != 0 {
				t.Errorf("%d bad, %d forged", s.Bad, s.Forged)
			}
		})
	}
}

// step goes over the header by the byte, then faster, and over the end by the byte
// again.
func step(at, size int) int {
	if at < 64 || at > size-8 {
		return 1
	}
	return min(997, size-8-at+1)
}

// TestLengths cuts and grows values.
func TestLengths(t *testing.T) {
	list, urls := servers(t, 5)
	z := open(t, zone.Config{Nodes: urls})
	o := chunktest.Random(7, 20_000, chunk.FrameSize)
	put(t, z, o)
	key := key(zone.DefaultScheme, &o, 2)
	s := holder(t, list, key)
	good := s.Value(key)
	for _, bad := range [][]byte{
		{}, good[:1], good[:47], good[:48], good[:len(good)-1], append(bytes.Clone(good), 0),
		make([]byte, len(good)), make([]byte, 2<<20), // longer than any stripe
	} {
		s.SetValue(key, bad)
		if err := read(z, &o); err != nil {
			t.Fatalf("%d bytes: %v", len(bad), err)
		}
		healed(t, z, &o, func() bool { return bytes.Equal(s.Value(key), good) })
	}
}

func TestFillRefuses(t *testing.T) {
	list, urls := servers(t, 5)
	z := open(t, zone.Config{Nodes: urls})
	o := chunktest.Random(7, 20_000, chunk.FrameSize)
	bad := bytes.Clone(o.Bytes)
	bad[len(bad)-1] ^= 1
	for _, object := range [][]byte{nil, bad, make([]byte, chunk.MaxStoredSize+1)} {
		z.Fill(o.ID, object)
		var corrupt *chunk.CorruptError
		if err := z.Put(context.Background(), o.ID, object); !errors.As(err, &corrupt) {
			t.Errorf("Put of %d bytes: %v", len(object), err)
		}
	}
	eventually(t, "refused", func() bool { return z.Stats().Unfilled >= 4 })
	if count(list, &o) != 0 {
		t.Error("something was put")
	}
}

// TestFillIsBounded fills more than is taken in while no node answers.
func TestFillIsBounded(t *testing.T) {
	list, urls := servers(t, 5)
	for _, s := range list {
		s.Delay.Store(int64(time.Second))
	}
	z := open(t, zone.Config{Nodes: urls, FillBytes: 1 << 20})
	for i := range 100 {
		o := chunktest.Random(uint64(i), 100_000, chunk.FrameSize)
		z.Fill(o.ID, o.Bytes)
		z.Fill(o.ID, o.Bytes) // waits already
		clear(o.Bytes)        // nobody may have kept it
	}
	s := z.Stats()
	if s.Queued > 1<<20 || s.Dropped < 80 {
		t.Errorf("%d bytes wait, %d were dropped", s.Queued, s.Dropped)
	}
	for _, s := range list {
		s.Delay.Store(0)
	}
	eventually(t, "what was taken in is put", func() bool { s := z.Stats(); return s.Queued == 0 && s.Fills+s.Dropped >= 100 })
	if s := z.Stats(); s.Unfilled != 0 {
		t.Errorf("%d objects had changed", s.Unfilled)
	}
}

// TestCloseUnderLoad closes zones that are read and filled.
func TestCloseUnderLoad(t *testing.T) {
	_, urls := servers(t, 9)
	objects := chunktest.Objects(1)[:4]
	for name, scheme := range schemes {
		t.Run(name, func(t *testing.T) {
			z := open(t, zone.Config{Nodes: urls, Scheme: scheme})
			put(t, z, objects...)
			l := startLoad(z, objects, 8)
			l.more(t, 100)
			for _, o := range objects {
				z.Fill(o.ID, o.Bytes)
			}
			if err := z.Close(); err != nil {
				t.Error(err)
			}
			requests := z.Stats().Nodes
			l.end()
			for i, n := range z.Stats().Nodes {
				if n.Requests != requests[i].Requests || n.InFlight != 0 {
					t.Errorf("node %d: %d requests after Close, %d in flight", i, n.Requests-requests[i].Requests, n.InFlight)
				}
			}
		})
	}
}

func TestClosed(t *testing.T) {
	_, urls := servers(t, 5)
	z := open(t, zone.Config{Nodes: urls})
	o := chunktest.Random(7, 20_000, chunk.FrameSize)
	put(t, z, o)
	for range 2 {
		if err := z.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := read(z, &o); err == nil || errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("read: %v", err)
	}
	if err := z.Put(context.Background(), o.ID, o.Bytes); err == nil {
		t.Error("put after Close")
	}
	z.Fill(o.ID, o.Bytes)
}
