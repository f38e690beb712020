package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// connect opens a connection that ends with the test.
func connect(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	nc, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// exchange sends and reads want bytes.
func exchange(t testing.TB, nc net.Conn, send []byte, want int) []byte {
	t.Helper()
	if _, err := nc.Write(send); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, want)
	if n, err := io.ReadFull(nc, got); err != nil {
		t.Fatalf("%d bytes of %d: %v", n, want, err)
	}
	return got
}

// TestKernelSequence does what nbd-client and the kernel do: GO, then simple
// replies only, reads of pages and of readahead windows with many in flight, a
// flush, on several connections; and at the end DISC.
func TestKernelSequence(t *testing.T) {
	const size = 1 << 20
	want := blockdevtest.Pattern(size, 11)
	addr := start(t, &Server{}, Export{Name: "d", Device: blockdevtest.NewMemory(want, nil)})
	var conns [3]net.Conn
	for i := range conns {
		conns[i] = connect(t, addr)
		exchange(t, conns[i], []byte{0, 0, 0, 3}, wire.GreetingSize)
		const infos = 2*wire.OptionReplyHeaderSize + 12 + 14
		got := exchange(t, conns[i], wire.AppendOption(nil, wire.OptGo, wire.InfoRequest{Name: "d"}.Append(nil)),
			infos+wire.OptionReplyHeaderSize)
		e, err := wire.ParseInfoExport(got[wire.OptionReplyHeaderSize:][:12])
		if err != nil || e.Size != size || e.Flags&wire.FlagSendDF != 0 ||
			e.Flags&(wire.FlagReadOnly|wire.FlagCanMultiConn|wire.FlagSendFlush) != wire.FlagReadOnly|wire.FlagCanMultiConn|wire.FlagSendFlush {
			t.Fatalf("export %+v, %v", e, err)
		}
	}
	for _, nc := range conns {
		var send []byte
		lengths := map[uint64]int{}
		for i := range uint64(200) {
			length := []uint32{4096, 128 << 10, 1024, 256 << 10}[i%4]
			lengths[i] = int(length)
			send = wire.Request{Cookie: i, Offset: i * 4096, Length: length}.Append(send)
			if i*4096+uint64(length) > size {
				lengths[i] = -1
			}
		}
		send = wire.Request{Command: wire.CmdFlush, Cookie: 1000}.Append(send)
		send = wire.Request{Command: wire.CmdDisc}.Append(send)
		lengths[1000] = 0
		go func() { _, _ = nc.Write(send) }()
		takeSimple(t, nc, want, lengths)
		if n, err := nc.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("after DISC: %d bytes, %v; want the end", n, err)
		}
	}
}

// takeSimple takes simple replies in any order to requests that are told apart
// by cookie, each of so many bytes, -1 for EINVAL; page i begins at i*4096.
func takeSimple(t *testing.T, nc net.Conn, want []byte, lengths map[uint64]int) {
	t.Helper()
	for len(lengths) > 0 {
		var h [wire.SimpleReplySize]byte
		if _, err := io.ReadFull(nc, h[:]); err != nil {
			t.Fatalf("%d replies are missing: %v", len(lengths), err)
		}
		cookie, errno := binary.BigEndian.Uint64(h[8:]), wire.Errno(binary.BigEndian.Uint32(h[4:]))
		n, ok := lengths[cookie]
		delete(lengths, cookie)
		if !ok || binary.BigEndian.Uint32(h[:]) != wire.SimpleReplyMagic || (n < 0) != (errno == wire.EINVAL) || n >= 0 && errno != 0 {
			t.Fatalf("reply %x, expected %v with %d bytes", h, ok, n)
		}
		if n <= 0 {
			continue
		}
		got := make([]byte, n)
		if _, err := io.ReadFull(nc, got); err != nil || !bytes.Equal(got, want[cookie*4096:][:n]) {
			t.Fatalf("read %d: wrong bytes, %v", cookie, err)
		}
	}
}

// TestExportName ends handshakes in the old way.
func TestExportName(t *testing.T) {
	addr := start(t, &Server{Log: slog.New(slog.DiscardHandler)}, Export{Name: "d", Device: blockdevtest.NewMemory(make([]byte, 4096), nil)})
	choose := wire.AppendOption(nil, wire.OptExportName, []byte("d"))
	for _, c := range []struct {
		name    string
		flags   byte
		send    []byte
		padding int
	}{
		{"with zeroes", 1, choose, wire.ExportNameZeroes},
		{"without zeroes", 3, choose, 0},
		{"before fixed newstyle", 0, choose, wire.ExportNameZeroes},
		{"before fixed newstyle, without zeroes", 2, choose, 0},
	} {
		nc := connect(t, addr)
		got := exchange(t, nc, append([]byte{0, 0, 0, c.flags}, c.send...), wire.GreetingSize+10+c.padding)[wire.GreetingSize:]
		if binary.BigEndian.Uint64(got) != 4096 || !bytes.Equal(got[10:], make([]byte, c.padding)) {
			t.Errorf("%s: %x", c.name, got)
		}
		exchange(t, nc, wire.Request{Length: 512}.Append(nil), wire.SimpleReplySize+512)
	}
	for name, send := range map[string][]byte{
		"unknown export":                   append([]byte{0, 0, 0, 3}, wire.AppendOption(nil, wire.OptExportName, []byte("x"))...),
		"unknown flags":                    append([]byte{0, 0, 0, 7}, choose...),
		"an option before fixed newstyle":  append([]byte{0, 0, 0, 0}, wire.AppendOption(nil, wire.OptList, nil)...),
		"a long option before that":        append([]byte{0, 0, 0, 0}, wire.AppendOption(nil, wire.OptList, make([]byte, 1<<17))...),
		"name longer than we look at data": append([]byte{0, 0, 0, 3}, wire.AppendOption(nil, wire.OptExportName, make([]byte, 1<<17))...),
	} {
		if got := talk(t, addr, send); len(got) != 0 {
			t.Errorf("%s: answers %x, want the end", name, got)
		}
	}
}

// TestContextsOfAnotherExport negotiates contexts for one export and goes for
// another: there are none then.
func TestContextsOfAnotherExport(t *testing.T) {
	d := blockdevtest.NewMemory(make([]byte, 4096), nil)
	addr := start(t, &Server{}, Export{Name: "a", Device: d}, Export{Name: "b", Device: d})
	for _, c := range []struct {
		name  string
		reply int // bytes of the reply to a block status
	}{{"a", wire.ChunkHeaderSize + 4 + wire.StatusEntrySize}, {"b", wire.ErrorSize}} {
		nc := connect(t, addr)
		exchange(t, nc, []byte{0, 0, 0, 3}, wire.GreetingSize)
		exchange(t, nc, wire.AppendOption(nil, wire.OptStructuredReply, nil), wire.OptionReplyHeaderSize)
		exchange(t, nc, wire.AppendOption(nil, wire.OptSetMeta,
			wire.MetaRequest{Name: "a", Queries: []string{wire.ContextAllocation}}.Append(nil)),
			2*wire.OptionReplyHeaderSize+4+len(wire.ContextAllocation))
		exchange(t, nc, wire.AppendOption(nil, wire.OptExportName, []byte(c.name)), 10)
		send := wire.Request{Command: wire.CmdBlockStatus, Cookie: 5, Length: 4096}.Append(nil)
		send = wire.Request{Command: wire.CmdDisc}.Append(send)
		if _, err := nc.Write(send); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(nc)
		if err != nil || len(got) != c.reply {
			t.Errorf("export %s: %d bytes, %v; want %d", c.name, len(got), err, c.reply)
		}
	}
}

// dialogue is a whole connection of a client that knows what will be answered.
func dialogue() []byte {
	send := []byte{0, 0, 0, 3}
	send = wire.AppendOption(send, wire.OptStructuredReply, nil)
	send = wire.AppendOption(send, wire.OptSetMeta,
		wire.MetaRequest{Name: "d", Queries: []string{wire.ContextAllocation, wire.ContextLocal}}.Append(nil))
	send = wire.AppendOption(send, wire.OptGo, wire.InfoRequest{Name: "d", Info: []wire.InfoType{wire.InfoName}}.Append(nil))
	send = wire.Request{Cookie: 1, Length: 12 << 10}.Append(send)
	send = append(wire.Request{Command: wire.CmdWrite, Cookie: 2, Length: 9}.Append(send), "payload!!"...)
	send = wire.Request{Command: wire.CmdBlockStatus, Cookie: 3, Length: 64 << 10}.Append(send)
	return wire.Request{Command: wire.CmdDisc}.Append(send)
}

// TestCutEverywhere ends the client's sending at each byte of a connection, in
// good order and by closing: the server ends it too, and what it said until
// then is the begin of what it says to the whole. (Replies may change places,
// so only the handshake and its length are compared.)
func TestCutEverywhere(t *testing.T) {
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	addr := start(t, s, Export{Name: "d", Device: blockdevtest.NewMemory(blockdevtest.Pattern(64<<10, 12), nil)})
	send := dialogue()
	say := func(n int) []byte {
		nc := connect(t, addr)
		if _, err := nc.Write(send[:n]); err != nil {
			t.Fatal(err)
		}
		if err := nc.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(nc)
		if err != nil {
			t.Fatalf("cut at byte %d: %v", n, err)
		}
		_ = nc.Close()
		return got
	}
	all := say(len(send))
	for n := range send {
		got := say(n)
		if len(got) > len(all) || !bytes.Equal(got[:min(len(got), 100)], all[:min(len(got), 100)]) {
			t.Errorf("cut at byte %d: %d bytes of %d, or other ones", n, len(got), len(all))
		}
		nc := connect(t, addr)
		_, _ = nc.Write(send[:n])
		_ = nc.Close() // what the server says meets a closed socket
	}
	waitFor(t, "all connections to end", func() bool { return s.Stats().Connections == 0 })
}

// failingWrites is a listener whose connections fail once they have sent so
// many bytes. They are of a type that the server cannot take a descriptor from.
type failingWrites struct {
	net.Listener
	after atomic.Int64
}

func (l *failingWrites) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return &failingConn{nc, int(l.after.Load())}, err
}

type failingConn struct {
	net.Conn
	left int
}

func (c *failingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p[:min(len(p), c.left)])
	if c.left -= n; err == nil && n < len(p) {
		err = io.ErrClosedPipe
	}
	return n, err
}

// TestWriteFailsEverywhere fails the server's writing at each byte of what it
// says in a connection.
func TestWriteFailsEverywhere(t *testing.T) {
	send := dialogue()
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	ln, err := Listen("unix:" + t.TempDir() + "/s")
	if err != nil {
		t.Fatal(err)
	}
	cut := &failingWrites{Listener: ln}
	addr := startOn(t, s, cut, Export{Name: "d", Device: blockdevtest.NewMemory(blockdevtest.Pattern(16<<10, 12), nil)})
	for n := 0; ; {
		cut.after.Store(int64(n))
		nc := connect(t, addr)
		_, _ = nc.Write(send)
		got, _ := io.ReadAll(nc) // a reset ends it as well
		_ = nc.Close()
		waitFor(t, "the connections to end", func() bool { return s.Stats().Connections == 0 })
		if len(got) < n {
			break // it said all
		}
		if n++; n > 400 {
			n += 509
		}
	}
}

// TestAbortedWhileItWaits has a connection that waits for memory that another
// holds, when its client goes away: it ends at once.
func TestAbortedWhileItWaits(t *testing.T) {
	const size = 64 << 20
	gate := &blockdevtest.Gate{Device: blockdev.NewFlat(zeros{}, size), From: 0, To: 1, Open: make(chan struct{})}
	s := &Server{MaxBytes: 1, WriteTimeout: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	addr := start(t, s, Export{Device: gate})
	defer close(gate.Open)
	holder := rawClient(t, addr, false)
	for range 2 {
		if _, err := holder.Write(wire.Request{Length: wire.MaxBlock}.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the pool to be taken", func() bool { return gate.Waiting.Load() == 2 })
	waiter := rawClient(t, addr, false)
	send := wire.Request{Offset: 4096, Length: 1 << 20}.Append(nil) // fills the socket
	send = wire.Request{Offset: 4096, Length: wire.MaxBlock}.Append(send)
	if _, err := waiter.Write(send); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the waiter to be dropped for taking no replies", func() bool { return s.Stats().Connections == 1 })
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }

// fullError is a device that fails reads after it has filled the buffer.
type fullError struct{ blockdev.Device }

var errLate = errors.New("the check came too late")

func (d fullError) ReadAt(p []byte, off int64) (int, error) {
	n, _ := d.Device.ReadAt(p, off)
	return n, errLate
}

func TestErrorWithAllBytes(t *testing.T) {
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	c := dial(t, start(t, s, Export{Device: fullError{blockdevtest.NewMemory(make([]byte, 4096), nil)}}), "")
	if _, err := c.ReadAt(make([]byte, 512), 0); err == nil {
		t.Error("bytes that the device failed were served")
	}
}

// TestServeAfterItsContext checks that the end of the context ends connections
// in the handshake and idle ones.
func TestServeAfterItsContext(t *testing.T) {
	ln, err := Listen("unix:" + t.TempDir() + "/s")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	if err := s.AddExport(Export{Device: blockdevtest.NewMemory(make([]byte, 4096), nil)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	silent, idle := connect(t, ln.Addr()), rawClient(t, ln.Addr(), true)
	exchange(t, silent, nil, wire.GreetingSize)
	cancel()
	for _, nc := range []net.Conn{silent, idle} {
		if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%d bytes, %v; want the end", n, err)
		}
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
