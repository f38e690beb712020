package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
	"github.com/rivuletfs/rivulet/frontend/nbd/nbdclient"
)

// A relay is one socket that one server after the other serves, as processes do.
type relay struct {
	t       *testing.T
	file    *os.File // of the listening socket
	addr    net.Addr
	exports []Export
	srv     *Server
	running *sync.WaitGroup
}

func newRelay(t *testing.T, exports ...Export) *relay {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, file: file, addr: ln.Addr(), exports: exports}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	r.serve(nil)
	t.Cleanup(func() {
		_ = r.srv.Shutdown(context.Background())
		r.running.Wait()
		_ = file.Close()
	})
	return r
}

// serve starts a server with what the one before handed off.
func (r *relay) serve(handed []Handed) {
	r.t.Helper()
	r.srv, r.running = &Server{Log: testLog(r.t), HandshakeTimeout: time.Hour}, &sync.WaitGroup{}
	for _, e := range r.exports {
		if err := r.srv.AddExport(e); err != nil {
			r.t.Fatal(err)
		}
	}
	ln, err := net.FileListener(r.file)
	if err != nil {
		r.t.Fatal(err)
	}
	srv := r.srv
	r.running.Go(func() {
		// It may be handed off before it has begun.
		if err := srv.Serve(context.Background(), ln); err != nil && !errors.Is(err, ErrClosed) {
			r.t.Errorf("Serve: %v", err)
		}
	})
	for _, h := range handed {
		if err := srv.Resume(context.Background(), h); err != nil {
			r.t.Errorf("Resume: %v", err)
		}
	}
}

// handOff passes everything on to the next server, by way of JSON.
func (r *relay) handOff() []Handed {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	handed, err := r.srv.HandOff(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	r.running.Wait()
	for i := range handed {
		b, err := json.Marshal(handed[i].State)
		if err != nil {
			r.t.Fatal(err)
		}
		handed[i].State = ConnState{}
		if err := json.Unmarshal(b, &handed[i].State); err != nil {
			r.t.Fatal(err)
		}
	}
	return handed
}

// beginHandOff returns once handOff has begun. The channel is closed without a value if it fails.
func (r *relay) beginHandOff() <-chan []Handed {
	r.t.Helper()
	handed := make(chan []Handed, 1)
	go func() {
		defer close(handed)
		handed <- r.handOff()
	}()
	waitFor(r.t, "the hand-over to begin", r.srv.handing.Load)
	return handed
}

// TestHandOff hands connections on while they are read from, by clients with and
// without structured replies, over a fast device and a slow one.
func TestHandOff(t *testing.T) {
	want := blockdevtest.Pattern(4<<20, 11)
	memory := blockdevtest.NewMemory(want, func(page int64) bool { return page%9 < 4 })
	slow := &blockdevtest.Slow{Device: memory, Delay: 2 * time.Millisecond}
	r := newRelay(t, Export{Name: "fast", Device: memory}, Export{Name: "slow", Device: slow})
	ctx, stop := context.WithCancel(t.Context())
	var g errgroup.Group
	for _, name := range []string{"fast", "slow"} {
		c := dial(t, r.addr, name)
		for range 8 {
			g.Go(func() error { return readRandomly(ctx, c, want) })
		}
	}
	const turns = 20
	for range turns {
		time.Sleep(10 * time.Millisecond)
		handed := r.handOff()
		if len(handed) != 2 {
			t.Fatalf("%d connections are handed on, want 2", len(handed))
		}
		r.serve(handed)
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if st := r.srv.Stats(); st.Connections != 2 || st.Failed != 0 {
		t.Errorf("the last server: %+v", st)
	}
}

// TestHandOffWrites hands connections on while they are written to: every write
// is answered once and is there, long ones and those that wait for the medium too.
func TestHandOffWrites(t *testing.T) {
	const writers, share = 6, 3 << 20
	d := blockdevtest.NewScratch(make([]byte, writers*share))
	r := newRelay(t, Export{Name: "d", Device: d})
	ctx, stop := context.WithCancel(t.Context())
	var g errgroup.Group
	for i := range writers {
		w := writer(t, dial(t, r.addr, "d"))
		g.Go(func() error { return writeRandomly(ctx, w, int64(i*share), share) })
	}
	for range 20 {
		time.Sleep(10 * time.Millisecond)
		handed := r.handOff()
		if len(handed) != writers {
			t.Fatalf("%d connections are handed on, want %d", len(handed), writers)
		}
		r.serve(handed)
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if st := r.srv.Stats(); st.Connections != writers || st.Failed != 0 {
		t.Errorf("the last server: %+v", st)
	}
}

// writeRandomly writes to a part of a device until ctx ends, several at once in
// parts of their own, and compares.
func writeRandomly(ctx context.Context, w *nbdclient.Writer, off, n int64) error {
	const lanes = 2
	n /= lanes
	var g errgroup.Group
	for lane := range int64(lanes) {
		g.Go(func() error {
			off, want := off+lane*n, make([]byte, n)
			for round := 0; ctx.Err() == nil; round++ {
				from := rand.IntN(len(want))
				p := want[from:min(len(want), from+1+rand.IntN(1<<(4+round%18)))]
				for i := range p {
					p[i] = byte(round + i)
				}
				_, err := w.WriteAt(p, off+int64(from))
				if err == nil && round%5 == 0 {
					err = w.Flush()
				}
				if err != nil {
					return err
				}
			}
			got := make([]byte, n)
			if _, err := w.ReadAt(got, off); err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("bytes at %d are not those written", off)
			}
			return nil
		})
	}
	return g.Wait()
}

// readRandomly reads and compares until ctx ends.
func readRandomly(ctx context.Context, c *nbdclient.Client, want []byte) error {
	got := make([]byte, 64<<10)
	for ctx.Err() == nil {
		off := rand.IntN(len(want))
		n := min(1+rand.IntN(len(got)), len(want)-off)
		if _, err := c.ReadAt(got[:n], int64(off)); err != nil {
			return err
		}
		if !bytes.Equal(got[:n], want[off:off+n]) {
			return fmt.Errorf("%d bytes at %d are wrong", n, off)
		}
	}
	return nil
}

// TestHandOffPending hands a connection on with requests, and a part of one,
// that were sent and not looked at, behind one that takes its time.
func TestHandOffPending(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 12)
	gate := &blockdevtest.Gate{Device: blockdevtest.NewMemory(want, nil), From: 0, To: 4096, Open: make(chan struct{})}
	r := newRelay(t, Export{Device: gate})
	nc := rawClient(t, r.addr, false)
	var send []byte
	const length = 512 // so that all replies have room in the socket: nobody takes them until all is handed on
	for i := range 60 {
		send = wire.Request{Cookie: uint64(i), Offset: uint64(i) * 4096, Length: length}.Append(send)
	}
	cut := len(send) - 10
	if _, err := nc.Write(send[:cut]); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the slow read", func() bool { return gate.Waiting.Load() == 1 })
	handed := r.beginHandOff()
	close(gate.Open)
	list := <-handed
	if len(list) != 1 {
		t.Fatalf("%d connections are handed on, want 1", len(list))
	}
	if _, err := nc.Write(send[cut:]); err != nil {
		t.Fatal(err)
	}
	r.serve(list)
	seen := map[uint64]bool{}
	reply := make([]byte, wire.SimpleReplySize+length)
	for range 60 {
		if _, err := io.ReadFull(nc, reply); err != nil {
			t.Fatalf("after %d replies: %v", len(seen), err)
		}
		cookie := uint64(reply[15])
		if at := cookie * 4096; seen[cookie] || !bytes.Equal(reply[wire.SimpleReplySize:], want[at:at+length]) {
			t.Fatalf("reply to %d: twice, or wrong", cookie)
		}
		seen[cookie] = true
	}
}

// TestHandOffDuringHandshake waits for a client that is about to choose.
func TestHandOffDuringHandshake(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 13)
	r := newRelay(t, Export{Name: "d", Device: blockdevtest.NewMemory(want, nil)})
	nc := connect(t, r.addr)
	exchange(t, nc, nil, wire.GreetingSize)
	waitFor(t, "the connection", func() bool { return r.srv.Stats().Connections == 1 })
	handed := r.beginHandOff()
	send := wire.AppendOption([]byte{0, 0, 0, 3}, wire.OptExportName, []byte("d"))
	exchange(t, nc, send, 10)
	r.serve(<-handed)
	request := wire.Request{Cookie: 1, Offset: 512, Length: 512}.Append(nil)
	reply := exchange(t, nc, request, wire.SimpleReplySize+512)
	if !bytes.Equal(reply[wire.SimpleReplySize:], want[512:1024]) {
		t.Error("wrong bytes after the hand-over")
	}
}

// TestHandOffSpeechless does not wait for a client that connects and says nothing.
func TestHandOffSpeechless(t *testing.T) {
	r := newRelay(t, Export{Name: "d", Device: blockdevtest.NewMemory(make([]byte, 4096), nil)})
	nc := connect(t, r.addr)
	exchange(t, nc, nil, wire.GreetingSize)
	waitFor(t, "the connection", func() bool { return r.srv.Stats().Connections == 1 })
	if handed := r.handOff(); len(handed) != 0 {
		t.Errorf("%d connections are handed on", len(handed))
	}
	if n, err := nc.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("its connection is not over: %d bytes, %v", n, err)
	}
}

// A leaving device is left to the next process.
type leaving struct{ blockdev.Device }

func (leaving) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("wrapped: %w", blockdev.ErrLeft)
}

// TestLeft ends a connection without an answer when its device is left to the next
// process.
func TestLeft(t *testing.T) {
	r := newRelay(t, Export{Device: leaving{blockdevtest.NewMemory(make([]byte, 4096), nil)}})
	nc := rawClient(t, r.addr, false)
	exchange(t, nc, wire.Request{Cookie: 1, Length: 512}.Append(nil), 0)
	if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d bytes of an answer, %v", n, err)
	}
}

// TestHandOffSilent hands on a connection whose reader waits in a read, and in a
// poll; and has a client pause within a request and within what it wants written,
// which a hand-over waits for.
func TestHandOffSilent(t *testing.T) {
	want := blockdevtest.Pattern(1<<20, 14)
	r := newRelay(t, Export{Device: blockdevtest.NewMemory(want, nil)})
	nc := rawClient(t, r.addr, false)
	read := wire.Request{Cookie: 1, Offset: 512, Length: 512}.Append(nil)
	for _, pause := range []time.Duration{0, silence / 2, 4 * silence} {
		if reply := exchange(t, nc, read, wire.SimpleReplySize+512); !bytes.Equal(reply[wire.SimpleReplySize:], want[512:1024]) {
			t.Error("wrong bytes")
		}
		time.Sleep(pause)
		handed := r.handOff()
		if len(handed) != 1 {
			t.Fatalf("after %v: %d connections are handed on, want 1", pause, len(handed))
		}
		r.serve(handed)
	}
	write := append(wire.Request{Command: wire.CmdWrite, Cookie: 2, Length: 9}.Append(nil), "payload!!"...)
	var handed <-chan []Handed
	for i, part := range [][]byte{write[:10], write[10:wire.RequestSize], write[wire.RequestSize : wire.RequestSize+4]} {
		exchange(t, nc, part, 0)
		time.Sleep(4 * silence)
		if i == 2 { // it has begun with the request
			handed = r.beginHandOff()
			time.Sleep(4 * silence)
		}
	}
	if reply := exchange(t, nc, write[wire.RequestSize+4:], wire.SimpleReplySize); wire.Errno(reply[7]) != wire.EPERM {
		t.Errorf("a write is answered by % x", reply)
	}
	r.serve(<-handed)
	exchange(t, nc, read, wire.SimpleReplySize+512)
}

// A lateListener accepts one connection at the moment it is closed.
type lateListener struct {
	net.Listener
	nc     net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *lateListener) Accept() (net.Conn, error) {
	<-l.closed
	time.Sleep(20 * time.Millisecond)
	nc := l.nc
	if l.nc = nil; nc == nil {
		return nil, net.ErrClosed
	}
	return nc, nil
}

func (l *lateListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// TestHandOffJustAccepted hands on a connection that is accepted as the hand-over
// begins.
func TestHandOffJustAccepted(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		defer func() { _ = ends[i].Close() }()
	}
	s := &Server{Log: testLog(t)}
	if err := s.AddExport(Export{Name: "d", Device: blockdevtest.NewMemory(make([]byte, 1<<20), nil)}); err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- s.Serve(t.Context(), &lateListener{nc: ends[0], closed: make(chan struct{})}) }()
	waitFor(t, "Serve", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.serving == 1 })
	go func() {
		_, _ = ends[1].Write(wire.AppendOption([]byte{0, 0, 0, 3}, wire.OptExportName, []byte("d")))
	}()
	handed, err := s.HandOff(t.Context())
	if len(handed) != 1 || err != nil {
		t.Errorf("%d connections are handed on, %v; want the one just accepted", len(handed), err)
	}
	for _, h := range handed {
		_ = unix.Close(h.FD)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestHandOffBounded cuts off what does not come to an end.
func TestHandOffBounded(t *testing.T) {
	gate := &blockdevtest.Gate{Device: blockdevtest.NewMemory(make([]byte, 1<<20), nil), From: 0, To: 4096, Open: make(chan struct{})}
	r := newRelay(t, Export{Device: gate})
	stuck, idle := rawClient(t, r.addr, false), rawClient(t, r.addr, false)
	if _, err := stuck.Write(wire.Request{Length: 4096}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the read", func() bool { return gate.Waiting.Load() == 1 })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		waitFor(t, "the idle connection", func() bool { return r.srv.Stats().Connections == 1 })
		cancel()
		if n, err := stuck.Read(make([]byte, 1)); err == nil {
			t.Errorf("the stuck connection got %d bytes", n)
		}
		close(gate.Open)
	}()
	handed, err := r.srv.HandOff(ctx)
	if len(handed) != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d handed on, %v; want the idle one, and an error", len(handed), err)
	}
	r.running.Wait()
	r.serve(handed)
	exchange(t, idle, wire.Request{Offset: 8192, Length: 512}.Append(nil), wire.SimpleReplySize+512)
}

// TestHandOffTLS ends connections whose keys cannot travel, in good order.
func TestHandOffTLS(t *testing.T) {
	certFile, keyFile := certificate(t)
	cfg, err := LoadTLS(certFile, keyFile, certFile)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{TLS: cfg}
	addr := start(t, s, Export{Name: "d", Device: blockdevtest.NewMemory(blockdevtest.Pattern(1<<20, 1), nil)})
	secure, err := URI(addr, "d", true)
	if err != nil {
		t.Fatal(err)
	}
	client := &tls.Config{RootCAs: cfg.ClientCAs, MinVersion: tls.VersionTLS12, Certificates: cfg.Certificates, ServerName: "127.0.0.1"}
	c, err := (&nbdclient.Dialer{TLS: client}).Dial(t.Context(), secure)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.ReadAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if handed, err := s.HandOff(t.Context()); len(handed) != 0 || err != nil {
		t.Errorf("%d connections handed on, %v", len(handed), err)
	}
}
