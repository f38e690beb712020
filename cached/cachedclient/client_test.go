package cachedclient

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/cached"
	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/origin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// client returns a client of d, closed with the test.
func client(t testing.TB, socket string, change func(c *Config)) *Client {
	t.Helper()
	c := Config{Socket: socket}
	if change != nil {
		change(&c)
	}
	cl := New(c)
	t.Cleanup(cl.Close)
	return cl
}

// counted is a source that counts, behind a door.
func counted(src chunk.Source) (*chunktest.Counting, chunk.Reader) {
	c := &chunktest.Counting{Source: src}
	return c, chunk.NewDoor(c)
}

// readWholly reads a chunk and compares it.
func readWholly(t testing.TB, r chunk.Reader, o *chunktest.Object) {
	t.Helper()
	b := make([]byte, len(o.Bytes)+1)
	n, err := r.ReadChunk(ctx, o.ID, b, 0)
	if err != nil || !bytes.Equal(b[:n], o.Bytes) {
		t.Fatalf("%d bytes of %d, or others: %v", n, len(o.Bytes), err)
	}
}

// TestReader runs the suite with and without requests, and without a daemon.
func TestReader(t *testing.T) {
	list := chunktest.Objects(1)
	logs := slog.New(slog.NewTextHandler(t.Output(), nil))
	t.Run("Requests", func(t *testing.T) {
		d, o := cachedtest.Start(t, func(c *cached.Config) { c.Logger = logs }), cachedtest.NewOrigin(t, list...)
		c := client(t, d.Socket, nil)
		src, door := counted(o)
		chunktest.TestReader(t, c.Reader(door, o), list)
		if n := src.Requests.Load(); n > 4 { // for the absent chunk alone
			t.Errorf("the client has asked its own origin %d times", n)
		}
		for id, n := range o.Asked() {
			if n > 2 || n > 1 && id != chunktest.Absent {
				t.Errorf("chunk %v left the origin %d times", id, n)
			}
		}
	})
	t.Run("Deposits", func(t *testing.T) {
		d, o := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, list...)
		c := client(t, d.Socket, nil)
		chunktest.TestReader(t, c.Reader(chunk.NewDoor(o), nil), list)
		if s := d.Server.Stats(); s.Deposits != int64(len(list)) || s.Downloads != 0 {
			t.Errorf("%d deposits and %d downloads, want %d and none", s.Deposits, s.Downloads, len(list))
		}
	})
	t.Run("NoDaemon", func(t *testing.T) {
		o := cachedtest.NewOrigin(t, list...)
		c := client(t, cachedtest.SocketIn(t), nil)
		chunktest.TestReader(t, c.Reader(chunk.NewDoor(o), o), list)
	})
	t.Run("FewDescriptors", func(t *testing.T) {
		d, o := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, list...)
		c := client(t, d.Socket, func(c *Config) { c.Descriptors = 2 })
		chunktest.TestReader(t, c.Reader(chunk.NewDoor(o), o), list)
		if n := c.Stats().Held; n > 2 {
			t.Errorf("%d descriptors, at most 2 are allowed", n)
		}
	})
}

// TestOnce has many clients ask at once: each chunk leaves the origin once.
func TestOnce(t *testing.T) {
	var list []chunktest.Object
	for i := range 20 {
		list = append(list, chunktest.Random(uint64(i), chunk.Size, chunk.FrameSize))
	}
	d, o := cachedtest.Start(t, nil), cachedtest.NewOrigin(t, list...)
	o.Delay(20 * time.Millisecond)
	var wg sync.WaitGroup
	for range 16 {
		c := client(t, d.Socket, nil)
		src, door := counted(o)
		for i := range list {
			wg.Go(func() {
				b := make([]byte, 4096)
				at := list[i].Header.FrameOffset(i % 8)
				n, err := c.Reader(door, o).ReadChunk(ctx, list[i].ID, b, at)
				if err != nil || !bytes.Equal(b[:n], list[i].Bytes[at:at+4096]) {
					t.Errorf("%d bytes, %v", n, err)
				}
				if src.Requests.Load() > 0 {
					t.Error("a client has read from its own origin")
				}
			})
		}
	}
	wg.Wait()
	for id, n := range o.Asked() {
		if n != 1 {
			t.Errorf("chunk %v left the origin %d times", id, n)
		}
	}
	want := int64(20 * len(list[0].Bytes))
	eventually(t, "downloads end", func() bool { return d.Server.Stats().DownloadedBytes >= want }) // clients have what they want before
	if s := d.Server.Stats(); s.Flights < 20 || s.Downloads != 20 || s.DownloadedBytes != want {
		t.Errorf("%d flights, %d downloads of %d bytes", s.Flights, s.Downloads, s.DownloadedBytes)
	}
}

var _ origin.Requester = (*cachedtest.Origin)(nil)

func ExampleClient() {
	c := New(Config{Socket: "/run/rivulet/cached.sock"})
	defer c.Close()
	fmt.Println(c.Stats().Held)
	// Output: 0
}
