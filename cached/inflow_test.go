package cached

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/cache"
)

// TestInflowsForgotten has a client begin deposits and give up the lease, again
// and again: the daemon keeps none of them.
func TestInflowsForgotten(t *testing.T) {
	disk, err := cache.Open(context.Background(), cache.Config{Dir: filepath.Join(t.TempDir(), "cache"), MaxBytes: 1 << 28})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = disk.Close() }()
	s, err := New(Config{Cache: disk})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := newConn(s, oneSocket(t), peer{})
	for i := range uint64(20) {
		o := chunktest.Random(i, 70_000, 1<<16)
		s.join(c, i, &wire.Want{ID: o.ID, WaitMillis: 60_000})
		a := <-c.queue
		right, err := wire.ParseRight(a.payload(nil))
		if err != nil {
			t.Fatalf("%v: %v", a.kind, err)
		}
		p := wire.Piece{Lease: right.Lease, Size: uint32(len(o.Bytes)), Data: o.Bytes[:5000]}
		if err := c.deposit(&wire.Message{Payload: p.Append(nil)}); err != nil {
			t.Fatal(err)
		}
		abandon := wire.Message{Header: wire.Header{Type: wire.Abandon}, Payload: wire.AppendNumber(nil, right.Lease)}
		if err := c.keep(&abandon); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.inflows); n > 1 {
		t.Errorf("%d deposits are remembered", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.begun != 0 || len(s.flights) != 0 || len(s.leases) != 0 {
		t.Errorf("%d flights begun, %d in the table, %d leases", c.begun, len(s.flights), len(s.leases))
	}
}

// TestUnreadAnswers ends the connection of a client that leaves answers in the queue
// for too long, however slowly it reads: what they keep from eviction is let go.
func TestUnreadAnswers(t *testing.T) {
	disk, err := cache.Open(context.Background(), cache.Config{Dir: filepath.Join(t.TempDir(), "cache"), MaxBytes: 1 << 28})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = disk.Close() }()
	s, err := New(Config{Cache: disk})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := newConn(s, oneSocket(t), peer{})
	released := 0
	a := answer{kind: wire.Done, release: func() { released++ }}
	c.later(a)
	c.later(a)
	a.queued = time.Now().Add(-queueTime - time.Second)
	c.queue <- a
	c.later(a)
	s.running.Add(1)
	c.sendLater() // returns when the connection is over
	if released != 4 || !c.gone {
		t.Errorf("%d of 4 answers let go, gone %v", released, c.gone)
	}
}

// oneSocket returns a connection whose other end is open and reads nothing.
func oneSocket(t *testing.T) *net.UnixConn {
	t.Helper()
	address := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"}
	l, err := net.ListenUnix("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	other, err := net.DialUnix("unix", nil, address)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = other.Close(), socket.Close() })
	return socket
}
