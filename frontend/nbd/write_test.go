package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
)

func writer(t testing.TB, c *nbdclient.Client) *nbdclient.Writer {
	t.Helper()
	w, err := c.Writer()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestWriterSuite runs the suite of writable devices over server and client, on
// sockets and over TLS.
func TestWriterSuite(t *testing.T) {
	want := blockdevtest.Pattern(3<<20+512, 21)
	for _, network := range []string{"unix", "tcp", "tls"} {
		t.Run(network, func(t *testing.T) {
			s := &Server{}
			client := &nbdclient.Dialer{}
			address := "tcp::0"
			switch network {
			case "unix":
				address = "unix:" + filepath.Join(t.TempDir(), "s")
			case "tls":
				certFile, keyFile := certificate(t)
				cfg, err := LoadTLS(certFile, keyFile, certFile)
				if err != nil {
					t.Fatal(err)
				}
				s.TLS = cfg
				client.TLS = &tls.Config{RootCAs: cfg.ClientCAs, MinVersion: tls.VersionTLS12, Certificates: cfg.Certificates, ServerName: "127.0.0.1"}
			}
			ln, err := Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			addr := startOn(t, s, ln)
			blockdevtest.TestWriter(t, func(t *testing.T) blockdev.Writer {
				e := Export{Name: t.Name(), Device: blockdevtest.NewScratch(want)}
				if err := s.AddExport(e); err != nil {
					t.Fatal(err)
				}
				u, err := URI(addr, e.Name, network == "tls")
				if err != nil {
					t.Fatal(err)
				}
				c, err := client.Dial(t.Context(), u)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				})
				return writer(t, c)
			}, want)
		})
	}
}

func TestReadOnlyIsNoWriter(t *testing.T) {
	c := dial(t, start(t, &Server{}, Export{Device: blockdevtest.NewMemory(make([]byte, 4096), nil)}), "")
	if _, err := c.Writer(); !errors.Is(err, nbdclient.ErrReadOnly) {
		t.Errorf("Writer: %v, want ErrReadOnly", err)
	}
	if _, ok := blockdev.Device(c).(blockdev.Writer); ok {
		t.Error("the client of a read-only export passes for a Writer")
	}
}

// A meddler is a device whose writes fail, or wait, in a range.
type meddler struct {
	*blockdevtest.Scratch
	from, to int64
	err      error
	open     chan struct{}
	waiting  atomic.Int64
}

func (m *meddler) WriteAt(p []byte, off int64) (int, error) {
	if off < m.to && off+int64(len(p)) > m.from {
		if m.err != nil {
			return 0, m.err
		}
		m.waiting.Add(1)
		<-m.open
		m.waiting.Add(-1)
	}
	return m.Scratch.WriteAt(p, off)
}

// TestWriteErrors checks which error number a client gets, for a write of one
// piece and of several, and that all goes on after it.
func TestWriteErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want wire.Errno
	}{{errors.New("medium error"), wire.EIO}, {errors.Join(errors.New("quota"), blockdev.ErrNoSpace), wire.ENOSPC}} {
		s := &Server{Log: slog.New(slog.DiscardHandler)}
		d := &meddler{Scratch: blockdevtest.NewScratch(make([]byte, 8<<20)), from: 5 << 20, to: 5<<20 + 1, err: c.err}
		w := writer(t, dial(t, start(t, s, Export{Device: d}), ""))
		for range 3 {
			for _, r := range [][2]int64{{0, 8 << 20}, {5 << 20, 512}} {
				_, err := w.WriteAt(bytes.Repeat([]byte{7}, int(r[1])), r[0])
				var errno nbdclient.Errno
				if !errors.As(err, &errno) || wire.Errno(errno) != c.want || errors.Is(err, blockdev.ErrNoSpace) != (c.want == wire.ENOSPC) {
					t.Errorf("write %d bytes at %d: %v, want %v", r[1], r[0], err, c.want)
				}
			}
			if _, err := w.WriteAt(make([]byte, 4096), 0); err != nil {
				t.Errorf("write after an error: %v", err)
			}
		}
		d.FailFlush(c.err)
		if err := w.Flush(); err == nil {
			t.Error("Flush: no error")
		}
	}
}

// TestFlushes looks at the medium: at what FUA leaves there, and a flush on
// another connection.
func TestFlushes(t *testing.T) {
	const size = 4 << 20
	d := blockdevtest.NewScratch(make([]byte, size))
	addr := start(t, &Server{}, Export{Device: d})
	nc, other := rawClient(t, addr, false), rawClient(t, addr, false)
	ask := func(nc net.Conn, r wire.Request, payload int) {
		t.Helper()
		r.Cookie = 9
		reply := exchange(t, nc, append(r.Append(nil), bytes.Repeat([]byte{1}, payload)...), wire.SimpleReplySize)
		if e := wire.Errno(binary.BigEndian.Uint32(reply[4:])); e != 0 || binary.BigEndian.Uint64(reply[8:]) != 9 {
			t.Errorf("%+v: reply %x", r, reply)
		}
	}
	left := func() int {
		t.Helper()
		d.Crash()
		p := make([]byte, size)
		if _, err := d.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		return bytes.Count(p, []byte{1})
	}
	ask(nc, wire.Request{Command: wire.CmdWrite, Length: 512}, 512)
	if n := left(); n != 0 {
		t.Errorf("%d bytes of an unflushed write are on the medium", n)
	}
	ask(nc, wire.Request{Command: wire.CmdWrite, Length: 1000, Flags: wire.CmdFlagFUA}, 1000)
	if n := left(); n != 1000 {
		t.Errorf("%d bytes of a write with FUA are on the medium, want 1000", n)
	}
	ask(nc, wire.Request{Command: wire.CmdWrite, Length: 3<<20 + 5, Flags: wire.CmdFlagFUA}, 3<<20+5)
	if n := left(); n != 3<<20+5 {
		t.Errorf("%d bytes of a long write with FUA are on the medium", n)
	}
	ask(nc, wire.Request{Command: wire.CmdWriteZeroes, Length: 5}, 0)
	ask(other, wire.Request{Command: wire.CmdFlush}, 0)
	if n := left(); n != 3<<20 {
		t.Errorf("after a flush on another connection %d bytes are left, want %d", n, 3<<20)
	}
	ask(nc, wire.Request{Command: wire.CmdTrim, Length: 3 << 20, Flags: wire.CmdFlagFUA}, 0)
	if n := left(); n != 5 {
		t.Errorf("after a trim %d bytes are left, want 5", n)
	}
}

// TestOddWrites sends what a client should not, and then a good request.
func TestOddWrites(t *testing.T) {
	const size = 1 << 20
	addr := start(t, &Server{}, Export{Device: blockdevtest.NewScratch(make([]byte, size))})
	nc := rawClient(t, addr, false)
	for _, c := range []struct {
		name    string
		r       wire.Request
		payload int
		want    wire.Errno
	}{
		{"over the end", wire.Request{Command: wire.CmdWrite, Offset: size - 1, Length: 70_000}, 70_000, wire.ENOSPC},
		{"flag of another", wire.Request{Command: wire.CmdWrite, Flags: wire.CmdFlagReqOne, Length: 70_000}, 70_000, wire.EINVAL},
		{"DF without structured replies", wire.Request{Command: wire.CmdWrite, Flags: wire.CmdFlagDF, Length: 9}, 9, wire.EINVAL},
		{"empty", wire.Request{Command: wire.CmdWrite}, 0, wire.EINVAL},
		{"fast zeroes", wire.Request{Command: wire.CmdWriteZeroes, Flags: wire.CmdFlagFastZero, Length: 1}, 0, wire.EINVAL},
		{"trim over the end", wire.Request{Command: wire.CmdTrim, Length: 1 << 31}, 0, wire.EINVAL},
		{"good", wire.Request{Command: wire.CmdWrite, Length: size}, size, 0},
	} {
		c.r.Cookie = 42
		got := exchange(t, nc, append(c.r.Append(nil), make([]byte, c.payload)...), wire.SimpleReplySize)
		var expect [wire.SimpleReplySize]byte
		wire.PutSimpleReply(expect[:], c.want, 42)
		if !bytes.Equal(got, expect[:]) {
			t.Errorf("%s: reply %x, want %x", c.name, got, expect)
		}
	}
}

// TestLargeWrites writes more at once than the connections may keep.
func TestLargeWrites(t *testing.T) {
	want := blockdevtest.Pattern(20<<20, 22)
	s := &Server{MaxBytes: 1}
	addr := start(t, s)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		d := blockdevtest.NewScratch(make([]byte, len(want)))
		if err := s.AddExport(Export{Name: name, Device: d}); err != nil {
			t.Fatal(err)
		}
		w := writer(t, dial(t, addr, name))
		wg.Go(func() {
			if n, err := w.WriteAt(want, 0); n != len(want) || err != nil {
				t.Errorf("write all: %d bytes, %v", n, err)
			}
			got := make([]byte, len(want))
			if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("export %s has other bytes, %v", name, err)
			}
		})
	}
	wg.Wait()
	if n := s.Stats().BytesWritten; n != int64(3*len(want)) {
		t.Errorf("%d bytes written by the statistics, want %d", n, 3*len(want))
	}
}

// TestSlowWriteHoldsNobodyUp writes and reads while another write waits.
func TestSlowWriteHoldsNobodyUp(t *testing.T) {
	d := &meddler{Scratch: blockdevtest.NewScratch(make([]byte, 4<<20)), to: 4096, open: make(chan struct{})}
	w := writer(t, dial(t, start(t, &Server{}, Export{Device: d}), ""))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := w.WriteAt(make([]byte, 3<<20), 0); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, "the slow writes", func() bool { return d.waiting.Load() == 4 })
	for off := int64(3 << 20); off < 4<<20; off += 8192 {
		want, got := bytes.Repeat([]byte{byte(off >> 13)}, 4096), make([]byte, 4096)
		if _, err := w.WriteAt(want, off); err != nil {
			t.Fatal(err)
		}
		if _, err := w.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read at %d: %v", off, err)
		}
	}
	close(d.open)
	wg.Wait()
}

// TestPayloadStaysInSocket sends more than a connection may have in flight: what
// is beyond that is not read.
func TestPayloadStaysInSocket(t *testing.T) {
	d := &meddler{Scratch: blockdevtest.NewScratch(make([]byte, 1<<20)), to: 1 << 20, open: make(chan struct{})}
	s := &Server{MaxBytes: 1}
	addr := start(t, s, Export{Device: d})
	nc := rawClient(t, addr, false)
	const writes = 80
	sent := make(chan error, 1)
	go func() {
		send := append(wire.Request{Command: wire.CmdWrite, Length: 1 << 20}.Append(nil), make([]byte, 1<<20)...)
		for range writes {
			if _, err := nc.Write(send); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	// The pool has 64 MiB, and there are 64 requests for a connection.
	waitFor(t, "64 writes", func() bool { return d.waiting.Load() == DefaultMaxRequests })
	other := writer(t, dial(t, addr, "")) // has memory of its own
	if err := other.Flush(); err != nil {
		t.Error(err)
	}
	if n := s.Stats().Requests; n > DefaultMaxRequests+2 { // one is read, and waits; one is the flush
		t.Errorf("%d requests were read", n)
	}
	close(d.open)
	if _, err := io.ReadFull(nc, make([]byte, writes*wire.SimpleReplySize)); err != nil {
		t.Error(err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestPayloadThatDoesNotCome has clients that announce a write and send nothing
// of it, or send it by the byte: they are dropped, on a socket and on any other
// connection.
func TestPayloadThatDoesNotCome(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for _, dribble := range []bool{false, true} {
			t.Run(fmt.Sprintf("plain=%t,dribble=%t", plain, dribble), func(t *testing.T) {
				t.Parallel()
				testNoPayload(t, plain, dribble)
			})
		}
	}
}

func testNoPayload(t *testing.T, plain, dribble bool) {
	s := &Server{WriteTimeout: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	addr := startOn(t, s, listen(t, plain), Export{Device: blockdevtest.NewScratch(make([]byte, wire.MaxBlock))})
	nc := rawClient(t, addr, false)
	exchange(t, nc, wire.Request{Command: wire.CmdWrite, Length: wire.MaxBlock}.Append(nil), 0)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if n, err := nc.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes of an answer", n)
		}
	}()
	for {
		select {
		case <-ended:
			waitFor(t, "the end of the connection", func() bool { return s.Stats().Connections == 0 })
			return
		case <-time.After(5 * time.Millisecond):
			if dribble {
				_, _ = nc.Write([]byte{1})
			}
		}
	}
}

// listen returns a listener on a unix socket; if plain, one whose connections the
// server cannot take a descriptor from.
func listen(t *testing.T, plain bool) net.Listener {
	t.Helper()
	ln, err := Listen("unix:" + filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	if plain {
		return plainListener{ln}
	}
	return ln
}

// plainListener hides what its connections are.
type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return struct{ net.Conn }{nc}, err
}

// TestShutdownInPayload shuts down while a write's payload is awaited.
func TestShutdownInPayload(t *testing.T) {
	for _, plain := range []bool{false, true} {
		s := &Server{}
		d := blockdevtest.NewScratch(make([]byte, 1<<20))
		nc := rawClient(t, startOn(t, s, listen(t, plain), Export{Device: d}), false)
		exchange(t, nc, append(wire.Request{Command: wire.CmdWrite, Length: 4096}.Append(nil), 1, 2, 3), 0)
		waitFor(t, "the request", func() bool { return s.Stats().Requests == 1 })
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("plain %t: %v", plain, err)
		}
		p := make([]byte, 3)
		if _, err := d.ReadAt(p, 0); err != nil || !bytes.Equal(p, make([]byte, 3)) {
			t.Errorf("plain %t: a part of a write is on the device: %v, %v", plain, p, err)
		}
	}
}

// FuzzTransmission sends any bytes to a writable export. The server ends the
// connection, and has all memory back.
func FuzzTransmission(f *testing.F) {
	write := append(wire.Request{Command: wire.CmdWrite, Offset: 100, Length: 9}.Append(nil), "payload!!"...)
	f.Add(write, false)
	f.Add(append(write, wire.Request{Command: wire.CmdWriteZeroes, Flags: wire.CmdFlagNoHole, Length: 4096}.Append(nil)...), true)
	f.Add(append(write, wire.Request{Command: wire.CmdTrim, Flags: wire.CmdFlagFUA, Length: 4096}.Append(nil)...), true)
	f.Add(wire.Request{Command: wire.CmdWrite, Length: 2 << 20}.Append(nil), true)
	f.Add(append(write[:20:20], write...), false)
	s := &Server{Log: slog.New(slog.DiscardHandler), WriteTimeout: 10 * time.Second}
	addr := start(f, s, Export{Device: blockdevtest.NewScratch(make([]byte, 3<<20))})
	f.Fuzz(func(t *testing.T, data []byte, structured bool) {
		nc := rawClient(t, addr, structured).(*net.UnixConn)
		go func() {
			_, _ = nc.Write(data)
			_ = nc.CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, nc); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Logf("the end: %v", err) // a reset, of what was not read
		}
		_ = nc.Close()
		waitFor(t, "the end of the connection", func() bool { return s.Stats().Connections == 0 })
		s.pool.mu.Lock()
		defer s.pool.mu.Unlock()
		if s.pool.free != s.maxBytes() || len(s.pool.waiters) > 0 {
			t.Errorf("the pool has %d bytes free of %d, and %d wait", s.pool.free, s.maxBytes(), len(s.pool.waiters))
		}
	})
}

// BenchmarkWrite has a client that keeps some writes in flight. Neither side
// should allocate.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		name        string
		size, depth int
	}{{"4KiB-depth1", 4 << 10, 1}, {"4KiB-depth16", 4 << 10, 16}, {"256KiB-depth8", 256 << 10, 8}, {"2MiB-depth2", 2 << 20, 2}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			writeMany(b, c.size, c.depth, b.N)
		})
	}
}

// writeMany sends so many writes, and takes the replies.
func writeMany(t testing.TB, size, depth, count int) {
	addr := start(t, &Server{Log: slog.New(slog.DiscardHandler)},
		Export{Device: blockdevtest.NewScratch(make([]byte, 16<<20))})
	nc := rawClient(t, addr, false)
	request := append(wire.Request{Command: wire.CmdWrite, Length: uint32(size)}.Append(nil), make([]byte, size)...)
	reply := make([]byte, wire.SimpleReplySize)
	if b, ok := t.(*testing.B); ok {
		b.SetBytes(int64(size))
		b.ResetTimer()
	}
	for sent, got := 0, 0; got < count; got++ {
		for ; sent < count && sent < got+depth; sent++ {
			if _, err := nc.Write(request); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.ReadFull(nc, reply); err != nil {
			t.Fatal(err)
		}
	}
}
