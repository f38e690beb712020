package zone_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/internal/faultproxy"
	"github.com/rivuletfs/rivulet/internal/freeport"
	"github.com/rivuletfs/rivulet/internal/openfiles"
	"github.com/rivuletfs/rivulet/store/zone"
	"github.com/rivuletfs/rivulet/store/zone/zonetest"
	"github.com/rivuletfs/rivulet/tier"
)

// processes starts n servers.
func processes(t *testing.T, program string, n int) (list []*zonetest.Process, urls []string) {
	for range n {
		p := zonetest.Start(t, program)
		list, urls = append(list, p), append(urls, p.URL())
	}
	return list, urls
}

// load reads chunks at random from many goroutines until it is told to stop, and
// counts reads that failed.
type load struct {
	stop          chan struct{}
	wait          sync.WaitGroup
	reads, failed atomic.Int64
	last          atomic.Pointer[error]
	end           func() // stops reading; may be called again
}

// check fails the test if a read has failed.
func (l *load) check(t *testing.T) {
	t.Helper()
	if err := l.last.Load(); err != nil {
		t.Errorf("%d of %d reads failed: %v", l.failed.Load(), l.reads.Load(), *err)
	}
}

func startLoad(z *zone.Zone, objects []chunktest.Object, readers int) *load {
	l := &load{stop: make(chan struct{})}
	l.end = sync.OnceFunc(func() {
		close(l.stop)
		l.wait.Wait()
	})
	for g := range readers {
		l.wait.Go(func() {
			for i := g; ; i += 7 {
				select {
				case <-l.stop:
					return
				default:
				}
				l.reads.Add(1)
				if err := read(z, &objects[i%len(objects)]); err != nil {
					l.failed.Add(1)
					l.last.Store(&err)
				}
			}
		})
	}
	return l
}

// more waits for so many more reads.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.reads.Load() + n
	eventually(t, "reads go on", func() bool { return l.reads.Load() >= want })
}

// TestNodeDies kills, restarts and freezes one server after the other under load:
// no read fails, and what an empty server lacks is put again.
func TestNodeDies(t *testing.T) {
	for _, program := range []string{zonetest.Redis, zonetest.Memcached} {
		t.Run(program, func(t *testing.T) {
			list, urls := processes(t, program, 5)
			before := openfiles.In(t)
			z := open(t, zone.Config{Nodes: urls})
			var objects []chunktest.Object
			for i := range 16 {
				objects = append(objects, chunktest.Random(uint64(i), 20_000, chunk.FrameSize))
			}
			put(t, z, objects...)
			l := startLoad(z, objects, 8)
			defer l.end()
			kills, freezes := 3, 2
			if testing.Short() {
				kills, freezes = 1, 1
			}
			for i, p := range list[:kills] {
				if err := p.Kill(); err != nil {
					t.Fatal(err)
				}
				l.more(t, 200)
				if err := p.Run(); err != nil {
					t.Fatal(err)
				}
				eventually(t, "repaired", func() bool {
					before := z.Stats().Nodes[i]
					l.more(t, 300)
					after := z.Stats().Nodes[i]
					return after.Misses == before.Misses && after.Hits > before.Hits+100
				})
			}
			for i, p := range list[3:][:freezes] {
				if err := p.Freeze(); err != nil {
					t.Fatal(err)
				}
				l.more(t, 200)
				if err := p.Thaw(); err != nil {
					t.Fatal(err)
				}
				eventually(t, "asked again", func() bool { return z.Stats().Nodes[3+i].Breaker.State == tier.Closed })
				l.more(t, 200)
			}
			l.end()
			l.check(t)
			_ = z.Close()
			if after := openfiles.In(t); after > before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
		})
	}
}

// TestDeadNodeIsLeftOut: a node that answers nothing is asked seldom, and again
// when it is back.
func TestDeadNodeIsLeftOut(t *testing.T) {
	list, urls := processes(t, zonetest.Redis, 5)
	o := chunktest.Random(1, 100_000, chunk.FrameSize)
	put(t, open(t, zone.Config{Nodes: urls}), o) // which may take its time
	z := open(t, zone.Config{Nodes: urls, Timeout: 20 * time.Millisecond})
	if err := list[2].Freeze(); err != nil {
		t.Fatal(err)
	}
	node := func() zone.NodeStats { return z.Stats().Nodes[2] }
	eventually(t, "left out", func() bool { _ = read(z, &o); return node().Skipped > 10 })
	if n := node(); n.Timeouts == 0 || n.Requests > 200 {
		t.Errorf("%d requests, %d timed out", n.Requests, n.Timeouts)
	}
	if err := list[2].Thaw(); err != nil {
		t.Fatal(err)
	}
	hits := node().Hits
	eventually(t, "asked again", func() bool { _ = read(z, &o); return node().Hits > hits+10 })
}

// TestUnavailable: with too many nodes dead a chunk is neither found nor not
// found, within the time of a request; then nobody waits any more.
func TestUnavailable(t *testing.T) {
	list, urls := processes(t, zonetest.Redis, 5)
	o := chunktest.Random(1, 100_000, chunk.FrameSize)
	put(t, open(t, zone.Config{Nodes: urls}), o)
	for _, p := range list[:2] {
		if err := p.Freeze(); err != nil {
			t.Fatal(err)
		}
	}
	z := open(t, zone.Config{Nodes: urls, Timeout: 50 * time.Millisecond})
	for range 20 {
		if err := read(z, &o); !errors.Is(err, zone.ErrUnavailable) || errors.Is(err, chunk.ErrNotFound) {
			t.Fatalf("%v, want %v", err, zone.ErrUnavailable)
		}
	}
	if n := z.Stats().Nodes[0].Skipped; n == 0 {
		t.Error("a dead node is asked each time")
	}
}

// TestNobodyQueuesForADeadNode: while a node that was dead is tried with the only
// request that it may have, others do not wait for their turn.
func TestNobodyQueuesForADeadNode(t *testing.T) {
	list, urls := servers(t, 1)
	z := open(t, zone.Config{Nodes: urls, Scheme: zone.Whole{}, Connections: 1})
	o := chunktest.Random(1, 10_000, chunk.FrameSize)
	put(t, z, o)
	fails := func(io.Writer, string, []byte) (bool, error) { return false, io.EOF }
	list[0].Behave(fails)
	eventually(t, "left out", func() bool { _ = read(z, &o); return z.Stats().Nodes[0].Skipped > 0 })
	var tried atomic.Bool
	end, done := make(chan struct{}), make(chan struct{})
	list[0].Behave(func(w io.Writer, key string, value []byte) (bool, error) {
		tried.Store(true)
		<-end
		return fails(w, key, value)
	})
	go func() {
		defer close(done)
		for !tried.Load() && t.Context().Err() == nil {
			_ = read(z, &o)
			time.Sleep(time.Millisecond)
		}
	}()
	defer func() { close(end); <-done }()
	eventually(t, "tried", tried.Load)
	skipped := z.Stats().Nodes[0].Skipped
	if err := read(z, &o); err == nil || z.Stats().Nodes[0].Skipped != skipped+1 {
		t.Errorf("%v; %d requests were not sent, want one more than %d", err, z.Stats().Nodes[0].Skipped, skipped)
	}
}

// TestSlowLinks reads through links that are slow, or cut again and again.
func TestSlowLinks(t *testing.T) {
	list, urls := servers(t, 5)
	slow, err := faultproxy.NewLink(list[0].Addr(), 50*time.Millisecond, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	urls[0] = "redis://" + slow.Addr()
	z := open(t, zone.Config{Nodes: urls})
	objects := chunktest.Objects(5)
	put(t, z, objects...)
	l := startLoad(z, objects, 4)
	defer l.end()
	for range 10 {
		l.more(t, 20)
		list[1].Cut() // its connections: they are made again
	}
	l.end()
	l.check(t)
}

// TestHedge: of two replicas one is slow at times; it is not waited for, within the
// budget of second requests.
func TestHedge(t *testing.T) {
	list, urls := servers(t, 2)
	z := open(t, zone.Config{Nodes: urls, Scheme: zone.Replicas{Hedge: 0.2}})
	o := chunktest.Random(1, 10_000, chunk.FrameSize)
	put(t, z, o)
	first := holder(t, list, key(zone.Replicas{}, &o, 0))
	for i := range 400 {
		delay := time.Duration(0)
		if i > 100 && i%10 == 0 {
			delay = time.Second
		}
		first.Delay.Store(int64(delay))
		if err := read(z, &o); err != nil {
			t.Fatal(err)
		}
	}
	if n := z.Stats().Hedged; n < 20 || n > 100 {
		t.Errorf("%d of 400 reads hedged", n)
	}
}

// TestSpread: when a chunk's nodes have more than their share to do, other nodes
// get a copy and are read from.
func TestSpread(t *testing.T) {
	list, urls := servers(t, 12)
	z := open(t, zone.Config{Nodes: urls})
	o := chunktest.Random(1, 50_000, chunk.FrameSize)
	put(t, z, o)
	if n := count(list, &o); n != 5 {
		t.Fatalf("%d stripes before", n)
	}
	for _, s := range list {
		s.Delay.Store(int64(2 * time.Millisecond))
	}
	l := startLoad(z, []chunktest.Object{o}, 64)
	defer l.end()
	answering := func(least int64) (n int) {
		for _, s := range list {
			if s.Answers.Load() >= least {
				n++
			}
		}
		return n
	}
	eventually(t, "spread", func() bool { return count(list, &o) == 10 && answering(200) == 10 })
	l.end()
	l.check(t)
	if n := answering(1); n != 10 || z.Stats().Spread == 0 {
		t.Errorf("%d nodes are read from, spread %d", n, z.Stats().Spread)
	}
}

// TestTwoDeadOfMany: in a zone of many nodes, a chunk two of whose nodes are dead is
// put on others.
func TestTwoDeadOfMany(t *testing.T) {
	list, urls := servers(t, 10)
	o := chunktest.Random(1, 50_000, chunk.FrameSize)
	put(t, open(t, zone.Config{Nodes: urls}), o) // which may take its time
	z := open(t, zone.Config{Nodes: urls, Timeout: 100 * time.Millisecond})
	for i := range 2 {
		holder(t, list, key(zone.DefaultScheme, &o, i)).Close()
	}
	eventually(t, "put and read", func() bool {
		_ = z.Put(context.Background(), o.ID, o.Bytes)
		return read(z, &o) == nil
	})
}

// TestLogin uses real servers with passwords, and TLS.
func TestLogin(t *testing.T) {
	dir := t.TempDir()
	ca := certificate(t, dir)
	users := filepath.Join(dir, "users")
	if err := os.WriteFile(users, []byte("me:secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	secure, err := freeport.Addr()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(secure)
	list := []*zonetest.Process{
		zonetest.Start(t, zonetest.Redis, "--requirepass", "secret"),
		zonetest.Start(t, zonetest.Redis, "--requirepass", "secret", "--tls-port", port,
			"--tls-cert-file", filepath.Join(dir, "cert"), "--tls-key-file", filepath.Join(dir, "key"), "--tls-auth-clients", "no"),
		zonetest.Start(t, zonetest.Memcached, "-Y", users, "-u", "root"), // who may read that file
	}
	nodes := func(password string) []string {
		return []string{
			"redis://:" + password + "@" + list[0].Addr() + "/3",
			"rediss://default:" + password + "@" + secure,
			"memcached://me:" + password + "@" + list[2].Addr(),
		}
	}
	o := chunktest.Random(1, 50_000, chunk.FrameSize)
	z := open(t, zone.Config{Nodes: nodes("secret"), Scheme: zone.Coded{K: 3, N: 3}, CAFile: ca})
	put(t, z, o)
	if err := read(z, &o); err != nil {
		t.Error(err)
	}
	for what, c := range map[string]zone.Config{
		"wrong password": {Nodes: nodes("wrong-secret"), CAFile: ca},
		"no password":    {Nodes: []string{list[0].URL(), list[2].URL()}, CAFile: ca},
		"no authority":   {Nodes: nodes("secret")[1:2]},
	} {
		c.Scheme = zone.Whole{}
		z := open(t, c)
		if err := read(z, &o); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// certificate writes a certificate for the loopback address, and its key.
func certificate(t *testing.T, dir string) (file string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: cert}, "key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "cert")
}
