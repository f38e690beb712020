package vhostuser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/transport"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/vhostuserclient"
	"github.com/rivuletfs/rivulet/internal/openfiles"
)

func TestMain(m *testing.M) {
	if arguments := os.Getenv(backendVariable); arguments != "" {
		backend(arguments)
		return
	}
	goleak.VerifyTestMain(m)
}

// start serves until the test ends, and returns the socket.
func start(t testing.TB, s *Server) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	serveAt(t, s, path)
	return path
}

// serveAt serves at path until the test ends, or stop.
func serveAt(t testing.TB, s *Server, path string) (stop func()) {
	t.Helper()
	if s.Log == nil {
		s.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), ln) }()
	stop = sync.OnceFunc(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func dial(t testing.TB, d vhostuserclient.Dialer, path string) *vhostuserclient.Client {
	t.Helper()
	c, err := d.Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// shapes are the ways in which a front end can use the rings.
var shapes = map[string]vhostuserclient.Dialer{
	"plain":      {Buffer: 64 << 10, QueueSize: 16},
	"queues":     {Buffer: 16 << 10, QueueSize: 32, Queues: 4, Segments: 3},
	"chains":     {Buffer: 64 << 10, Chained: true, Segments: 5, QueueSize: 64},
	"no event":   {Buffer: 64 << 10, NoEventIndex: true, Queues: 2, QueueSize: 8, Slots: true},
	"shrinkable": {Buffer: 64 << 10, Shrinkable: true, QueueSize: 16},
}

func TestDevice(t *testing.T) {
	want := blockdevtest.Pattern(1<<20+512, 1)
	for name, d := range shapes {
		if testing.Short() && name != "queues" && name != "shrinkable" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := start(t, &Server{Export: Export{Device: blockdevtest.NewMemory(want, nil)}})
			c := dial(t, d, path)
			if !c.ReadOnly() {
				t.Error("a device that cannot be written is shown as one that can")
			}
			blockdevtest.TestDevice(t, func(*testing.T) blockdev.Device { return c }, want)
		})
	}
}

func TestWriter(t *testing.T) {
	want := blockdevtest.Pattern(1<<20+512, 2)
	for _, name := range []string{"queues", "chains"} {
		d := shapes[name]
		if testing.Short() && name == "queues" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blockdevtest.TestWriter(t, func(t *testing.T) blockdev.Writer {
				path := start(t, &Server{Export: Export{Device: blockdevtest.NewScratch(want)}, Poll: time.Microsecond})
				return dial(t, d, path)
			}, want)
		})
	}
}

func TestReadOnly(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 3)
	path := start(t, &Server{Export: Export{Device: blockdevtest.NewScratch(want), ReadOnly: true, Serial: "a serial number that is too long"}})
	c := dial(t, vhostuserclient.Dialer{}, path)
	if _, err := c.WriteAt(make([]byte, 512), 0); !errors.Is(err, vhostuserclient.ErrIO) {
		t.Errorf("write: %v", err)
	}
	if err := c.Discard(0, 512); !errors.Is(err, vhostuserclient.ErrUnsupported) {
		t.Errorf("discard: %v", err)
	}
	if err := c.Flush(); err != nil {
		t.Errorf("flush: %v", err)
	}
	if s, err := c.Serial(); err != nil || s != "a serial number that" {
		t.Errorf("serial number %q, %v", s, err)
	}
	if got := make([]byte, len(want)); !readAll(t, c, got) || !bytes.Equal(got, want) {
		t.Error("it was changed")
	}
}

func readAll(t *testing.T, d blockdev.Device, p []byte) bool {
	t.Helper()
	if _, err := d.ReadAt(p, 0); err != nil {
		t.Error(err)
		return false
	}
	return true
}

// TestCache has writes on the medium when they must be.
func TestCache(t *testing.T) {
	scratch := blockdevtest.NewScratch(make([]byte, 1<<20))
	path := start(t, &Server{Export: Export{Device: scratch}})
	c := dial(t, vhostuserclient.Dialer{}, path)
	write := func(text string, off int64) {
		t.Helper()
		if _, err := c.WriteAt([]byte(text), off); err != nil {
			t.Fatal(err)
		}
	}
	write("flushed", 0)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	write("lost", 512)
	scratch.Crash()
	if err := c.SetCache(false); err != nil {
		t.Fatal(err)
	}
	write("through", 1024)
	scratch.Crash()
	got := make([]byte, 1536)
	readAll(t, c, got)
	if text := string(bytes.ReplaceAll(got, []byte{0}, nil)); text != "flushedthrough" {
		t.Errorf("left: %q", text)
	}
	scratch.FailFlush(errors.New("medium error"))
	if err := c.Flush(); !errors.Is(err, vhostuserclient.ErrIO) {
		t.Errorf("flush that fails: %v", err)
	}
	if _, err := c.WriteAt(make([]byte, 512), 0); !errors.Is(err, vhostuserclient.ErrIO) {
		t.Errorf("write through that fails: %v", err)
	}
}

// TestDeviceFails gives errors for what fails, and for nothing else.
func TestDeviceFails(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 4)
	d := &blockdevtest.Failing{Device: blockdevtest.NewMemory(want, nil), From: 4096, To: 8192, Err: errors.New("medium error")}
	s := &Server{Export: Export{Device: d}, Log: slog.New(slog.DiscardHandler)}
	c := dial(t, vhostuserclient.Dialer{Segments: 2}, start(t, s))
	p := make([]byte, 4096)
	if _, err := c.ReadAt(p, 4096); !errors.Is(err, vhostuserclient.ErrIO) {
		t.Errorf("read: %v", err)
	}
	if _, err := c.ReadAt(p, 0); err != nil || !bytes.Equal(p, want[:4096]) {
		t.Errorf("read beside it: %v", err)
	}
	if st := s.Stats(); st.DeviceErrors != 1 || st.Failed != 1 || st.Requests != 2 {
		t.Errorf("%+v", st)
	}
}

// TestLeft gives no answer to a request that the device leaves to the next process, which
// does it again; and an error, where nobody keeps what is in flight.
func TestLeft(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 7)
	left := &blockdevtest.Failing{Device: blockdevtest.NewMemory(want, nil), From: 4096, To: 8192, Err: fmt.Errorf("not open yet: %w", blockdev.ErrLeft)}
	first := &Server{Export: Export{Device: left}}
	path := filepath.Join(t.TempDir(), "s")
	stop := serveAt(t, first, path)
	c := dial(t, vhostuserclient.Dialer{Reconnect: true}, path)
	read := make(chan error, 1)
	p := make([]byte, 4096)
	go func() {
		_, err := c.ReadAt(p, 4096)
		read <- err
	}()
	for first.Stats().Requests < 1 {
		runtime.Gosched()
	}
	stop()
	next := &Server{Export: Export{Device: left.Device}}
	serveAt(t, next, path)
	if err := <-read; err != nil || !bytes.Equal(p, want[4096:8192]) {
		t.Errorf("read that was left: %v", err)
	}
	if st := first.Stats(); st.Failed != 0 || st.DeviceErrors != 0 {
		t.Errorf("the process that left it: %+v", st)
	}
	if st := next.Stats(); st.Resubmitted != 1 {
		t.Errorf("the next process: %+v, want 1 resubmitted", st)
	}

	stats := new(counters)
	d := newDisk(&first.Export, stats)
	d.failed = func(string, int64, int, error) {}
	status := byte(0xaa)
	r := request{in: [][]byte{p}, inBytes: int64(len(p)), status: &status}
	r.Type, r.Sector = wire.BlkIn, 4096/wire.SectorSize
	if !d.serve(&r, true) || status != wire.StatusIOError {
		t.Errorf("without a record of what is in flight: status %d", status)
	}
}

// TestSlow has one request of a queue wait, and the others pass.
func TestSlow(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 5)
	gate := &blockdevtest.Gate{Device: blockdevtest.NewMemory(want, nil), From: 0, To: 4096, Open: make(chan struct{})}
	s := &Server{Export: Export{Device: gate}, MaxRequests: 8}
	c := dial(t, vhostuserclient.Dialer{}, start(t, s))
	const slow = 7
	var wg sync.WaitGroup
	for range slow {
		wg.Go(func() {
			p := make([]byte, 4096)
			if _, err := c.ReadAt(p, 0); err != nil || !bytes.Equal(p, want[:4096]) {
				t.Errorf("slow read: %v", err)
			}
		})
	}
	for gate.Waiting.Load() < slow {
		runtime.Gosched()
	}
	p := make([]byte, 4096)
	for off := int64(4096); off < 64<<10; off += 4096 {
		if _, err := c.ReadAt(p, off); err != nil || !bytes.Equal(p, want[off:off+4096]) {
			t.Errorf("read beside slow ones: %v", err)
		}
	}
	// Told to end, the server waits for them, within a bound.
	soon, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Shutdown(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shut down over slow requests: %v", err)
	}
	close(gate.Open)
	wg.Wait()
}

// TestSecondFrontEnd serves one front end after the other.
func TestSecondFrontEnd(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 6)
	s := &Server{Export: Export{Device: blockdevtest.NewMemory(want, nil)}}
	path := start(t, s)
	before := openfiles.In(t)
	for i := range 3 {
		c := dial(t, vhostuserclient.Dialer{Slots: true, Queues: 2}, path)
		if !s.Connected() {
			t.Error("not connected")
		}
		if err := c.Remap(); err != nil {
			t.Error(err)
		}
		p := make([]byte, 4096)
		if _, err := c.ReadAt(p, 8192); err != nil || !bytes.Equal(p, want[8192:8192+4096]) {
			t.Errorf("front end %d: %v", i, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := (vhostuserclient.Dialer{Queues: DefaultQueues + 1}).Dial(t.Context(), path); err == nil {
		t.Error("more queues than there are: no error")
	}
	for s.Connected() {
		runtime.Gosched()
	}
	if n := openfiles.In(t); n != before {
		t.Errorf("%d descriptors are open, %d before", n, before)
	}
}

// TestHandshakeIsNotCut shuts a server down while a front end shakes hands with it.
func TestHandshakeIsNotCut(t *testing.T) {
	s := &Server{Export: Export{Device: blockdevtest.NewMemory(make([]byte, 4096), nil)}, silence: 5 * time.Second} // the machine may be busy
	nc, err := net.Dial("unix", start(t, s))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	u := nc.(*net.UnixConn)
	var reply transport.Message
	ask := func() error {
		err := transport.Send(u, wire.Header{Request: wire.GetFeatures}, nil)
		if err == nil {
			err = reply.Receive(u)
		}
		reply.CloseFiles()
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(t.Context()) }()
	for range 20 {
		if err := ask(); err != nil {
			t.Fatalf("the handshake was cut: %v", err)
		}
		time.Sleep(settleTime / 2)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := ask(); err == nil {
		t.Error("served after Shutdown")
	}
}

// TestDropped goes on after a front end that just went, with requests running.
func TestDropped(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 7)
	s := &Server{Export: Export{Device: &blockdevtest.Slow{Device: blockdevtest.NewMemory(want, nil), Delay: 3 * time.Millisecond}}}
	path := start(t, s)
	c := dial(t, vhostuserclient.Dialer{Reconnect: true}, path)
	var wg sync.WaitGroup
	var dropped atomic.Bool
	for i := range int64(8) {
		wg.Go(func() {
			p := make([]byte, 4096)
			for k := int64(0); k < 20 || !dropped.Load(); k++ {
				off := (i*20 + k%20) * 4096
				if _, err := c.ReadAt(p, off); err != nil || !bytes.Equal(p, want[off:off+4096]) {
					t.Errorf("read at %d: %v", off, err)
				}
			}
		})
	}
	for range 5 {
		c.Drop()
		time.Sleep(2 * time.Millisecond)
	}
	dropped.Store(true)
	wg.Wait()
	for begun := time.Now(); len(c.Gaps()) == 0; time.Sleep(time.Millisecond) { // the server may have answered all before
		if time.Since(begun) > 30*time.Second {
			t.Fatal("the connection was not lost")
		}
	}
}

// TestTruncated has a front end take memory away. Its connection ends, and the
// process does not.
func TestTruncated(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 8)
	s := &Server{Export: Export{Device: blockdevtest.NewScratch(want)}, Log: slog.New(slog.DiscardHandler)}
	path := start(t, s)
	// Nothing is left; then descriptors, rings (three pages), a header.
	for _, size := range []int64{0, 4096, 3 * 4096, 4 * 4096} {
		before := s.Stats().Faults
		c, err := vhostuserclient.Dialer{Shrinkable: true, QueueSize: 8, Buffer: 64 << 10}.Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		q := c.Queue(0)
		q.Read(0, 0, 4096)
		q.Submit(0)
		if size >= 3*4096 {
			if err := c.Truncate(size); err != nil {
				t.Fatal(err)
			}
			q.Kick()
		} else {
			q.Kick()
			if err := c.Truncate(size); err != nil {
				t.Fatal(err)
			}
			c.KickOnly()
		}
		<-c.Lost()
		_ = c.Close()
		if s.Stats().Faults == before {
			t.Errorf("shortened to %d: no fault", size)
		}
	}
	c := dial(t, vhostuserclient.Dialer{}, path)
	got := make([]byte, len(want))
	if readAll(t, c, got); !bytes.Equal(got, want) {
		t.Error("the next front end reads something else")
	}
}

// TestBlind serves a front end that does not kick.
func TestBlind(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 9)
	path := start(t, &Server{Export: Export{Device: blockdevtest.NewMemory(want, nil)}})
	c := dial(t, vhostuserclient.Dialer{Blind: true, Buffer: 4096}, path)
	got := make([]byte, 100<<10)
	if readAll(t, c, got); !bytes.Equal(got, want[:len(got)]) {
		t.Error("wrong bytes")
	}
}

// TestIdle wakes rings that no longer have a thread.
func TestIdle(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 12)
	path := start(t, &Server{Export: Export{Device: blockdevtest.NewMemory(want, nil)}})
	c := dial(t, vhostuserclient.Dialer{Queues: 4}, path)
	p := make([]byte, 4096)
	for off := int64(0); off < 16*4096; off += 4096 {
		if off%(4*4096) == 0 {
			time.Sleep(2 * idleWait)
		}
		if _, err := c.ReadAt(p, off); err != nil || !bytes.Equal(p, want[off:off+4096]) {
			t.Errorf("read after a pause: %v", err)
		}
	}
}
