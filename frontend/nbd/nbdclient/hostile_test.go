package nbdclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const exportSize = 64 << 10

// serveOnce has one client served by fn, which gets the connection after
// accept. It returns the URI.
func serveOnce(t testing.TB, fn func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = nc.Close() }()
		fn(nc)
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-served
	})
	return "nbd+unix:///d?socket=" + path
}

// A script is what a server says: in the handshake to each option, and then to
// each request.
type script struct {
	greeting []byte
	options  map[wire.Option][]byte
	reply    func(wire.Request) []byte
}

// goodScript offers an export with structured replies and both contexts.
func goodScript() *script {
	set := wire.AppendReply(nil, wire.OptSetMeta, wire.RepMetaContext, wire.AppendMetaContext(nil, 1, wire.ContextAllocation))
	set = wire.AppendReply(set, wire.OptSetMeta, wire.RepMetaContext, wire.AppendMetaContext(nil, 2, wire.ContextLocal))
	return &script{
		greeting: wire.AppendGreeting(nil, wire.FlagFixedNewstyle|wire.FlagNoZeroes),
		options: map[wire.Option][]byte{
			wire.OptStructuredReply: ack(nil, wire.OptStructuredReply),
			wire.OptSetMeta:         ack(set, wire.OptSetMeta),
			wire.OptGo:              goReply(exportSize, wire.BlockSize{Minimum: 1, Preferred: 4096, Maximum: wire.MaxBlock}),
		},
	}
}

func ack(b []byte, o wire.Option) []byte { return wire.AppendReply(b, o, wire.RepAck, nil) }

func goReply(size uint64, block wire.BlockSize) []byte {
	b := wire.AppendReply(nil, wire.OptGo, wire.RepInfo, wire.AppendInfoExport(nil, wire.ExportInfo{Size: size, Flags: wire.FlagHasFlags | wire.FlagReadOnly}))
	b = wire.AppendReply(b, wire.OptGo, wire.RepInfo, wire.AppendInfoBlockSize(nil, block))
	return ack(b, wire.OptGo)
}

// play follows the script until the client leaves, or there is no answer.
func (s *script) play(nc net.Conn) {
	if _, err := nc.Write(s.greeting); err != nil || len(s.greeting) == 0 {
		return
	}
	if _, err := io.ReadFull(nc, make([]byte, 4)); err != nil {
		return
	}
	for done := false; !done; {
		var b [wire.OptionHeaderSize]byte
		if _, err := io.ReadFull(nc, b[:]); err != nil {
			return
		}
		o, _ := wire.ParseOptionHeader(b[:])
		if _, err := io.CopyN(io.Discard, nc, int64(o.Length)); err != nil {
			return
		}
		if _, err := nc.Write(s.options[o.Option]); err != nil || s.options[o.Option] == nil {
			return
		}
		done = o.Option == wire.OptGo
	}
	for {
		var b [wire.RequestSize]byte
		if _, err := io.ReadFull(nc, b[:]); err != nil {
			return
		}
		r, _ := wire.ParseRequest(b[:])
		if r.Command == wire.CmdDisc {
			return
		}
		if _, err := nc.Write(s.reply(r)); err != nil {
			return
		}
	}
}

func TestHostileHandshake(t *testing.T) {
	const o = wire.OptGo
	reply := func(o wire.Option, t wire.ReplyType, data ...byte) []byte { return wire.AppendReply(nil, o, t, data) }
	many := func(n int, b []byte) []byte { return bytes.Repeat(b, n) }
	huge := func(o wire.Option) []byte { // says that 4 GiB follow
		b := reply(o, wire.RepInfo)
		binary.BigEndian.PutUint32(b[16:], 1<<32-1)
		return b
	}
	block := wire.BlockSize{Minimum: 1, Preferred: 4096, Maximum: wire.MaxBlock}
	for name, change := range map[string]func(*script){
		"no greeting":          func(s *script) { s.greeting = []byte{} },
		"oldstyle":             func(s *script) { s.greeting[15]++ },
		"no fixed newstyle":    func(s *script) { s.greeting[17] = 2 },
		"answer to another":    func(s *script) { s.options[o] = ack(nil, wire.OptList) },
		"answer without magic": func(s *script) { s.options[o] = make([]byte, 20) },
		"huge answer":          func(s *script) { s.options[o] = huge(o) },
		"huge context":         func(s *script) { s.options[wire.OptSetMeta] = huge(wire.OptSetMeta) },
		"answers without end":  func(s *script) { s.options[o] = many(maxReplies+1, reply(o, wire.RepInfo, 0, 9)) },
		"contexts without end": func(s *script) {
			s.options[wire.OptSetMeta] = many(maxReplies+1, reply(wire.OptSetMeta, wire.RepMetaContext, 0, 0, 0, 1))
		},
		"no size":                func(s *script) { s.options[o] = ack(nil, o) },
		"size above 2^63":        func(s *script) { s.options[o] = goReply(1<<63, block) },
		"no block can be read":   func(s *script) { s.options[o] = goReply(4096, wire.BlockSize{Minimum: 1}) },
		"sectors only":           func(s *script) { s.options[o] = goReply(4096, wire.BlockSize{Minimum: 512, Maximum: wire.MaxBlock}) },
		"export cut short":       func(s *script) { s.options[o] = ack(reply(o, wire.RepInfo, 0, 0, 1), o) },
		"info of one byte":       func(s *script) { s.options[o] = ack(reply(o, wire.RepInfo, 0), o) },
		"context without ID":     func(s *script) { s.options[wire.OptSetMeta] = reply(wire.OptSetMeta, wire.RepMetaContext, 1) },
		"structured with data":   func(s *script) { s.options[wire.OptStructuredReply] = reply(wire.OptStructuredReply, wire.RepServer) },
		"export refused":         func(s *script) { s.options[o] = reply(o, wire.RepErrUnknown, 0xff, 0) },
		"closes after structure": func(s *script) { delete(s.options, wire.OptSetMeta) },
	} {
		s := goodScript()
		change(s)
		c, err := Dial(t.Context(), serveOnce(t, s.play))
		if err == nil {
			t.Errorf("%s: no error", name)
			_ = c.Close()
		}
	}
}

func TestHostileList(t *testing.T) {
	s := goodScript()
	entry := wire.AppendReply(nil, wire.OptList, wire.RepServer, wire.AppendServer(nil, "d", strings.Repeat("x", 4000)))
	s.options[wire.OptList] = ack(bytes.Repeat(entry, 1000), wire.OptList)
	if all, err := new(Dialer).List(t.Context(), serveOnce(t, s.play)); err == nil {
		t.Errorf("took a list of %d exports in 4 MB", len(all))
	}
	s.options[wire.OptList] = ack(bytes.Repeat(entry, 100), wire.OptList)
	s.options[wire.OptAbort] = ack(nil, wire.OptAbort)
	if all, err := new(Dialer).List(t.Context(), serveOnce(t, s.play)); err != nil || len(all) != 100 {
		t.Errorf("%d exports, %v; want 100", len(all), err)
	}
}

func data(r wire.Request, off uint64, n int, b byte, last bool) []byte {
	p := make([]byte, wire.DataPrefixSize, wire.DataPrefixSize+n)
	wire.PutData(p, r.Cookie, off, uint32(n), last)
	return append(p, bytes.Repeat([]byte{b}, n)...)
}

func hole(r wire.Request, off uint64, n uint32, last bool) []byte {
	var p [wire.HoleSize]byte
	wire.PutHole(p[:], r.Cookie, off, n, last)
	return p[:]
}

func chunk(flags uint16, t wire.ChunkType, cookie uint64, length uint32, data ...byte) []byte {
	p := make([]byte, wire.ChunkHeaderSize)
	wire.ChunkHeader{Flags: flags, Type: t, Cookie: cookie, Length: length}.Put(p)
	return append(p, data...)
}

func simple(e wire.Errno, cookie uint64, data ...byte) []byte {
	p := make([]byte, wire.SimpleReplySize)
	wire.PutSimpleReply(p, e, cookie)
	return append(p, data...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestHostileReads reads 4096 bytes at 8192 from servers that answer anything.
// Whatever they do, the read fails or has all its bytes from them.
func TestHostileReads(t *testing.T) {
	const off, n = 8192, 4096
	one := bytes.Repeat([]byte{1}, n)
	for name, c := range map[string]struct {
		reply func(r wire.Request) []byte
		want  []byte // nil: an error
	}{
		"simple": {func(r wire.Request) []byte { return simple(0, r.Cookie, one...) }, one},
		"pieces in any order": {func(r wire.Request) []byte {
			return join(data(r, off+3000, 1096, 1, false), hole(r, off, 2000, false), data(r, off+2000, 1000, 1, true))
		}, append(make([]byte, 2000), one[2000:]...)},
		"last chunk is empty": {func(r wire.Request) []byte {
			return join(data(r, off, n, 1, false), chunk(wire.ChunkFlagDone, wire.ChunkNone, r.Cookie, 0))
		}, one},
		"no magic":             {func(wire.Request) []byte { return make([]byte, 100) }, nil},
		"unknown cookie":       {func(r wire.Request) []byte { return simple(0, r.Cookie+1, one...) }, nil},
		"answered twice":       {func(r wire.Request) []byte { return join(simple(5, r.Cookie), simple(0, r.Cookie, one...)) }, nil},
		"no data":              {func(r wire.Request) []byte { return chunk(1, wire.ChunkNone, r.Cookie, 0) }, nil},
		"a part never":         {func(r wire.Request) []byte { return data(r, off, n-1, 1, true) }, nil},
		"a part in the middle": {func(r wire.Request) []byte { return join(data(r, off, 1, 1, false), data(r, off+2, n-2, 1, true)) }, nil},
		"a part twice":         {func(r wire.Request) []byte { return join(data(r, off, n, 1, false), hole(r, off, 1, true)) }, nil},
		"data before":          {func(r wire.Request) []byte { return data(r, off-1, n, 1, true) }, nil},
		"data behind":          {func(r wire.Request) []byte { return data(r, off+1, n, 1, true) }, nil},
		"data at the far end":  {func(r wire.Request) []byte { return data(r, 1<<64-1, n, 1, true) }, nil},
		"data of 4 GiB":        {func(r wire.Request) []byte { return chunk(1, wire.ChunkData, r.Cookie, 1<<32-1, make([]byte, 8)...) }, nil},
		"data without offset":  {func(r wire.Request) []byte { return chunk(1, wire.ChunkData, r.Cookie, 7, make([]byte, 7)...) }, nil},
		"data of no bytes":     {func(r wire.Request) []byte { return data(r, off, 0, 1, true) }, nil},
		"hole behind":          {func(r wire.Request) []byte { return hole(r, off, n+1, true) }, nil},
		"hole of 4 GiB":        {func(r wire.Request) []byte { return hole(r, off, 1<<32-1, true) }, nil},
		"hole of no bytes":     {func(r wire.Request) []byte { return hole(r, off, 0, true) }, nil},
		"hole with a tail":     {func(r wire.Request) []byte { return chunk(1, wire.ChunkHole, r.Cookie, 13, make([]byte, 13)...) }, nil},
		"status for a read": {func(r wire.Request) []byte {
			return wire.AppendStatus(nil, r.Cookie, 1, []wire.Status{{Length: n}}, true)
		}, nil},
		"unknown chunk":        {func(r wire.Request) []byte { return chunk(1, 99, r.Cookie, 0) }, nil},
		"simple after a chunk": {func(r wire.Request) []byte { return join(data(r, off, 1, 1, false), simple(0, r.Cookie, one...)) }, nil},
		"chunks without end":   {func(r wire.Request) []byte { return bytes.Repeat(hole(r, off, 1, false), maxChunks+1) }, nil},
		"error":                {func(r wire.Request) []byte { return simple(wire.EIO, r.Cookie) }, nil},
		"error after data": {func(r wire.Request) []byte {
			return join(data(r, off, n, 1, false), chunk(1, wire.ChunkError, r.Cookie, 6, 0, 0, 0, 5, 0, 0))
		}, nil},
		"error before data": {func(r wire.Request) []byte {
			return join(chunk(0, wire.ChunkErrorOffset, r.Cookie, 14, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), data(r, off, n, 1, true))
		}, nil},
		"error of number 0":     {func(r wire.Request) []byte { return chunk(1, wire.ChunkError, r.Cookie, 6, 0, 0, 0, 0, 0, 0) }, nil},
		"error with long words": {func(r wire.Request) []byte { return chunk(1, wire.ChunkError, r.Cookie, 6, 0, 0, 0, 5, 0xff, 0xff) }, nil},
		"error of 4 GiB":        {func(r wire.Request) []byte { return chunk(1, wire.ChunkError, r.Cookie, 1<<32-1) }, nil},
	} {
		s := goodScript()
		s.reply = c.reply
		client, err := Dial(t.Context(), serveOnce(t, s.play))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := bytes.Repeat([]byte{0xEE}, n)
		m, err := client.ReadAt(got, off)
		switch {
		case c.want == nil && (err == nil || m != 0) && name != "answered twice":
			t.Errorf("%s: %d bytes, no error", name, m)
		case c.want != nil && (err != nil || !bytes.Equal(got, c.want)):
			t.Errorf("%s: %v, or wrong bytes", name, err)
		}
		_ = client.Close()
	}
}

func TestHostileStatus(t *testing.T) {
	status := func(r wire.Request, id uint32, last bool, runs ...wire.Status) []byte {
		return wire.AppendStatus(nil, r.Cookie, id, runs, last)
	}
	whole := wire.Status{Length: exportSize}
	for name, c := range map[string]struct {
		reply func(r wire.Request) []byte
		ok    bool
	}{
		"both": {func(r wire.Request) []byte { return join(status(r, 1, false, whole), status(r, 2, true, whole)) }, true},
		"one":  {func(r wire.Request) []byte { return status(r, 2, true, wire.Status{Length: r.Length}) }, true},
		"a piece each time": {func(r wire.Request) []byte {
			return status(r, 1, true, wire.Status{Length: 4096, Flags: uint32(r.Offset) & 4096 >> 12})
		}, true},
		"unknown contexts": {func(r wire.Request) []byte {
			return join(status(r, 7, false, whole), status(r, 8, false, whole), status(r, 9, true, whole))
		}, true},
		"none":      {func(r wire.Request) []byte { return chunk(1, wire.ChunkNone, r.Cookie, 0) }, false},
		"simple":    {func(r wire.Request) []byte { return simple(0, r.Cookie) }, false},
		"no run":    {func(r wire.Request) []byte { return chunk(1, wire.ChunkBlockStatus, r.Cookie, 4, 0, 0, 0, 1) }, false},
		"empty run": {func(r wire.Request) []byte { return status(r, 1, true, wire.Status{}) }, false},
		"too long":  {func(r wire.Request) []byte { return status(r, 1, true, whole, wire.Status{Length: 1}) }, false},
		"overflow": {func(r wire.Request) []byte {
			return status(r, 1, true, wire.Status{Length: 1<<32 - 1}, wire.Status{Length: 2})
		}, false},
		"half an run":  {func(r wire.Request) []byte { return chunk(1, wire.ChunkBlockStatus, r.Cookie, 13, make([]byte, 13)...) }, false},
		"of 4 GiB":     {func(r wire.Request) []byte { return chunk(1, wire.ChunkBlockStatus, r.Cookie, 1<<32-4) }, false},
		"data instead": {func(r wire.Request) []byte { return data(r, 0, 4096, 1, true) }, false},
	} {
		s := goodScript()
		s.reply = c.reply
		client, err := Dial(t.Context(), serveOnce(t, s.play))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		at := int64(0)
		err = client.Extents(t.Context(), 0, exportSize, func(e blockdev.Extent) bool {
			if e.Offset != at || e.Length < 1 {
				t.Errorf("%s: extent %+v, expected one at %d", name, e, at)
			}
			at += e.Length
			return true
		})
		if (err == nil) != c.ok || c.ok && at != exportSize {
			t.Errorf("%s: extents end at %d, %v", name, at, err)
		}
		_ = client.Close()
	}
}

// TestSilentServer waits for a server that takes requests and does not answer.
func TestSilentServer(t *testing.T) {
	d := &Dialer{Timeout: 20 * time.Millisecond}
	if _, err := d.Dial(t.Context(), serveOnce(t, func(nc net.Conn) { _, _ = nc.Read(make([]byte, 1)) })); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a greeting: %v", err)
	}
	s := goodScript()
	s.reply = func(wire.Request) []byte { return nil }
	d.Timeout = 50 * time.Millisecond
	c, err := d.Dial(t.Context(), serveOnce(t, s.play))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the one that waits, and one afterwards
		if _, err := c.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrTimeout) {
			t.Errorf("read: %v, want ErrTimeout", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := c.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrTimeout) {
		t.Errorf("read after Close: %v", err)
	}
}

// TestDeafServer closes a client whose server takes nothing from the socket
// any more, so that a call holds the lock for writing.
func TestDeafServer(t *testing.T) {
	release := make(chan struct{})
	s := goodScript()
	s.reply = func(wire.Request) []byte { <-release; return nil }
	c, err := Dial(t.Context(), serveOnce(t, s.play))
	if err != nil {
		t.Fatal(err)
	}
	defer close(release)
	const calls = 20_000 // more than a socket's buffer takes
	ended := make(chan error, calls)
	for range calls {
		go func() {
			_, err := c.ReadAt(make([]byte, 1), 0)
			ended <- err
		}()
	}
	for c.wmu.TryLock() { // until a call is stuck in writing
		c.wmu.Unlock()
		time.Sleep(time.Millisecond)
	}
	_ = c.Close()
	for range calls {
		if err := <-ended; err == nil {
			t.Error("read without an answer: no error")
		}
	}
}
