package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testLog writes a server's log to the test's.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// start serves s on a unix socket until the test ends, and returns its address.
func start(t testing.TB, s *Server, exports ...Export) net.Addr {
	t.Helper()
	ln, err := Listen("unix:" + filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, s, ln, exports...)
}

func startOn(t testing.TB, s *Server, ln net.Listener, exports ...Export) net.Addr {
	t.Helper()
	if s.Log == nil {
		s.Log = testLog(t)
	}
	for _, e := range exports {
		if err := s.AddExport(e); err != nil {
			t.Fatal(err)
		}
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr()
}

func uri(t testing.TB, addr net.Addr, name string) string {
	t.Helper()
	u, err := URI(addr, name, false)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func dial(t testing.TB, addr net.Addr, name string) *nbdclient.Client {
	t.Helper()
	c, err := nbdclient.Dial(t.Context(), uri(t, addr, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// TestSuite runs the device suite over server and client.
func TestSuite(t *testing.T) {
	want := blockdevtest.Pattern(3<<20, 1)
	memory := blockdevtest.NewMemory(want, func(page int64) bool { return page%9 < 4 })
	for name, d := range map[string]blockdev.Device{
		"Sparse": memory,
		"Flat":   blockdev.NewFlat(bytes.NewReader(want), int64(len(want))),
	} {
		for _, network := range []string{"unix:" + filepath.Join(t.TempDir(), "s"), "tcp::0"} {
			t.Run(name+"/"+network[:4], func(t *testing.T) {
				ln, err := Listen(network)
				if err != nil {
					t.Fatal(err)
				}
				addr := startOn(t, &Server{}, ln, Export{Name: "d", Device: d})
				blockdevtest.TestDevice(t, func(t *testing.T) blockdev.Device { return dial(t, addr, "d") }, want)
			})
		}
	}
}

// TestSlowDevice has many reads at a device too slow for the leader to serve.
func TestSlowDevice(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 7)
	slow := &blockdevtest.Slow{Device: blockdevtest.NewMemory(want, nil), Delay: 5 * time.Millisecond}
	c := dial(t, start(t, &Server{}, Export{Device: slow}), "")
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for k := range 8 {
				off, got := (i*8+k)*4000, make([]byte, 5000)
				if _, err := c.ReadAt(got, int64(off)); err != nil || !bytes.Equal(got, want[off:off+5000]) {
					t.Errorf("read at %d: %v", off, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestLargeReads reads more at once than a connection may keep by itself.
func TestLargeReads(t *testing.T) {
	want := blockdevtest.Pattern(40<<20, 2)
	addr := start(t, &Server{MaxBytes: 1}, Export{Device: blockdevtest.NewMemory(want, nil)},
		Export{Name: "flat", Device: blockdev.NewFlat(bytes.NewReader(want), int64(len(want)))})
	var wg sync.WaitGroup
	for i := range 6 {
		c := dial(t, addr, []string{"", "flat"}[i%2])
		wg.Go(func() {
			got := make([]byte, len(want))
			if n, err := c.ReadAt(got, 0); n != len(want) || err != nil || !bytes.Equal(got, want) {
				t.Errorf("read all: %d bytes, %v, equal %v", n, err, bytes.Equal(got, want))
			}
		})
	}
	wg.Wait()
}

// TestSlowReadHoldsNobodyUp reads while another read of the connection waits.
func TestSlowReadHoldsNobodyUp(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 3)
	gate := &blockdevtest.Gate{Device: blockdevtest.NewMemory(want, nil), From: 0, To: 4096, Open: make(chan struct{})}
	addr := start(t, &Server{}, Export{Device: gate})
	c := dial(t, addr, "")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { _, _ = c.ReadAt(make([]byte, 100), 0) })
	}
	got := make([]byte, 4096)
	for off := int64(4096); off < 1<<20; off += 4096 {
		if _, err := c.ReadAt(got, off); err != nil || !bytes.Equal(got, want[off:off+4096]) {
			t.Fatalf("read at %d: %v", off, err)
		}
	}
	close(gate.Open)
	wg.Wait()
}

// TestFullConnection has more requests in flight than a connection may.
func TestFullConnection(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 3)
	gate := &blockdevtest.Gate{Device: blockdevtest.NewMemory(want, nil), From: 0, To: 4096, Open: make(chan struct{})}
	addr := start(t, &Server{MaxRequests: 4}, Export{Device: gate})
	c := dial(t, addr, "")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			got := make([]byte, 100)
			if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want[:100]) {
				t.Errorf("read: %v", err)
			}
		})
	}
	waitFor(t, "four reads at the gate", func() bool { return gate.Waiting.Load() == 4 })
	other := dial(t, addr, "") // is not held up
	if _, err := other.ReadAt(make([]byte, 100), 8192); err != nil {
		t.Error(err)
	}
	if n := gate.Waiting.Load(); n != 4 {
		t.Errorf("%d reads run, at most 4 allowed", n)
	}
	close(gate.Open)
	wg.Wait()
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 10_000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

func TestDeviceErrors(t *testing.T) {
	want := blockdevtest.Pattern(8<<20, 4)
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	failing := &blockdevtest.Failing{Device: blockdev.NewFlat(bytes.NewReader(want), 8<<20),
		From: 5 << 20, To: 5<<20 + 1, Err: errors.New("origin is gone")}
	addr := start(t, s, Export{Device: failing})
	c := dial(t, addr, "")
	for range 3 { // in the middle of a reply of several chunks, and at once
		for _, r := range [][2]int64{{0, 8 << 20}, {5 << 20, 512}} {
			_, err := c.ReadAt(make([]byte, r[1]), r[0])
			var errno nbdclient.Errno
			if !errors.As(err, &errno) || errno != nbdclient.Errno(wire.EIO) {
				t.Errorf("read %d bytes at %d: %v, want EIO", r[1], r[0], err)
			}
		}
		got := make([]byte, 4096)
		if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, want[:4096]) {
			t.Errorf("read after an error: %v", err)
		}
	}
	if st := s.Stats(); st.DeviceErrors != 6 || st.Connections != 1 {
		t.Errorf("Stats() = %+v, want 6 device errors and 1 connection", st)
	}
}

func TestShutdownAnswersWhatArrived(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 3)
	gate := &blockdevtest.Gate{Device: blockdevtest.NewMemory(want, nil), From: 0, To: 4096, Open: make(chan struct{})}
	s := &Server{}
	addr := start(t, s, Export{Device: gate})
	c := dial(t, addr, "")
	read := make(chan error, 1)
	go func() {
		got := make([]byte, 4096)
		_, err := c.ReadAt(got, 0)
		if err == nil && !bytes.Equal(got, want[:4096]) {
			err = errors.New("wrong bytes")
		}
		read <- err
	}()
	waitFor(t, "the read", func() bool { return gate.Waiting.Load() == 1 })
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(context.Background()) }()
	waitFor(t, "the server to close", func() bool {
		_, err := nbdclient.Dial(t.Context(), uri(t, addr, ""))
		return err != nil
	})
	close(gate.Open)
	if err := <-read; err != nil {
		t.Errorf("read that ran at shutdown: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := s.Serve(context.Background(), fakeListener{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}

type fakeListener struct{ net.Listener }

func (fakeListener) Close() error { return nil }

func TestRemoveExport(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 3)
	gate := &blockdevtest.Gate{Device: blockdevtest.NewMemory(want, nil), From: 0, To: 4096, Open: make(chan struct{})}
	s := &Server{}
	addr := start(t, s, Export{Name: "a", Device: gate}, Export{Name: "b", Device: gate})
	a, b := dial(t, addr, "a"), dial(t, addr, "b")
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = a.ReadAt(make([]byte, 1), 0) })
	waitFor(t, "the read", func() bool { return gate.Waiting.Load() == 1 })
	if a, other := s.Users("a"), s.Users("other"); a != 1 || other != 0 {
		t.Errorf("%d users of an export, %d of one that is not there; want 1 and 0", a, other)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.RemoveExport(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("RemoveExport with a read running: %v", err)
	}
	close(gate.Open)
	wg.Wait()
	if err := s.RemoveExport(t.Context(), "a"); !errors.Is(err, ErrUnknownExport) {
		t.Errorf("RemoveExport again: %v", err)
	}
	waitFor(t, "the connection's end", func() bool { return s.Stats().Connections == 1 })
	if _, err := a.ReadAt(make([]byte, 1), 0); err == nil {
		t.Error("removed export still serves")
	}
	if _, err := b.ReadAt(make([]byte, 1), 0); err != nil {
		t.Errorf("other export: %v", err)
	}
	if err := s.AddExport(Export{Name: "b", Device: gate}); !errors.Is(err, ErrExportExists) {
		t.Errorf("AddExport of a name that exists: %v", err)
	}
}

// TestReplyUntaken has a client that asks for much and takes nothing.
func TestReplyUntaken(t *testing.T) {
	want := blockdevtest.Pattern(8<<20, 5)
	s := &Server{WriteTimeout: time.Second, Log: slog.New(slog.DiscardHandler)} // the good client may have to wait for a processor
	addr := start(t, s, Export{Device: blockdevtest.NewMemory(want, nil)})
	nc := rawClient(t, addr, false)
	var all []byte
	for i := range uint64(1000) {
		all = wire.Request{Command: wire.CmdRead, Cookie: i, Length: 1 << 20}.Append(all)
	}
	go func() { _, _ = nc.Write(all) }() // the server need not read all
	good := dial(t, addr, "")
	got := make([]byte, len(want))
	if _, err := good.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another client: %v", err)
	}
	waitFor(t, "the client to be dropped", func() bool { return s.Stats().Connections == 1 })
	if r := s.Stats().Requests; r > 200 {
		t.Errorf("server took %d requests of a client that takes no replies", r)
	}
}

// rawClient returns a connection on which the handshake is over.
func rawClient(t testing.TB, addr net.Addr, structured bool) net.Conn {
	t.Helper()
	nc, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	send := []byte{0, 0, 0, 3}
	expect := wire.GreetingSize + 10
	if structured {
		send = wire.AppendOption(send, wire.OptStructuredReply, nil)
		expect += wire.OptionReplyHeaderSize
	}
	send = wire.AppendOption(send, wire.OptExportName, nil)
	if _, err := nc.Write(send); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, expect)); err != nil {
		t.Fatal(err)
	}
	return nc
}

// TestHoleAfterData reads data, then a hole of the same length, on one
// connection without structured replies.
func TestHoleAfterData(t *testing.T) {
	const n = 4096
	want := append(bytes.Repeat([]byte{0xff}, n), make([]byte, n)...)
	addr := start(t, &Server{}, Export{Device: blockdevtest.NewMemory(want, nil)})
	nc := rawClient(t, addr, false)
	for i := range uint64(100) {
		off := i % 2 * n
		if _, err := nc.Write(wire.Request{Cookie: i, Offset: off, Length: n}.Append(nil)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, wire.SimpleReplySize+n)
		if _, err := io.ReadFull(nc, got); err != nil {
			t.Fatal(err)
		}
		if binary.BigEndian.Uint64(got[8:]) != i || !bytes.Equal(got[wire.SimpleReplySize:], want[off:off+n]) {
			t.Fatalf("read %d at %d: wrong bytes or cookie", i, off)
		}
	}
}

// TestOddRequests sends what a client should not, and then a good request.
func TestOddRequests(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 6)
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	addr := start(t, s, Export{Device: blockdevtest.NewMemory(want, nil)})
	nc := rawClient(t, addr, false)
	for _, c := range []struct {
		name    string
		r       wire.Request
		payload int
		want    wire.Errno
	}{
		{"write", wire.Request{Command: wire.CmdWrite, Length: 70_000}, 70_000, wire.EPERM},
		{"write past the end", wire.Request{Command: wire.CmdWrite, Offset: 1 << 63, Length: 1}, 1, wire.EPERM},
		{"trim", wire.Request{Command: wire.CmdTrim, Length: 1}, 0, wire.EPERM},
		{"write zeroes", wire.Request{Command: wire.CmdWriteZeroes, Length: 1 << 31}, 0, wire.EPERM},
		{"status without contexts", wire.Request{Command: wire.CmdBlockStatus, Length: 1}, 0, wire.EINVAL},
		{"DF without structured replies", wire.Request{Flags: wire.CmdFlagDF, Length: 1}, 0, wire.EINVAL},
		{"unknown", wire.Request{Command: 77, Length: 1 << 31}, 0, wire.EINVAL},
		{"read past the end", wire.Request{Offset: 1 << 20, Length: 1}, 0, wire.EINVAL},
		{"flush", wire.Request{Command: wire.CmdFlush}, 0, 0},
		{"cache", wire.Request{Command: wire.CmdCache, Length: 1 << 20}, 0, 0},
	} {
		c.r.Cookie = 42
		if _, err := nc.Write(append(c.r.Append(nil), make([]byte, c.payload)...)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var got [wire.SimpleReplySize]byte
		if _, err := io.ReadFull(nc, got[:]); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var expect [wire.SimpleReplySize]byte
		wire.PutSimpleReply(expect[:], c.want, 42)
		if got != expect {
			t.Errorf("%s: reply %x, want %x", c.name, got, expect)
		}
	}
}

// TestCutOff has clients whose connection cannot go on.
func TestCutOff(t *testing.T) {
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	addr := start(t, s, Export{Device: blockdevtest.NewMemory(make([]byte, 4096), nil)})
	read := wire.Request{Length: 1}.Append(nil)
	for name, c := range map[string]struct {
		send  []byte
		reply int // bytes before the end
	}{
		"wrong magic":     {make([]byte, wire.RequestSize), 0},
		"huge write":      {wire.Request{Command: wire.CmdWrite, Length: 1<<32 - 1}.Append(nil), 0},
		"disconnect":      {wire.Request{Command: wire.CmdDisc}.Append(nil), 0},
		"read, then disc": {wire.Request{Command: wire.CmdDisc}.Append(bytes.Clone(read)), wire.SimpleReplySize + 1},
	} {
		nc := rawClient(t, addr, false)
		if _, err := nc.Write(c.send); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(nc)
		if err != nil || len(got) != c.reply {
			t.Errorf("%s: %d bytes before the end, want %d: %v", name, len(got), c.reply, err)
		}
	}
	// Half a request.
	nc := rawClient(t, addr, false)
	if _, err := nc.Write(read[:10]); err != nil {
		t.Fatal(err)
	}
	_ = nc.Close()
	waitFor(t, "all connections to end", func() bool { return s.Stats().Connections == 0 })
}
