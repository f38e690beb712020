package cached_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/internal/openfiles"
)

// TestComplaints has a client complain of good chunks without end, over several
// connections: most are not looked at. True ones always are.
func TestComplaints(t *testing.T) {
	o := full(1)
	d := cachedtest.Start(t, nil)
	k := talk(t, d.Socket)
	k.depositAll(k.lease(o.ID), o.Bytes)
	complain := func(k *talker) wire.Type {
		k.send(wire.Damaged, func(b []byte) []byte { return wire.AppendIDs(b, o.ID) })
		return k.next().Type
	}
	spoil(t, d.Dir, &o)
	k.get(o.ID, 0, 0, 0)
	m := k.wait(wire.Hit)
	m.Close()
	for range 50 { // the first one is true, and the others cost nothing
		if got := complain(k); got != wire.Done {
			t.Fatalf("a true complaint: %v", got)
		}
	}
	k.depositAll(k.lease(o.ID), o.Bytes)
	begun, read := time.Now(), d.Cache.Stats().ScrubbedBytes
	var done, refused int
	for range 5 {
		k := talk(t, d.Socket)
		for range 20 {
			switch complain(k) {
			case wire.Done:
				done++
			case wire.Fail:
				refused++
			}
		}
	}
	most := 16 + int(time.Since(begun).Seconds()) + 1
	if done < 16 || done > most || done+refused != 100 {
		t.Errorf("%d complaints were looked into, %d refused", done, refused)
	}
	if read = d.Cache.Stats().ScrubbedBytes - read; read < int64(done*len(o.Bytes)) || read > int64(most*(len(o.Bytes)+4096)) {
		t.Errorf("%d bytes were read for %d complaints", read, done)
	}
}

// TestDemandFindsPlace takes all the places for downloads that nobody waits for:
// more of them are refused, and one that a guest waits for is not.
func TestDemandFindsPlace(t *testing.T) {
	d := cachedtest.Start(t, func(c *cached.Config) { c.Downloads = 8 })
	list := []chunktest.Object{full(1), full(2), full(3), full(4)}
	origin := cachedtest.NewOrigin(t, list...)
	letGo := half(origin)
	defer letGo()
	k := talk(t, d.Socket)
	for i, want := range []wire.Type{wire.Done, wire.Done, wire.Fail, wire.Done} {
		o, p := &list[i], chunk.Fill
		if i == 3 {
			p = chunk.Demand
		}
		k.send(wire.Get, (&wire.Want{ID: o.ID, WaitMillis: long, Priority: p}).Append)
		r, _ := wire.ParseRight(k.wait(wire.Lease).Payload)
		k.fetch(r.Lease, origin, o.ID)
		if m := k.wait(want); want == wire.Fail && wire.Reason(m.Payload[0]) != wire.Busy {
			t.Errorf("refused: %q", m.Payload)
		}
	}
}

// spoil changes a byte in a chunk's file.
func spoil(t *testing.T, dir string, o *chunktest.Object) {
	t.Helper()
	name := o.ID.String()
	list, err := filepath.Glob(filepath.Join(dir, "chunks", name[:2], name+".*"))
	if err != nil || len(list) != 1 {
		t.Fatalf("%d files, %v", len(list), err)
	}
	f, err := os.OpenFile(list[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{o.Bytes[9000] ^ 1}, 9000)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDescriptorsSent has clients send descriptors, which no request has, and
// break the protocol. The daemon keeps none.
func TestDescriptorsSent(t *testing.T) {
	d := cachedtest.Start(t, nil)
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	fd := int(file.Fd())
	hello := append(wire.Header{Type: wire.Hello, Len: 20}.Append(nil), wire.Greeting{Version: wire.Version}.Append(nil)...)
	bad := append(wire.Header{Type: wire.Renew, Len: 3}.Append(nil), 1, 2, 3)
	before := openfiles.In(t)
	for range 8 {
		k := connect(t, d.Socket)
		if _, _, err := k.wire.Socket().WriteMsgUnix(append(hello, bad...), syscall.UnixRights(fd, fd, fd, fd), nil); err != nil {
			t.Fatal(err)
		}
		_ = k.wire.Socket().SetReadDeadline(time.Now().Add(10 * time.Second))
		for err = nil; err == nil; {
			var m wire.Message
			m, err = k.wire.Read()
			m.Close()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection is still there")
		}
		_ = k.wire.Close()
	}
	eventually(t, "descriptors are closed", func() bool { return openfiles.In(t) <= before })
}
