package nbd

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev/blockdevtest"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// talk sends bytes to a server's handshake, ends the sending, and returns the
// types of the answers to options.
func talk(t testing.TB, addr net.Addr, send []byte) []wire.ReplyType {
	t.Helper()
	nc, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	go func() {
		_, _ = nc.Write(send) // the server may stop reading
		_ = nc.(*net.UnixConn).CloseWrite()
	}()
	got, _ := io.ReadAll(nc) // a reset ends it as well
	var types []wire.ReplyType
	for got = got[min(len(got), wire.GreetingSize):]; len(got) >= wire.OptionReplyHeaderSize; {
		h, err := wire.ParseReplyHeader(got[:wire.OptionReplyHeaderSize])
		if err != nil || int(h.Length) > len(got)-wire.OptionReplyHeaderSize {
			break
		}
		types = append(types, h.Type)
		got = got[wire.OptionReplyHeaderSize+int(h.Length):]
	}
	return types
}

func TestOptions(t *testing.T) {
	d := blockdevtest.NewMemory(make([]byte, 4096), nil)
	addr := start(t, &Server{Log: slog.New(slog.DiscardHandler)}, Export{Name: "a", Device: d}, Export{Name: "b", Device: d})
	option := wire.AppendOption
	meta := func(q ...string) []byte { return wire.MetaRequest{Name: "a", Queries: q}.Append(nil) }
	name := func(s string) []byte { return wire.InfoRequest{Name: s}.Append(nil) }
	for what, c := range map[string]struct {
		send []byte
		want []wire.ReplyType
	}{
		"unknown option, data skipped": {option(option(nil, 99, make([]byte, 5000)), wire.OptAbort, nil), []wire.ReplyType{wire.RepErrUnsup, wire.RepAck}},
		"long option, data skipped":    {option(option(nil, wire.OptInfo, make([]byte, 1<<20)), wire.OptAbort, nil), []wire.ReplyType{wire.RepErrTooBig, wire.RepAck}},
		"huge option":                  {option(nil, wire.OptInfo, make([]byte, 1<<20+1)), nil},
		"list, one reply an export":    {option(nil, wire.OptList, nil), []wire.ReplyType{wire.RepServer, wire.RepServer, wire.RepAck}},
		"list with data":               {option(nil, wire.OptList, []byte{1}), []wire.ReplyType{wire.RepErrInvalid}},
		"info":                         {option(nil, wire.OptInfo, name("a")), []wire.ReplyType{wire.RepInfo, wire.RepInfo, wire.RepAck}},
		"info of nothing":              {option(nil, wire.OptInfo, name("c")), []wire.ReplyType{wire.RepErrUnknown}},
		"info of the default":          {option(nil, wire.OptInfo, name("")), []wire.ReplyType{wire.RepErrUnknown}},
		"go, cut short":                {option(nil, wire.OptGo, name("a")[:4]), []wire.ReplyType{wire.RepErrInvalid}},
		"go, name too long":            {option(nil, wire.OptGo, name(string(make([]byte, 4097)))), []wire.ReplyType{wire.RepErrInvalid}},
		"TLS":                          {option(nil, wire.OptStartTLS, nil), []wire.ReplyType{wire.RepErrUnsup}},
		"contexts too early":           {option(nil, wire.OptSetMeta, meta("base:allocation")), []wire.ReplyType{wire.RepErrInvalid}},
		"all contexts": {option(option(nil, wire.OptStructuredReply, nil), wire.OptListMeta, meta()),
			[]wire.ReplyType{wire.RepAck, wire.RepMetaContext, wire.RepMetaContext, wire.RepAck}},
		"contexts of a namespace": {option(option(nil, wire.OptStructuredReply, nil), wire.OptListMeta, meta("rivulet:", "x:")),
			[]wire.ReplyType{wire.RepAck, wire.RepMetaContext, wire.RepAck}},
		"a namespace is not set": {option(option(nil, wire.OptStructuredReply, nil), wire.OptSetMeta, meta("base:", "x:y")),
			[]wire.ReplyType{wire.RepAck, wire.RepAck}},
		"too many options": {bytes.Repeat(option(nil, 99, nil), 100), bytesOf(wire.RepErrUnsup, maxOptions)},
		"wrong magic":      {make([]byte, 16), nil},
	} {
		got := talk(t, addr, append([]byte{0, 0, 0, 3}, c.send...))
		if len(got) != len(c.want) {
			t.Errorf("%s: answers %x, want %x", what, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: answers %x, want %x", what, got, c.want)
				break
			}
		}
	}
}

func bytesOf(r wire.ReplyType, n int) (all []wire.ReplyType) {
	for range n {
		all = append(all, r)
	}
	return all
}

func TestHandshakeTimeout(t *testing.T) {
	addr := start(t, &Server{HandshakeTimeout: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	nc, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	if got, err := io.ReadAll(nc); err != nil || len(got) != wire.GreetingSize {
		t.Errorf("silent client got %d bytes: %v", len(got), err)
	}
}

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + path); err == nil {
		t.Error("took a socket that is in use")
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	ln, err := Listen("unix:" + path)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	_ = ln.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + path); err == nil {
		t.Error("took a regular file's place")
	}
	for _, bad := range []string{"", "unix:", "udp:1", "tcp:a:b:c"} {
		if _, err := Listen(bad); err == nil {
			t.Errorf("Listen(%q): no error", bad)
		}
	}
}

// FuzzHandshake sends anything to a server's handshake, and looks at nothing
// but that the server ends the connection and serves the next.
func FuzzHandshake(f *testing.F) {
	f.Add(wire.AppendOption([]byte{0, 0, 0, 3}, wire.OptGo, wire.InfoRequest{}.Append(nil)))
	f.Add(wire.AppendOption([]byte{0, 0, 0, 3}, wire.OptSetMeta, wire.MetaRequest{Queries: []string{"base:"}}.Append(nil)))
	addr := start(f, &Server{Log: slog.New(slog.DiscardHandler)}, Export{Device: blockdevtest.NewMemory(make([]byte, 4096), nil)})
	f.Fuzz(func(t *testing.T, send []byte) { talk(t, addr, send) })
}

// FuzzRequest sends anything as requests.
func FuzzRequest(f *testing.F) {
	f.Add(wire.Request{Length: 512}.Append(nil), true)
	f.Add(wire.Request{Command: wire.CmdWrite, Length: 8}.Append(nil), false)
	addr := start(f, &Server{Log: slog.New(slog.DiscardHandler)},
		Export{Device: blockdevtest.NewMemory(blockdevtest.Pattern(1<<20, 9), nil)})
	f.Fuzz(func(t *testing.T, send []byte, structured bool) {
		nc := rawClient(t, addr, structured)
		go func() {
			_, _ = nc.Write(send)
			_ = nc.(*net.UnixConn).CloseWrite()
		}()
		_, _ = io.Copy(io.Discard, nc)
	})
}

// FuzzReads compares what a client reads with the flat bytes: each four bytes
// of the input are a request.
func FuzzReads(f *testing.F) {
	const size = 1 << 20
	want := blockdevtest.Pattern(size, 10)
	copy(want, bytes.Repeat([]byte{1}, 4096)) // data, then a hole
	clear(want[4096:8192])
	f.Add([]byte{0, 0, 16, 0, 0, 1, 16, 0})
	c := dial(f, start(f, &Server{}, Export{Device: blockdevtest.NewMemory(want, nil)}), "")
	f.Fuzz(func(t *testing.T, ops []byte) {
		for ; len(ops) >= 4; ops = ops[4:] {
			off := (int64(ops[0])<<8 | int64(ops[1])) * 4096 % size
			got := bytes.Repeat([]byte{0xA5}, min(size-int(off), int(ops[2])<<8|int(ops[3])))
			if ops[3]%5 == 4 {
				if err := c.Prefetch(t.Context(), off, int64(len(got))); err != nil && len(got) > 0 {
					t.Fatal(err)
				}
			}
			if n, err := c.ReadAt(got, off); err != nil || !bytes.Equal(got, want[off:off+int64(n)]) {
				t.Fatalf("read %d bytes at %d: %d, %v, or wrong", len(got), off, n, err)
			}
		}
	})
}
