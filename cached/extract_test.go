package cached_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/cache"
)

// extractOf returns e's object of o.
func extractOf(o *chunktest.Object, e chunk.Extract) []byte {
	b := bytes.Clone(o.Bytes[:o.Header.Len()])
	for i := range o.Header.Frames {
		if e.Has(i) {
			b = append(b, o.Bytes[o.Header.FrameOffset(i):o.Header.FrameOffset(i+1)]...)
		}
	}
	return b
}

// some asks for frames of a chunk.
func (k *talker) some(o *chunktest.Object, e chunk.Extract) uint64 {
	return k.send(wire.Get, (&wire.Want{ID: o.ID, Len: uint32(o.Header.Len()), WaitMillis: long, Extract: e}).Append)
}

// bring has the daemon download what the lease that comes next is for.
func (k *talker) bring(origin *cachedtest.Origin, id chunk.ID) {
	k.t.Helper()
	r, err := wire.ParseRight(k.wait(wire.Lease).Payload)
	if err != nil {
		k.t.Fatal(err)
	}
	k.fetch(r.Lease, origin, id)
	k.wait(wire.Done)
}

// checkExtract checks that a message leads to e's object of o.
func checkExtract(t *testing.T, m wire.Message, o *chunktest.Object, e chunk.Extract) {
	t.Helper()
	h, err := wire.ParseHeld(m.Payload)
	if err != nil || h.Extract != e || m.Type != wire.Hit {
		t.Errorf("%v of frames %x, %v; want a HIT of %x", m.Type, h.Extract, err, e)
	}
	check(t, m, &chunktest.Object{ID: o.ID, Bytes: extractOf(o, e)})
}

// TestExtract: who wants frames gets these, once for all; who wants more of the chunk, what is
// there, and then the rest, and no byte twice.
func TestExtract(t *testing.T) {
	o := full(1)
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	a, b := talk(t, d.Socket), talk(t, d.Socket)
	a.some(&o, 0x0c)
	r, _ := wire.ParseRight(a.wait(wire.Lease).Payload)
	b.some(&o, 0x24) // before it is asked for, so it comes too
	b.heard()
	a.fetch(r.Lease, origin, o.ID)
	a.wait(wire.Done)
	a.some(&o, 0x0c)
	checkExtract(t, a.wait(wire.Hit), &o, 0x2c)
	checkExtract(t, b.wait(wire.Hit), &o, 0x2c)
	if got, want := origin.Sent(), int64(len(extractOf(&o, 0x2c))); got != want {
		t.Errorf("%d bytes sent, want %d", got, want)
	}
	if n := origin.Asked()[o.ID]; n != 3 {
		t.Errorf("%d requests, want one for the header, and one for each run", n)
	}
	for _, e := range []chunk.Extract{0, 0x08, 0x2c} {
		a.some(&o, e)
		checkExtract(t, a.wait(wire.Hit), &o, 0x2c)
	}
	a.some(&o, 0x80)
	a.bring(origin, o.ID)
	a.some(&o, 0x80)
	checkExtract(t, a.wait(wire.Hit), &o, 0xac)
	a.some(&o, 0x53)
	a.bring(origin, o.ID)
	a.some(&o, 0x53)
	checkExtract(t, a.wait(wire.Hit), &o, 0)
	if got := origin.Sent(); got != int64(len(o.Bytes)) {
		t.Errorf("%d bytes sent in all, of a chunk of %d", got, len(o.Bytes))
	}
	d.Restart(t)
	c := talk(t, d.Socket)
	c.some(&o, 0x01)
	checkExtract(t, c.wait(wire.Hit), &o, 0)
}

// TestExtractJoined: who comes to a download of frames and wants others goes on when that is
// over; who names none gets what came; and where somebody wants the chunk, it comes whole.
func TestExtractJoined(t *testing.T) {
	o, other := full(1), full(2)
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o, other)
	gate := make(chan struct{})
	origin.Answer(func(http.ResponseWriter, *http.Request, chunk.ID, []byte) bool {
		<-gate
		return false
	})
	a, b, c := talk(t, d.Socket), talk(t, d.Socket), talk(t, d.Socket)
	a.some(&o, 0x01)
	a.bring(origin, o.ID)
	b.some(&o, 0x02)
	c.get(o.ID, 0, 100, long)
	b.heard()
	c.heard()
	close(gate)
	checkExtract(t, c.wait(wire.Hit), &o, 0x01)
	b.bring(origin, o.ID)
	b.some(&o, 0x02)
	checkExtract(t, b.wait(wire.Hit), &o, 0x03)

	a.some(&other, 0x01)
	r, _ := wire.ParseRight(a.wait(wire.Lease).Payload)
	b.get(other.ID, 0, 0, long)
	b.heard()
	a.fetch(r.Lease, origin, other.ID)
	a.wait(wire.Done)
	checkExtract(t, b.wait(wire.Hit), &other, 0)
	if n := origin.Asked()[other.ID]; n != 1 {
		t.Errorf("%d requests for a chunk that somebody wanted whole", n)
	}
}

// TestExtractWrong: frames that are not what the header says of them are not kept, and the
// chunk comes by the next lease; nor are frames asked for that there are not.
func TestExtractWrong(t *testing.T) {
	o := full(1)
	o.Bytes[len(o.Bytes)-1] ^= 1 // as the origin has it
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	k := talk(t, d.Socket)
	k.some(&o, 0x80)
	k.bring(origin, o.ID)
	k.some(&o, 0x80)
	r, _ := wire.ParseRight(k.wait(wire.Lease).Payload)
	o = full(1)
	k.depositAll(r.Lease, o.Bytes)
	k.some(&o, 0x80)
	checkExtract(t, k.wait(wire.Hit), &o, 0)

	fine := chunktest.Random(4, (chunk.MaxExtract+1)*chunk.MinFrameSize, chunk.MinFrameSize)
	k.some(&fine, 0x100)
	k.bring(cachedtest.NewOrigin(t, fine), fine.ID)
	k.some(&fine, 0x100)
	r, _ = wire.ParseRight(k.wait(wire.Lease).Payload)
	k.depositAll(r.Lease, fine.Bytes)

	small := chunktest.Random(3, 2*chunk.FrameSize, chunk.FrameSize)
	origin = cachedtest.NewOrigin(t, small)
	k.some(&small, 0x100)
	k.bring(origin, small.ID)
	k.some(&small, 0x100)
	r, _ = wire.ParseRight(k.wait(wire.Lease).Payload)
	k.depositAll(r.Lease, small.Bytes)
}

// TestExtractOfOthers: who asks for frames that a chunk does not have, or for a longer header than it has bytes, keeps
// nobody else from what they ask for.
func TestExtractOfOthers(t *testing.T) {
	o := full(1)
	small := tiny(t)
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o, small)
	a, b := talk(t, d.Socket), talk(t, d.Socket)
	for _, c := range []*chunktest.Object{&o, &small} {
		a.some(c, 0x01)
		r, _ := wire.ParseRight(a.wait(wire.Lease).Payload)
		b.send(wire.Get, (&wire.Want{ID: c.ID, Len: chunk.Size, WaitMillis: 100, Extract: 1 << 60}).Append)
		b.heard()
		e := wire.Errand{
			Lease: r.Lease, URL: origin.URL + "/" + c.ID.String(), Length: uint32(len(c.Bytes)),
			Fields: []wire.Field{{Name: "Authorization", Value: "Bearer " + cachedtest.Secret}},
		}
		errand, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		a.send(wire.Fetch, func(b []byte) []byte { return append(b, errand...) })
		a.wait(wire.Done)
		a.some(c, 0x01)
		checkExtract(t, a.wait(wire.Hit), c, 0x01)
		_ = b.next()
	}
}

// tiny returns a chunk of two frames that are stored in ten bytes each.
func tiny(t *testing.T) chunktest.Object {
	t.Helper()
	frames := [2][]byte{[]byte("frame zero"), []byte("frame one.")}
	o := chunktest.Object{Header: chunk.Header{Codec: chunk.Zstd, FrameLog2: 14, Size: 2 << 14}}
	for _, f := range frames {
		o.Header.Frames = append(o.Header.Frames, chunk.Frame{Len: uint32(len(f)), Sum: sha256.Sum256(f)})
	}
	b, err := o.Header.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	o.ID, o.Bytes = o.Header.ID(), append(append(b, frames[0]...), frames[1]...)
	return o
}

// TestExtractBesideZone: a zone keeps whole chunks, so they come whole where there is one, and
// complete what the host had before.
func TestExtractBesideZone(t *testing.T) {
	o, half := full(1), full(2)
	z := &zone{objects: make(map[chunk.ID][]byte), filled: make(chan chunk.ID, 9)}
	dir, disk := t.TempDir(), cache.Config{MaxBytes: 1 << 30}
	d := cachedtest.StartIn(t, dir, disk, nil)
	origin := cachedtest.NewOrigin(t, o, half)
	k := talk(t, d.Socket)
	k.some(&half, 0x01)
	k.bring(origin, half.ID)
	k.some(&half, 0x01)
	checkExtract(t, k.wait(wire.Hit), &half, 0x01)
	d.Stop(t)

	d = cachedtest.StartIn(t, dir, disk, func(c *cached.Config) { c.Zone = z })
	z.mu.Lock()
	z.objects[half.ID] = half.Bytes
	z.mu.Unlock()
	k = talk(t, d.Socket)
	k.some(&half, 0x02)
	checkExtract(t, k.wait(wire.Hit), &half, 0)
	k.some(&o, 0x01)
	k.bring(origin, o.ID)
	k.some(&o, 0x01)
	checkExtract(t, k.wait(wire.Hit), &o, 0)
	if id := <-z.filled; id != o.ID {
		t.Errorf("the zone got %v", id)
	}
}

// TestExtractDamaged: an extract that rots is no obstacle to the rest of the chunk.
func TestExtractDamaged(t *testing.T) {
	o := full(1)
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	k := talk(t, d.Socket)
	k.some(&o, 0x01)
	k.bring(origin, o.ID)
	k.some(&o, 0x01)
	m := k.wait(wire.Hit)
	f := m.File()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Skipf("needs /proc, to find the file: %v", err)
	}
	if err := errors.Join(f.Close(), flipLast(path, len(extractOf(&o, 0x01)))); err != nil {
		t.Fatal(err)
	}
	k.some(&o, 0x02)
	k.bring(origin, o.ID)
	k.some(&o, 0x02)
	checkExtract(t, k.wait(wire.Hit), &o, 0x02)
}

// flipLast changes the last of a file's first n bytes.
func flipLast(path string, n int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[n-1] ^= 1
	return os.WriteFile(path, b, 0o600)
}
