package cached_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/cache"
	"github.com/rivuletfs/rivulet/tier"
)

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
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
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
