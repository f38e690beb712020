package s3

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/internal/faultproxy"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/origin/origintest"
	"github.com/rivuletfs/rivulet/origin/place"
	"github.com/rivuletfs/rivulet/store/s3/s3test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// behind starts a proxy before the server, and opens an origin through it.
func behind(t *testing.T, server *s3test.Server, bucket string) (*Origin, *faultproxy.Server) {
	t.Helper()
	proxy, err := faultproxy.NewServer(server.Endpoint.Host, nil, 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	return open(t, server.Via(proxy.Addr(), bucket, "")), proxy
}

func set(t *testing.T, p *faultproxy.Server, f faultproxy.Faults, retryAfter time.Duration) {
	t.Helper()
	if err := p.Set(f, retryAfter); err != nil {
		t.Fatal(err)
	}
}

// TestFaults publishes and reads through a server and a network that misbehave
// in every way: what is read through a door is right or an error.
func TestFaults(t *testing.T) {
	server := s3test.Start(t)
	o, proxy := behind(t, server, server.NewBucket(t))
	s := o.Generation(1)
	set(t, proxy, faultproxy.Faults{
		faultproxy.Unavailable: 0.03, faultproxy.TooMany: 0.02, faultproxy.Reset: 0.03, faultproxy.LostAnswer: 0.03,
		faultproxy.Truncate: 0.03, faultproxy.Short: 0.02, faultproxy.HalfClose: 0.05,
	}, 0)
	objects := chunktest.Objects(1)
	for i := range objects {
		if _, err := s.Put(ctx, objects[i].ID, objects[i].Bytes); err != nil {
			t.Fatalf("Put: %v", err)
		}
	}
	data := bytes.Repeat([]byte("block map "), 50_000)
	d, err := s.PutObject(ctx, data)
	if err != nil {
		t.Fatal(err)
	}
	set(t, proxy, faultproxy.Faults{
		faultproxy.Unavailable: 0.02, faultproxy.Reset: 0.02, faultproxy.LostAnswer: 0.02, faultproxy.Truncate: 0.04,
		faultproxy.Short: 0.04, faultproxy.Flip: 0.08, faultproxy.HalfClose: 0.04,
	}, 0)
	var wrong, failed atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			door := chunk.NewDoor(s) // headers are not remembered by the others
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for range 40 {
				c := &objects[rng.IntN(len(objects))]
				off := rng.Int64N(int64(len(c.Bytes)))
				got := make([]byte, rng.Int64N(int64(len(c.Bytes))-off)+1)
				n, err := door.ReadChunk(ctx, c.ID, got, off)
				if err != nil {
					failed.Add(1)
				} else if !bytes.Equal(got[:n], c.Bytes[off:off+int64(len(got))]) {
					wrong.Add(1)
				}
			}
		})
	}
	wg.Wait()
	for range 20 {
		if b, err := s.GetObject(ctx, d, origin.MaxObjectBytes); err == nil && !bytes.Equal(b, data) {
			wrong.Add(1)
		}
	}
	requests, counts := proxy.Requests()
	t.Logf("%d requests, faults %v; %d of 320 reads failed", requests, counts, failed.Load())
	if wrong.Load() != 0 {
		t.Errorf("%d reads were wrong", wrong.Load())
	}
	if counts[faultproxy.Flip] < 5 || counts[faultproxy.Truncate] < 5 {
		t.Errorf("too few faults to tell: %v", counts)
	}
	if n := failed.Load(); n == 0 || n > 160 {
		t.Errorf("%d of 320 reads failed; want those alone that met with flipped bits", n)
	}
}

// TestLostAnswers counts in a pointer while answers are lost. A change that was
// reported as made is made once; only those count twice or not whose outcome
// was reported as unknown.
func TestLostAnswers(t *testing.T) {
	server := s3test.Start(t)
	o, proxy := behind(t, server, server.NewBucket(t))
	set(t, proxy, faultproxy.Faults{faultproxy.LostAnswer: 0.1, faultproxy.Reset: 0.05}, 0)
	var made, unknown atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				switch err := increment(o, "counter"); {
				case err == nil:
					made.Add(1)
				case errors.Is(err, ErrUnknownOutcome):
					unknown.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	set(t, proxy, nil, 0)
	v, err := o.GetPointer(ctx, "counter")
	n, _ := strconv.ParseInt(string(v), 10, 64)
	_, counts := proxy.Requests()
	t.Logf("counter %d, made %d, unknown %d, faults %v", n, made.Load(), unknown.Load(), counts)
	if err != nil || n < made.Load() || n > made.Load()+unknown.Load() {
		t.Errorf("counter %d, %v: want from %d to %d", n, err, made.Load(), made.Load()+unknown.Load())
	}
	if counts[faultproxy.LostAnswer] < 5 {
		t.Errorf("too few faults to tell: %v", counts)
	}
}

func increment(p origin.Pointers, name string) error {
	for {
		old, err := p.GetPointer(ctx, name)
		if err != nil && !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
		n, _ := strconv.Atoi(string(old))
		err = p.SwapPointer(ctx, name, old, strconv.AppendInt(nil, int64(n+1), 10))
		if !errors.Is(err, origin.ErrConflict) {
			return err
		}
	}
}

// TestAttachTogether has many attach at once, and checks that the index has all.
func TestAttachTogether(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.NewBucket(t)
	o := open(t, server.URL(bucket, ""))
	s, subject := o.Generation(1), origin.Sum([]byte("subject"))
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			if err := s.Attach(ctx, subject, "note", []byte{byte(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	origintest.WantIndex(t, filepath.Join(server.Dir, bucket), subject, 12)
}

// TestFullPageOfAttachments lists as many as fill a page together with the index,
// which is none of them and comes last.
func TestFullPageOfAttachments(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.NewBucket(t)
	s, subject := open(t, server.URL(bucket, "")).Generation(1), origin.Sum([]byte("subject"))
	if err := s.Attach(ctx, subject, "note", []byte("0")); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(server.Dir, bucket, place.Generation(1), place.Attached(subject, "note"))
	for i := range pageKeys - 1 {
		data := strconv.AppendInt(nil, int64(i), 10)
		d := origin.Sum(data)
		if err := os.WriteFile(filepath.Join(folder, hex.EncodeToString(d[:])), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[string]bool)
	err := s.ListAttachments(ctx, subject, "note", func(data []byte) error {
		seen[string(data)] = true
		return nil
	})
	if err != nil || len(seen) != pageKeys-1 {
		t.Errorf("%d attachments, %v; want %d", len(seen), err, pageKeys-1)
	}
}

// TestHalfClosed has the server end each connection after one answer, without
// a word: no request fails for it, and no retry is spent on it.
func TestHalfClosed(t *testing.T) {
	server := s3test.Start(t)
	o, proxy := behind(t, server, server.NewBucket(t))
	o.policy.Budget.Burst, o.policy.Budget.PerSecond = 0, 0
	set(t, proxy, faultproxy.Faults{faultproxy.HalfClose: 1}, 0)
	s := o.Generation(1)
	for i := range 30 {
		c := chunktest.Random(uint64(i), 300_000, chunk.FrameSize)
		if added, err := s.Put(ctx, c.ID, c.Bytes); err != nil || !added {
			t.Fatalf("Put = %v, %v", added, err)
		}
		got := make([]byte, len(c.Bytes))
		if n, err := s.Fetch(ctx, c.ID, got, 0); err != nil || !bytes.Equal(got[:n], c.Bytes) {
			t.Fatalf("Fetch: %d bytes, %v", n, err)
		}
	}
}

// TestHang checks that a request that is never answered ends with its context.
func TestHang(t *testing.T) {
	server := s3test.Start(t)
	o, proxy := behind(t, server, server.NewBucket(t))
	s := o.Generation(1)
	c := chunktest.Random(1, 1000, chunk.FrameSize)
	if _, err := s.Put(ctx, c.ID, c.Bytes); err != nil {
		t.Fatal(err)
	}
	set(t, proxy, faultproxy.Faults{faultproxy.Hang: 1}, 0)
	for name, call := range map[string]func(ctx context.Context) error{
		"Fetch":       func(ctx context.Context) error { _, err := s.Fetch(ctx, c.ID, make([]byte, 10), 0); return err },
		"Put":         func(ctx context.Context) error { _, err := s.Put(ctx, c.ID, c.Bytes); return err },
		"List":        func(ctx context.Context) error { return s.List(ctx, func(chunk.ID, int64) error { return nil }) },
		"GetPointer":  func(ctx context.Context) error { _, err := s.GetPointer(ctx, "p"); return err },
		"SwapPointer": func(ctx context.Context) error { return s.SwapPointer(ctx, "p", nil, []byte("v")) },
		"Delete":      func(ctx context.Context) error { return o.DeleteGeneration(ctx, 1, func(int) {}) },
	} {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		err := call(short)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v; want DeadlineExceeded", name, err)
		}
	}
}

// TestStorm has the server refuse everything: few requests are made, and the
// error says what is wrong.
func TestStorm(t *testing.T) {
	server := s3test.Start(t)
	o, proxy := behind(t, server, server.NewBucket(t))
	before, _ := proxy.Requests()
	set(t, proxy, faultproxy.Faults{faultproxy.Unavailable: 1}, 0)
	short, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			_, err := o.Generation(1).Fetch(short, chunktest.Absent, make([]byte, 10), 0)
			if err == nil || !strings.Contains(err.Error(), chunktest.Absent.String()) || !strings.Contains(err.Error(), "try again later") {
				t.Errorf("Fetch = %v", err)
			}
		})
	}
	wg.Wait()
	after, _ := proxy.Requests()
	if n := after - before; n > 100+32+4*4+20 {
		t.Errorf("%d requests for 100 operations in 4 s", n)
	}
}

// TestRepair puts what is there already, damaged: of another size, and with
// another sum than the server keeps.
func TestRepair(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.NewBucket(t)
	for _, mode := range []string{"put first", "ask first"} {
		for _, damage := range []string{"size", "sum"} {
			t.Run(mode+", "+damage, func(t *testing.T) {
				o := open(t, server.URL(bucket, strings.ReplaceAll(mode+damage, " ", "")))
				s := o.generation(1)
				if mode == "ask first" {
					o.presence.score.Store(mostPresence)
				}
				c := chunktest.Random(1, 1000, chunk.FrameSize)
				bad := bytes.Clone(c.Bytes)
				bad[len(bad)-1] ^= 1
				if damage == "size" {
					bad = bad[:10]
				}
				u := newUpload(s.chunkKey(c.ID), bad, cacheForever)
				u.checksum = true
				if _, err := s.put(ctx, u, condition{}); err != nil {
					t.Fatal(err)
				}
				for _, want := range []bool{true, false} {
					if added, err := s.Put(ctx, c.ID, c.Bytes); err != nil || added != want {
						t.Errorf("Put = %v, %v; want %v, nil", added, err, want)
					}
				}
				got := make([]byte, len(c.Bytes))
				if n, err := s.Fetch(ctx, c.ID, got, 0); err != nil || !bytes.Equal(got[:n], c.Bytes) {
					t.Errorf("%d bytes, %v, or they differ", n, err)
				}
			})
		}
	}
}

// TestPresence counts requests: what is new is put without asking, and once
// much is there, it is not sent.
func TestPresence(t *testing.T) {
	f := newFake(t)
	s := f.open(t).Generation(1)
	put := func(from, to int, want bool) {
		t.Helper()
		for i := range to - from {
			c := chunktest.Random(uint64(from+i), 100, chunk.FrameSize)
			if added, err := s.Put(ctx, c.ID, c.Bytes); err != nil || added != want {
				t.Fatalf("Put = %v, %v; want %v", added, err, want)
			}
		}
	}
	put(0, 1, true) // asks for abilities
	f.count(http.MethodPut)
	f.count(http.MethodHead)
	put(1, 101, true)
	if puts, heads := f.count(http.MethodPut), f.count(http.MethodHead); puts != 100 || heads != 0 {
		t.Errorf("100 new: %d puts, %d heads", puts, heads)
	}
	put(0, 100, false)
	if puts, heads := f.count(http.MethodPut), f.count(http.MethodHead); puts > mostPresence || heads != 100 {
		t.Errorf("100 old: %d puts, %d heads", puts, heads)
	}
	put(101, 201, true)
	if puts, heads := f.count(http.MethodPut), f.count(http.MethodHead); puts != 100 || heads > mostPresence {
		t.Errorf("100 new again: %d puts, %d heads", puts, heads)
	}
}

// TestLesserServers is about servers that ignore conditions, or refuse them or
// sums.
func TestLesserServers(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(f *fake)
		want    features
	}{
		"full":               {func(*fake) {}, features{true, true, true}},
		"ignores conditions": {func(f *fake) { f.noConditions = true }, features{false, false, true}},
		"refuses conditions": {func(f *fake) {
			f.refuse = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
				conditional := r.Header.Get("If-Match") != "" || r.Header.Get("If-None-Match") != ""
				return conditional && answerError(w, r, 501, "NotImplemented", "no", "")
			}
		}, features{false, false, false}},
		"refuses sums": {func(f *fake) {
			f.refuse = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
				return r.Header.Get("X-Amz-Checksum-Sha256") != "" && answerError(w, r, 400, "InvalidRequest", "no", "")
			}
		}, features{true, true, false}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			c.prepare(f)
			o := f.open(t)
			got, err := o.abilities(ctx)
			if err != nil || got != c.want {
				t.Fatalf("%+v, %v; want %+v", got, err, c.want)
			}
			s := o.Generation(1)
			for i := range 2 {
				x := chunktest.Random(1, 100, chunk.FrameSize)
				if added, err := s.Put(ctx, x.ID, x.Bytes); err != nil || added != (i == 0) {
					t.Errorf("Put = %v, %v", added, err)
				}
			}
			for _, step := range [][2][]byte{{nil, []byte("a")}, {[]byte("a"), []byte("b")}, {[]byte("b"), nil}, {nil, nil}, {nil, []byte("c")}} {
				if err := o.SwapPointer(ctx, "p", step[0], step[1]); err != nil {
					t.Errorf("from %q to %q: %v", step[0], step[1], err)
				}
				if err := o.SwapPointer(ctx, "p", []byte("other"), []byte("x")); !errors.Is(err, origin.ErrConflict) {
					t.Errorf("from another: %v; want ErrConflict", err)
				}
			}
			strict := f.open(t, func(c *Config) { c.Strict = true })
			err = strict.SwapPointer(ctx, "q", nil, []byte("v"))
			if (err == nil) != c.want.swap {
				t.Errorf("strict: %v", err)
			}
		})
	}
}

// TestPages lists and deletes more than one request can.
func TestPages(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.NewBucket(t)
	o := open(t, server.URL(bucket, "p"))
	const many = 2500
	for i := range many {
		path := filepath.Join(server.Dir, bucket, "p", place.Generation(3), place.Hashed(place.Chunks, origin.Sum(fmt.Append(nil, i))))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[chunk.ID]bool{}
	err := o.Generation(3).List(ctx, func(id chunk.ID, size int64) error { seen[id] = size == 1; return nil })
	if err != nil || len(seen) != many {
		t.Errorf("%d listed, %v; want %d", len(seen), err, many)
	}
	told := 0
	if err := o.DeleteGeneration(ctx, 3, func(n int) { told = n }); err != nil || told != many {
		t.Errorf("%d removed, %v; want %d", told, err, many)
	}
	if _, err := os.Stat(filepath.Join(server.Dir, bucket, "p", "generations", "3")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is left: %v", err)
	}
}

// TestConnections checks the bound.
func TestConnections(t *testing.T) {
	f := newFake(t)
	var now, most atomic.Int64
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(5 * time.Millisecond)
		f.ServeHTTP(w, r)
	}))
	defer slow.Close()
	o := open(t, "s3://bucket?connections=3&endpoint="+slow.URL)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := o.GetPointer(ctx, "p"); !errors.Is(err, chunk.ErrNotFound) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 3 {
		t.Errorf("%d requests at once, want 3", most.Load())
	}
}

// TestTombstone checks that a removed pointer is absent to all.
func TestTombstone(t *testing.T) {
	server := s3test.Start(t)
	o := open(t, server.URL(server.NewBucket(t), ""))
	for range 3 {
		if err := o.SwapPointer(ctx, "p", nil, []byte("v")); err != nil {
			t.Fatal(err)
		}
		if err := o.SwapPointer(ctx, "p", []byte("v"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := o.GetPointer(ctx, "p"); !errors.Is(err, chunk.ErrNotFound) {
			t.Errorf("GetPointer: %v; want ErrNotFound", err)
		}
		if err := o.ListPointers(ctx, "", func(name string) error { return errors.New(name) }); err != nil {
			t.Errorf("listed: %v", err)
		}
	}
	origintest.TestPointerRace(t, o) // on a name that has never been there
}
