package cachedclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/store/cache"
)

// gone is an origin that cannot be reached.
type gone struct{}

var errGone = errors.New("no route to host")

func (gone) ReadChunk(context.Context, chunk.ID, []byte, int64) (int, error) { return 0, errGone }

// eventually waits until ok, for 10 s.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// TestRestart ends the daemon and starts it again under a client: what is held
// is read all the time, the rest from the origin meanwhile, and from the cache
// again after it.
func TestRestart(t *testing.T) {
	list := chunks(4)
	d, o := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, list...)
	c := client(t, d.Socket, func(c *Config) { c.Descriptors = 2 })
	src, door := counted(o)
	r := c.Reader(door, o)
	for i := range list {
		readWholly(t, r, &list[i]) // the last two are held
	}
	d.Stop(t)
	readWholly(t, r, &list[3])
	if n := src.Requests.Load(); n != 0 {
		t.Errorf("the origin was asked for what is held")
	}
	readWholly(t, r, &list[0])
	if n := src.Requests.Load(); n == 0 || c.Stats().Fallbacks != 1 {
		t.Errorf("%d requests to the origin, %+v", n, c.Stats())
	}
	d.Restart(t)
	before := src.Requests.Load()
	eventually(t, "connected again", func() bool { readWholly(t, r, &list[1]); return c.Stats().Connects == 2 })
	at := src.Requests.Load()
	for i := range list {
		readWholly(t, r, &list[i])
	}
	if src.Requests.Load() != at {
		t.Errorf("%d requests to the origin after the restart (%d before it was noticed)", src.Requests.Load()-at, at-before)
	}
}

// TestAway tells that reads go to the origin while the daemon is away, but for what
// is held.
func TestAway(t *testing.T) {
	list := chunks(2)
	d, o := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, list...)
	c := client(t, d.Socket, nil)
	r := c.Reader(chunk.NewDoor(o), o)
	readWholly(t, r, &list[0])
	if c.Away(list[0].ID) || c.Away(list[1].ID) {
		t.Error("away, and it answers")
	}
	d.Stop(t)
	eventually(t, "it is known to be away", func() bool { readWholly(t, r, &list[1]); return c.Away(list[1].ID) })
	if c.Away(list[0].ID) {
		t.Error("what is held is to be read elsewhere")
	}
	d.Restart(t)
	eventually(t, "it is known to be back", func() bool { readWholly(t, r, &list[1]); return !c.Away(list[1].ID) })
}

// TestUnlinked gives up what was evicted by the next sweep, though nobody used it
// since; and nothing else.
func TestUnlinked(t *testing.T) {
	list := chunks(3)
	d, o := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, list...)
	c := client(t, d.Socket, func(c *Config) { c.sweep = time.Hour })
	r := c.Reader(chunk.NewDoor(o), o)
	for i := range list { // one that is read while it arrives is held as a file that goes away
		eventually(t, "the chunk is held", func() bool {
			readWholly(t, r, &list[i])
			c.tidy()
			return c.shelf.has(list[i].ID)
		})
	}
	eventually(t, "the chunk is evicted", func() bool { return c.Evict(ctx, list[1].ID) == nil })
	c.tidy()
	if c.shelf.has(list[1].ID) || !c.shelf.has(list[0].ID) || !c.shelf.has(list[2].ID) {
		t.Errorf("holds %d chunks; want the two that the cache has", c.Stats().Held)
	}
	d.Stop(t) // and without a daemon
	if err := os.RemoveAll(d.Dir); err != nil {
		t.Fatal(err)
	}
	c.tidy()
	if n := c.Stats().Held; n != 0 {
		t.Errorf("holds %d chunks that are nowhere else", n)
	}
}

// TestOriginGone serves what is in the cache when nothing else is left, restarts
// included.
func TestOriginGone(t *testing.T) {
	list := chunks(5)
	d, o := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, list[:4]...)
	// read reads what the daemon has or gets: a busy machine's may not answer in time, and is
	// asked again.
	read := func(r chunk.Reader, o *chunktest.Object) {
		for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
			if _, err := r.ReadChunk(ctx, o.ID, make([]byte, len(o.Bytes)), 0); !errors.Is(err, errGone) {
				break
			}
		}
		readWholly(t, r, o)
	}
	filler := client(t, d.Socket, nil)
	for i := range list[:4] {
		read(filler.Reader(gone{}, o), &list[i])
		kept(t, d, list[i].ID)
	}
	for range 2 {
		d.Restart(t)
		c := client(t, d.Socket, nil)
		r := c.Reader(gone{}, nil)
		for i := range list[:4] {
			read(r, &list[i])
		}
		if _, err := r.ReadChunk(ctx, list[4].ID, make([]byte, 10), 0); !errors.Is(err, errGone) {
			t.Errorf("a chunk that is nowhere: %v", err)
		}
	}
}

// kept waits until the daemon has a chunk on disk: it answers before.
func kept(t *testing.T, d *cachedtest.Daemon, id chunk.ID) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		h, err := d.Cache.Acquire(id)
		if err == nil {
			h.Release()
			return
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatalf("chunk %v was read and is not kept: %v", id, err)
		}
	}
}

// TestAlone never finds a daemon.
func TestAlone(t *testing.T) {
	list := []chunktest.Object{chunktest.Random(1, 10_000, chunk.FrameSize)} // small: time is for waiting
	o := cachedtest.NewOrigin(t, list...)
	c := client(t, cachedtest.SocketIn(t), nil)
	begun := time.Now()
	for range 20 { // 40 s, if each waited
		readWholly(t, c.Reader(chunk.NewDoor(o), o), &list[0])
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("20 reads took %v", took)
	}
	if err := c.Ping(ctx); !errors.Is(err, ErrAway) {
		t.Errorf("Ping: %v", err)
	}
	c.Close()
	readWholly(t, c.Reader(chunk.NewDoor(o), o), &list[0])
}

// TestUrgency raises a read that waits for somebody else's download.
func TestUrgency(t *testing.T) {
	o := chunks(1)[0]
	raised := make(chan wire.Urgent, 1)
	var waiting uint64
	socket := impostor(t, func(c *wire.Conn, m *wire.Message) bool {
		switch m.Type {
		case wire.Get:
			waiting = m.Request
			return true
		case wire.Raise:
			u, err := wire.ParseUrgent(m.Payload)
			if err != nil {
				return false
			}
			raised <- u
			_ = c.Write(wire.Done, m.Request, nil, nil)
			return c.Write(wire.Miss, waiting, wire.Refusal{Reason: wire.Waited}.Append, nil) == nil
		}
		return false
	})
	c := client(t, socket, nil)
	origin := cachedtest.NewOrigin(t, o)
	u := chunk.NewUrgency(chunk.Prefetch)
	time.AfterFunc(50*time.Millisecond, func() { u.Raise(chunk.Demand) })
	b := make([]byte, len(o.Bytes))
	if n, err := c.Reader(chunk.NewDoor(origin), origin).ReadChunk(chunk.WithUrgency(ctx, u), o.ID, b, 0); err != nil || n != len(b) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if got := <-raised; got != (wire.Urgent{ID: o.ID, Priority: chunk.Demand}) {
		t.Errorf("%+v", got)
	}
}

// chunkFile returns the file of a chunk in the cache.
func chunkFile(t testing.TB, dir string, id chunk.ID) string {
	t.Helper()
	found := ""
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if bytes.Contains([]byte(filepath.Base(path)), []byte(id.String())) {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no file of chunk %v: %v", id, err)
	}
	return found
}

// flip changes a bit of a file behind everybody's back.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestBitFlips flips a bit in every region of a cached file, before the first
// touch and after it, and reads right bytes each time, from a file that is right
// again afterwards.
func TestBitFlips(t *testing.T) {
	o := chunks(1)[0]
	for _, touched := range []bool{false, true} {
		for _, at := range []int64{0, 20, int64(o.Header.Len()), o.Header.FrameOffset(3) + 5000, int64(len(o.Bytes)) - 1} {
			t.Run(fmt.Sprint(touched, at), func(t *testing.T) {
				d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
				filler := client(t, d.Socket, nil)
				readWholly(t, filler.Reader(chunk.NewDoor(origin), origin), &o)
				filler.Close()
				// Who reads is answered before the file has its name.
				eventually(t, "the chunk is in the cache", func() bool { return d.Cache.Stats().Deposits == 1 })
				c := client(t, d.Socket, nil)
				r := c.Reader(chunk.NewDoor(origin), origin)
				if touched {
					readWholly(t, r, &o)
				}
				flip(t, chunkFile(t, d.Dir, o.ID), at)
				readWholly(t, r, &o)
				wantDamage := touched && at >= int64(o.Header.Len()) // the header is not read again
				if s := c.Stats(); (s.Damaged > 0) != (wantDamage || !touched) {
					t.Errorf("%d times damaged", s.Damaged)
				}
				if touched && !wantDamage {
					return
				}
				fresh := client(t, d.Socket, nil)
				readWholly(t, fresh.Reader(gone{}, nil), &o) // the cache has it again, and right
				if s := d.Cache.Stats(); s.Damaged != 1 {
					t.Errorf("the cache has dropped %d", s.Damaged)
				}
			})
		}
	}
}

// TestForgedPage changes a page that was checked before so that its CRC-32C stays
// what it was, as who owns the file can: the change is noticed all the same.
func TestForgedPage(t *testing.T) {
	o := chunks(1)[0]
	d, origin := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, o)
	c := client(t, d.Socket, nil)
	r := c.Reader(chunk.NewDoor(origin), origin)
	readWholly(t, r, &o)
	readWholly(t, r, &o)
	// The bits of the polynomial itself leave the checksum as it is.
	at := o.Header.FrameOffset(3) + 5000
	page := o.Header.FrameOffset(3) + 4096
	forged := bytes.Clone(o.Bytes[page : page+4096])
	polynomial := binary.LittleEndian.AppendUint64(nil, 1|crc32.Castagnoli<<1)
	for i, b := range polynomial {
		forged[at-page+int64(i)] ^= b
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	if crc32.Checksum(forged, table) != crc32.Checksum(o.Bytes[page:page+4096], table) {
		t.Fatal("the checksum is another one")
	}
	f, err := os.OpenFile(chunkFile(t, d.Dir, o.ID), os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(forged, page)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	readWholly(t, r, &o)
	if s := c.Stats(); s.Damaged == 0 {
		t.Error("nothing was noticed")
	}
}

// TestEvictedIsGivenUp evicts a chunk that a client holds: it tells what it uses,
// hears what is gone, and closes that, so that its space is free.
func TestEvictedIsGivenUp(t *testing.T) {
	list := chunks(2)
	d, o := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, list...)
	c := client(t, d.Socket, func(c *Config) { c.sweep = 10 * time.Millisecond })
	r := c.Reader(chunk.NewDoor(o), o)
	readWholly(t, r, &list[0])
	readWholly(t, r, &list[1])
	eventually(t, "use is told", func() bool { readWholly(t, r, &list[0]); return d.Server.Stats().Touches > 2 })
	if err := c.Evict(ctx, list[1].ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "descriptor is closed", func() bool { readWholly(t, r, &list[0]); return c.shelf.len() == 1 })
	eventually(t, "idle descriptors are closed", func() bool { return c.shelf.len() == 0 })
}

func TestAdministration(t *testing.T) {
	list := chunks(3)
	d, o := cachedtest.StartIn(t, t.TempDir(), cache.Config{MaxBytes: 3 << 20}, nil), cachedtest.NewOrigin(t, list...)
	c := client(t, d.Socket, nil)
	r := c.Reader(chunk.NewDoor(o), o)
	for i := range list {
		readWholly(t, r, &list[i])
	}
	entries := func() map[chunk.ID]Entry {
		all := make(map[chunk.ID]Entry)
		if err := c.List(ctx, func(e Entry) error { all[e.ID] = e; return nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	eventually(t, "the last one is committed", func() bool { return len(entries()) == 3 }) // it can be read before
	if all := entries(); len(all) != 3 || all[list[1].ID].Size != int64(len(list[1].Bytes)) {
		t.Errorf("%v", all)
	}
	stop := errors.New("stop")
	if err := c.List(ctx, func(Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("List: %v", err)
	}
	if err := c.Pin(ctx, list[0].ID); err != nil {
		t.Error(err)
	}
	if err := c.Evict(ctx, list[0].ID); !errors.Is(err, ErrInUse) {
		t.Errorf("evict a pinned chunk: %v", err)
	}
	if err := c.Evict(ctx, chunktest.Absent); !errors.Is(err, chunk.ErrNotFound) {
		t.Errorf("evict an absent chunk: %v", err)
	}
	if err := c.Unpin(ctx, list[0].ID); err != nil {
		t.Error(err)
	}
	if err := c.Evict(ctx, list[0].ID); err != nil {
		t.Error(err)
	}
	flip(t, chunkFile(t, d.Dir, list[1].ID), 5000)
	if s, err := c.Scrub(ctx, 0); err != nil || s.Damaged != 1 || s.Chunks != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if all := entries(); len(all) != 1 {
		t.Errorf("%v", all)
	}
	if about, err := c.About(ctx); err != nil || about.PID != os.Getpid() || time.Since(about.Since) < 0 || time.Since(about.Since) > time.Hour {
		t.Errorf("the daemon says of itself %+v, %v", about, err)
	}
	stats, err := c.DaemonStats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int64)
	for _, s := range stats {
		got[s.Name] = s.Value
	}
	for name, want := range map[string]int64{"chunks": 1, "downloads": 3, "damaged": 1, "max_bytes": 3 << 20, "connections": 1} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d", name, got[name], want)
		}
	}
}

// TestFind finds a daemon that is named, none, and one at a usual place.
func TestFind(t *testing.T) {
	t.Setenv(Variable, "")
	run := filepath.Dir(cachedtest.SocketIn(t))
	t.Setenv("XDG_RUNTIME_DIR", run)
	find := func(address string) string {
		c := Find(ctx, address, Config{})
		if c == nil {
			return ""
		}
		defer c.Close()
		return c.config.Socket
	}
	if got := find("/named"); got != "/named" {
		t.Errorf("named: %q", got)
	}
	if got := find(None); got != "" {
		t.Errorf("none: %q", got)
	}
	usual := filepath.Join(run, "rivulet", SocketName)
	d := cachedtest.Start(t, nil)
	if err := os.Mkdir(filepath.Dir(usual), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := find(""); got == usual {
		t.Errorf("nobody is there, and got %q", got)
	}
	if err := os.Symlink(d.Socket, usual); err != nil {
		t.Fatal(err)
	}
	if got := find(""); got != usual {
		t.Errorf("at the usual place: %q, want %q", got, usual)
	}
	t.Setenv(Variable, "/variable")
	if got := find(""); got != "/variable" {
		t.Errorf("by the environment: %q", got)
	}
	t.Setenv(Variable, None)
	if got := find(""); got != "" {
		t.Errorf("none by the environment: %q", got)
	}
}
