package cached_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
)

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

// next returns the next message, within 30 s.
func (k *talker) next() wire.Message {
	k.t.Helper()
	_ = k.wire.Socket().SetReadDeadline(time.Now().Add(30 * time.Second))
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
