package cached_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/cache"
	"github.com/rivuletfs/rivulet/tier"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(childVariable); what != "" {
		child(what)
		return
	}
	goleak.VerifyTestMain(m)
}

// A talker speaks the protocol by hand.
type talker struct {
	t    testing.TB
	wire *wire.Conn
	last uint64
}

// talk connects to a daemon and is welcome.
func talk(t testing.TB, socket string) *talker {
	t.Helper()
	k := connect(t, socket)
	k.send(wire.Hello, wire.Greeting{Version: wire.Version}.Append)
	if m := k.next(); m.Type != wire.Welcome {
		t.Fatalf("%v to HELLO", m.Type)
	}
	return k
}

// connect connects to a daemon and says nothing.
func connect(t testing.TB, socket string) *talker {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	k := &talker{t: t, wire: wire.NewConn(c, true, 5*time.Second)}
	t.Cleanup(func() { _ = k.wire.Close() })
	return k
}

func (k *talker) send(kind wire.Type, payload func(b []byte) []byte) uint64 {
	k.t.Helper()
	k.last++
	if err := k.wire.Write(kind, k.last, payload, nil); err != nil {
		k.t.Fatal(err)
	}
	return k.last
}

// next returns the next message, within 10 s.
func (k *talker) next() wire.Message {
	k.t.Helper()
	_ = k.wire.Socket().SetReadDeadline(time.Now().Add(10 * time.Second))
	m, err := k.wire.Read()
	if err != nil {
		k.t.Fatal(err)
	}
	return m
}

// wait returns the next message, which must be of a kind.
func (k *talker) wait(kind wire.Type) wire.Message {
	k.t.Helper()
	m := k.next()
	if m.Type != kind {
		k.t.Fatalf("%v %q, want %v", m.Type, m.Payload, kind)
	}
	return m
}

// silent checks that nothing comes for a while.
func (k *talker) silent(d time.Duration) {
	k.t.Helper()
	_ = k.wire.Socket().SetReadDeadline(time.Now().Add(d))
	if m, err := k.wire.Read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		k.t.Fatalf("%v, %v; want silence", m.Type, err)
	}
}

func (k *talker) get(id chunk.ID, off, n, wait uint32) uint64 {
	return k.send(wire.Get, (&wire.Want{ID: id, Off: off, Len: n, WaitMillis: wait}).Append)
}

// heard waits until the daemon has looked at what was sent so far, none of which it
// answers yet.
func (k *talker) heard() {
	k.t.Helper()
	k.send(wire.Ping, nil)
	k.wait(wire.Done)
}

// eventually waits until what it is given holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: never", what)
		}
	}
}

const long = 60_000 // ms

// lease asks for a chunk that is not there and gets the lease.
func (k *talker) lease(id chunk.ID) uint64 {
	k.t.Helper()
	k.get(id, 0, 0, long)
	m := k.wait(wire.Lease)
	r, err := wire.ParseRight(m.Payload)
	if err != nil {
		k.t.Fatal(err)
	}
	return r.Lease
}

// refusal returns what a Miss or Fail says.
func (k *talker) refusal(kind wire.Type) wire.Refusal {
	k.t.Helper()
	m := k.wait(kind)
	r, err := wire.ParseRefusal(m.Payload)
	if err != nil {
		k.t.Fatal(err)
	}
	return r
}

func (k *talker) fetch(lease uint64, o *cachedtest.Origin, id chunk.ID) uint64 {
	e := wire.Errand{Lease: lease, URL: o.URL + "/" + id.String(), Fields: []wire.Field{{Name: "Authorization", Value: "Bearer " + cachedtest.Secret}}}
	b, err := e.Append(nil)
	if err != nil {
		k.t.Fatal(err)
	}
	return k.send(wire.Fetch, func(to []byte) []byte { return append(to, b...) })
}

func (k *talker) deposit(lease uint64, object []byte, off, n int) uint64 {
	return k.send(wire.Deposit, (&wire.Piece{Lease: lease, Size: uint32(len(object)), Off: uint32(off), Data: object[off : off+n]}).Append)
}

// depositAll deposits an object in pieces, which all are taken.
func (k *talker) depositAll(lease uint64, object []byte) {
	k.t.Helper()
	for off := 0; off < len(object); off += wire.MaxPiece {
		k.deposit(lease, object, off, min(wire.MaxPiece, len(object)-off))
		k.wait(wire.Done)
	}
}

// check compares what a message's descriptor leads to with an object.
func check(t testing.TB, m wire.Message, o *chunktest.Object) (checked int) {
	t.Helper()
	h, err := wire.ParseHeld(m.Payload)
	f := m.File()
	if err != nil || f == nil {
		t.Fatalf("%v with descriptor %v: %v", m.Type, f != nil, err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, h.Checked)
	if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, o.Bytes[:h.Checked]) || int(h.Size) != len(o.Bytes) {
		t.Errorf("%d bytes of %d: %v, or they differ", h.Checked, h.Size, err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the descriptor can be written to")
	}
	return int(h.Checked)
}

func full(seed uint64) chunktest.Object { return chunktest.Random(seed, chunk.Size, chunk.FrameSize) }

func quick(c *cached.Config) { c.Lease = 400 * time.Millisecond }

// TestLeasePasses has the first asker do nothing, go, give its lease back or keep
// it for ever: the next one gets it, and after its deposit both have the chunk.
func TestLeasePasses(t *testing.T) {
	for name, lose := range map[string]func(k *talker, lease uint64){
		"Hangs": func(*talker, uint64) {},
		"Goes":  func(k *talker, _ uint64) { _ = k.wire.Close() },
		"Abandons": func(k *talker, lease uint64) {
			k.send(wire.Abandon, func(b []byte) []byte { return wire.AppendNumber(b, lease) })
		},
		"DepositsHalf": func(k *talker, lease uint64) {
			o := full(1)
			k.deposit(lease, o.Bytes, 0, wire.MaxPiece)
		},
		"DepositsHalfAndGoes": func(k *talker, lease uint64) {
			o := full(1)
			k.deposit(lease, o.Bytes, 0, wire.MaxPiece)
			k.wait(wire.Done)
			_ = k.wire.Close()
		},
		"RenewsForEver": func(k *talker, lease uint64) {
			go func() {
				for k.wire.Write(wire.Renew, 99, func(b []byte) []byte { return wire.AppendNumber(b, lease) }, nil) == nil {
					time.Sleep(30 * time.Millisecond)
				}
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := full(1)
			d := cachedtest.Start(t, quick)
			a, b := talk(t, d.Socket), talk(t, d.Socket)
			lease := a.lease(o.ID)
			b.get(o.ID, 0, 0, long)
			b.silent(20 * time.Millisecond)
			lose(a, lease)
			m := b.wait(wire.Lease)
			r, _ := wire.ParseRight(m.Payload)
			b.depositAll(r.Lease, o.Bytes)
			b.get(o.ID, 0, 0, 0)
			if n := check(t, b.wait(wire.Hit), &o); n != len(o.Bytes) {
				t.Errorf("a hit with %d bytes", n)
			}
			c := talk(t, d.Socket)
			c.deposit(lease, o.Bytes, 0, 10)
			if r := c.refusal(wire.Fail); r.Reason != wire.NoLease {
				t.Errorf("a stranger's deposit: %+v", r)
			}
		})
	}
}

// TestLeaseSurvives has the holder die when its download runs.
func TestLeaseSurvives(t *testing.T) {
	o := full(1)
	d, origin := cachedtest.Start(t, quick), cachedtest.NewOrigin(t, o)
	origin.Delay(50 * time.Millisecond)
	a, b := talk(t, d.Socket), talk(t, d.Socket)
	lease := a.lease(o.ID)
	b.get(o.ID, 0, 0, long)
	a.fetch(lease, origin, o.ID)
	a.wait(wire.Done)
	_ = a.wire.Close()
	check(t, b.wait(wire.Hit), &o)
	if n := origin.Asked()[o.ID]; n != 1 {
		t.Errorf("the chunk left the origin %d times", n)
	}
}

// half answers with half of the chunk, and the rest when it is let go.
func half(o *cachedtest.Origin) (letGo func()) {
	gate := make(chan struct{})
	o.Answer(func(w http.ResponseWriter, r *http.Request, _ chunk.ID, object []byte) bool {
		if object == nil {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(object)))
		_, _ = w.Write(object[:len(object)/2])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-gate:
			_, _ = w.Write(object[len(object)/2:])
		case <-r.Context().Done():
		}
		return true
	})
	return sync.OnceFunc(func() { close(gate) })
}

// TestPart gets frames while the rest of the chunk is on its way.
func TestPart(t *testing.T) {
	o := full(1)
	d, origin := cachedtest.Start(t, quick), cachedtest.NewOrigin(t, o)
	letGo := half(origin)
	defer letGo()
	a, b := talk(t, d.Socket), talk(t, d.Socket)
	first, last := uint32(o.Header.FrameOffset(0)), uint32(o.Header.FrameOffset(7))
	lease := a.lease(o.ID)
	b.get(o.ID, first, 4096, long)
	lastOf := b.get(o.ID, last, 4096, long)
	a.fetch(lease, origin, o.ID)
	a.wait(wire.Done)
	if n := check(t, b.wait(wire.Part), &o); n < int(o.Header.FrameOffset(1)) || n > len(o.Bytes)/2 {
		t.Errorf("%d bytes are there", n)
	}
	timed := b.get(o.ID, last, 4096, 50)
	if m := b.wait(wire.Miss); m.Request != timed || wire.Reason(m.Payload[0]) != wire.Waited {
		t.Errorf("%d: %q, want %d to have waited for too long", m.Request, m.Payload, timed)
	}
	a.get(o.ID, first, 4096, long) // one who comes late has it at once
	check(t, a.wait(wire.Part), &o)
	letGo()
	m := b.next()
	if m.Request != lastOf || m.Type != wire.Hit && m.Type != wire.Part {
		t.Errorf("%v to %d", m.Type, m.Request)
	}
	check(t, m, &o)
}

// TestWrongDownload lets the origin's answers be wrong: what was checked was
// right, and the next in line brings the chunk.
func TestWrongDownload(t *testing.T) {
	o := full(1)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, _ chunk.ID, object []byte) bool{
		"bad frame": func(w http.ResponseWriter, _ *http.Request, _ chunk.ID, object []byte) bool {
			b := bytes.Clone(object)
			b[len(b)-5] ^= 1
			_, _ = w.Write(b)
			return true
		},
		"bad header": func(w http.ResponseWriter, _ *http.Request, _ chunk.ID, object []byte) bool {
			b := bytes.Clone(object)
			b[30] ^= 1
			_, _ = w.Write(b)
			return true
		},
		"another chunk": func(w http.ResponseWriter, _ *http.Request, _ chunk.ID, _ []byte) bool {
			other := full(2)
			_, _ = w.Write(other.Bytes)
			return true
		},
		"no chunk": func(w http.ResponseWriter, _ *http.Request, _ chunk.ID, _ []byte) bool {
			_, _ = io.WriteString(w, "<html>log in</html>")
			return true
		},
		"not there": func(w http.ResponseWriter, _ *http.Request, _ chunk.ID, _ []byte) bool {
			w.WriteHeader(http.StatusNotFound)
			return true
		},
		"denied": func(w http.ResponseWriter, _ *http.Request, _ chunk.ID, _ []byte) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		},
		"too long": func(w http.ResponseWriter, _ *http.Request, _ chunk.ID, _ []byte) bool {
			w.Header().Set("Content-Length", strconv.Itoa(chunk.MaxStoredSize+1))
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			var logs bytes.Buffer
			d := cachedtest.Start(t, func(c *cached.Config) { c.Logger = slog.New(slog.NewTextHandler(&logs, nil)) })
			origin := cachedtest.NewOrigin(t, o)
			origin.Answer(answer)
			a, b := talk(t, d.Socket), talk(t, d.Socket)
			lease := a.lease(o.ID)
			b.get(o.ID, 0, 0, long)
			a.fetch(lease, origin, o.ID)
			a.wait(wire.Done)
			m := b.wait(wire.Lease)
			r, _ := wire.ParseRight(m.Payload)
			b.depositAll(r.Lease, o.Bytes)
			a.get(o.ID, 0, 0, 0)
			check(t, a.wait(wire.Hit), &o)
			d.Stop(t)
			if s := logs.String(); strings.Contains(s, cachedtest.Secret) || strings.Contains(s, origin.URL) || s == "" {
				t.Errorf("the log is empty, or has an address or a token in it:\n%s", s)
			}
		})
	}
}

// TestOriginGone gives up a flight after a few leases that came to nothing: all
// who wait are told, and none of the origin's address.
func TestOriginGone(t *testing.T) {
	o := full(1)
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t)
	first := talk(t, d.Socket)
	lease := first.lease(o.ID)
	var list []*talker
	for range 5 {
		k := talk(t, d.Socket)
		k.get(o.ID, 0, 0, long)
		k.heard() // and stands in line before the next one
		list = append(list, k)
	}
	first.fetch(lease, origin, o.ID)
	first.wait(wire.Done)
	leases, misses := 1, 0
	for _, k := range list {
		m := k.next()
		if m.Type == wire.Lease {
			leases++
			r, _ := wire.ParseRight(m.Payload)
			k.fetch(r.Lease, origin, o.ID)
			k.wait(wire.Done)
			continue
		}
		misses++
		r, err := wire.ParseRefusal(m.Payload)
		if err != nil || r.Reason != wire.NoOrigin || strings.Contains(r.Text, origin.URL) || strings.Contains(r.Text, cachedtest.Secret) {
			t.Errorf("%v %+v, %v", m.Type, r, err)
		}
	}
	if leases != 3 || misses != 3 {
		t.Errorf("%d leases and %d misses, want 3 of each", leases, misses)
	}
}

// TestRaise has a prefetch that waits in line become urgent: it overtakes one that
// came before it.
func TestRaise(t *testing.T) {
	list := []chunktest.Object{full(1), full(2), full(3)}
	limit := &tier.Limit{Concurrent: 1}
	d := cachedtest.Start(t, func(c *cached.Config) { c.Limit = limit })
	origin := cachedtest.NewOrigin(t, list...)
	var mu sync.Mutex
	var order []chunk.ID
	gate := make(chan struct{})
	origin.Answer(func(_ http.ResponseWriter, _ *http.Request, id chunk.ID, _ []byte) bool {
		mu.Lock()
		order = append(order, id)
		mu.Unlock()
		<-gate
		return false
	})
	k := talk(t, d.Socket)
	for i, o := range list {
		priority := chunk.Prefetch
		if i == 0 { // takes the only place
			priority = chunk.Demand
		}
		k.send(wire.Get, (&wire.Want{ID: o.ID, WaitMillis: long, Priority: priority}).Append)
		r, _ := wire.ParseRight(k.wait(wire.Lease).Payload)
		k.fetch(r.Lease, origin, o.ID)
		k.wait(wire.Done)
		eventually(t, "in line", func() bool { s := limit.Stats(); return s.InFlight == 1 && s.Waiting == i })
	}
	k.send(wire.Raise, wire.Urgent{ID: list[2].ID, Priority: chunk.Demand}.Append)
	k.wait(wire.Done)
	close(gate)
	for _, o := range list {
		k.get(o.ID, 0, 0, long)
		check(t, k.wait(wire.Hit), &o)
	}
	if len(order) != 3 || order[1] != list[2].ID {
		t.Errorf("downloads began with %v, then %v", order[0], order[1:])
	}
}

func TestDepositRefused(t *testing.T) {
	o := full(1)
	d := cachedtest.Start(t, nil)
	bad := bytes.Clone(o.Bytes)
	bad[o.Header.Len()+10] ^= 1
	for name, c := range map[string]struct {
		do     func(k *talker, lease uint64)
		reason wire.Reason
	}{
		"wrong bytes": {func(k *talker, lease uint64) {
			k.deposit(lease, bad, 0, wire.MaxPiece)
			k.wait(wire.Done) // the frame is not whole yet
			k.deposit(lease, bad, wire.MaxPiece, wire.MaxPiece)
		}, wire.Corrupt},
		"not from the begin": {func(k *talker, lease uint64) { k.deposit(lease, o.Bytes, 10, 10) }, wire.WrongUse},
		"a piece left out": {func(k *talker, lease uint64) {
			k.deposit(lease, o.Bytes, 0, 1000)
			k.wait(wire.Done)
			k.deposit(lease, o.Bytes, 1001, 1000)
		}, wire.WrongUse},
		"another size": {func(k *talker, lease uint64) {
			k.deposit(lease, o.Bytes, 0, 1000)
			k.wait(wire.Done)
			k.deposit(lease, o.Bytes[:5000], 1000, 1000)
		}, wire.WrongUse},
		"no lease": {func(k *talker, lease uint64) { k.deposit(lease+1, o.Bytes, 0, 1000) }, wire.NoLease},
	} {
		t.Run(name, func(t *testing.T) {
			k := talk(t, d.Socket)
			lease := k.lease(o.ID)
			c.do(k, lease)
			if r := k.refusal(wire.Fail); r.Reason != c.reason {
				t.Errorf("%+v, want reason %d", r, c.reason)
			}
			_ = k.wire.Close()
		})
	}
	eventually(t, "nothing is on its way", func() bool { return d.Cache.Stats().Reserved == 0 })
	if n := d.Cache.Stats().Chunks; n != 0 {
		t.Errorf("%d chunks are left", n)
	}
}

// TestNoRoom tells everybody at once that the cache cannot take the chunk.
func TestNoRoom(t *testing.T) {
	o := full(1)
	d := cachedtest.StartIn(t, t.TempDir(), cache.Config{MaxBytes: 100_000}, nil)
	origin := cachedtest.NewOrigin(t, o)
	a, b := talk(t, d.Socket), talk(t, d.Socket)
	lease := a.lease(o.ID)
	b.get(o.ID, 0, 0, long)
	a.fetch(lease, origin, o.ID)
	a.wait(wire.Done)
	if r := b.refusal(wire.Miss); r.Reason != wire.NoRoom {
		t.Errorf("%+v", r)
	}
}

// TestRequestsRefused sends requests that a daemon must not send.
func TestRequestsRefused(t *testing.T) {
	o := full(1)
	d := cachedtest.Start(t, nil)
	k := talk(t, d.Socket)
	lease := k.lease(o.ID)
	for _, e := range []wire.Errand{
		{URL: "file:///etc/passwd"}, {URL: "gopher://host/"}, {URL: "http://"}, {URL: "http://user:pass@host/"}, {URL: "::"}, {URL: "/x"},
		{URL: "http://host/", Fields: []wire.Field{{Name: "Range", Value: "bytes=0-"}}},
		{URL: "http://host/", Fields: []wire.Field{{Name: "host", Value: "other"}}},
		{URL: "http://host/", Fields: []wire.Field{{Name: "transfer-encoding", Value: "chunked"}}},
	} {
		e.Lease = lease
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		k.send(wire.Fetch, func(to []byte) []byte { return append(to, b...) })
		if r := k.refusal(wire.Fail); r.Reason != wire.Refused {
			t.Errorf("%s %v: %+v", e.URL, e.Fields, r)
		}
	}
	k.depositAll(lease, o.Bytes) // the lease is still good
}

// TestViolations breaks the protocol in many ways: the daemon ends the
// connection, and goes on serving others.
func TestViolations(t *testing.T) {
	d := cachedtest.Start(t, nil)
	o := full(1)
	hello := func(k *talker) {
		k.send(wire.Hello, wire.Greeting{Version: wire.Version}.Append)
		k.wait(wire.Welcome)
	}
	for name, do := range map[string]func(k *talker){
		"no hello":        func(k *talker) { k.send(wire.Ping, nil) },
		"another version": func(k *talker) { k.send(wire.Hello, wire.Greeting{Version: 2}.Append) },
		"two hellos":      func(k *talker) { hello(k); k.send(wire.Hello, wire.Greeting{Version: wire.Version}.Append) },
		"nonsense":        func(k *talker) { _, _ = k.wire.Socket().Write([]byte("GET / HTTP/1.1\r\n\r\n")) },
		"an answer":       func(k *talker) { hello(k); _, _ = k.wire.Socket().Write(wire.Header{Type: wire.Done}.Append(nil)) },
		"a short request": func(k *talker) { hello(k); k.send(wire.Get, func(b []byte) []byte { return append(b, 1, 2, 3) }) },
		"too much at once": func(k *talker) {
			hello(k)
			for range cached.Outstanding + 2 {
				k.last++
				if k.wire.Write(wire.Get, k.last, (&wire.Want{ID: o.ID, WaitMillis: long}).Append, nil) != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := connect(t, d.Socket)
			do(k)
			_ = k.wire.Socket().SetReadDeadline(time.Now().Add(10 * time.Second))
			var err error
			for err == nil {
				var m wire.Message
				m, err = k.wire.Read()
				m.Close()
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still there")
			}
			talk(t, d.Socket).send(wire.Ping, nil)
		})
	}
}

// TestCloseAnswers ends a daemon while clients wait and a download runs.
func TestCloseAnswers(t *testing.T) {
	o, other := full(1), full(2)
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	letGo := half(origin)
	defer letGo()
	a, b := talk(t, d.Socket), talk(t, d.Socket)
	a.fetch(a.lease(o.ID), origin, o.ID)
	a.wait(wire.Done)
	b.get(o.ID, 0, 0, long)
	b.heard()
	a.lease(other.ID)
	d.Stop(t)
	if r := b.refusal(wire.Miss); r.Reason != wire.Closing {
		t.Errorf("%+v", r)
	}
	if _, err := b.wire.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("after that: %v", err)
	}
}

// A zone in memory.
type zone struct {
	mu      sync.Mutex
	objects map[chunk.ID][]byte
	bad     bool
	filled  chan chunk.ID
}

func (z *zone) Fetch(_ context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	b, ok := z.objects[id]
	if !ok {
		return 0, fmt.Errorf("zone: %w", chunk.ErrNotFound)
	}
	n := copy(dst, b[min(off, int64(len(b))):])
	if z.bad {
		dst[n-1] ^= 1
	}
	return n, nil
}

func (z *zone) Fill(id chunk.ID, object []byte) {
	z.mu.Lock()
	z.objects[id] = bytes.Clone(object)
	z.mu.Unlock()
	z.filled <- id
}

// TestZone reads what the zone has from there, fills it with what came from an
// origin, and believes nothing that it says.
func TestZone(t *testing.T) {
	o, big, fresh := full(1), chunktest.Random(3, chunk.MaxSize, chunk.FrameSize), full(2)
	z := &zone{objects: map[chunk.ID][]byte{o.ID: o.Bytes, big.ID: big.Bytes}, filled: make(chan chunk.ID, 9)}
	d := cachedtest.Start(t, func(c *cached.Config) { c.Zone = z })
	origin := cachedtest.NewOrigin(t, fresh)
	k := talk(t, d.Socket)
	for _, have := range []chunktest.Object{o, big} {
		k.get(have.ID, 0, 0, long)
		check(t, k.wait(wire.Hit), &have)
	}
	k.fetch(k.lease(fresh.ID), origin, fresh.ID)
	k.wait(wire.Done)
	if id := <-z.filled; id != fresh.ID {
		t.Errorf("filled with %v", id)
	}
	z.mu.Lock()
	z.bad = true
	z.objects[full(4).ID] = full(4).Bytes
	z.mu.Unlock()
	k.lease(full(4).ID)
	if s := d.Server.Stats(); s.ZoneHits != 2 || s.ZoneMisses != 2 {
		t.Errorf("%d hits and %d misses in the zone", s.ZoneHits, s.ZoneMisses)
	}
}
