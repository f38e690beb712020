package cachedclient

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/cached/cachedtest"
	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/chunk/chunktest"
	"github.com/rivuletfs/rivulet/internal/openfiles"
)

// An impostor is a daemon that welcomes clients and answers requests as it
// likes; false ends the connection.
func impostor(t testing.TB, answer func(c *wire.Conn, m *wire.Message) bool) (socket string) {
	t.Helper()
	socket = cachedtest.SocketIn(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []*wire.Conn
	wg.Go(func() {
		for {
			s, err := l.AcceptUnix()
			if err != nil {
				return
			}
			c := wire.NewConn(s, false, time.Second)
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() { converse(c, answer) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return socket
}

func converse(c *wire.Conn, answer func(c *wire.Conn, m *wire.Message) bool) {
	defer func() { _ = c.Close() }()
	for {
		m, err := c.Read()
		if err != nil {
			return
		}
		if m.Type == wire.Hello {
			_ = c.Write(wire.Welcome, m.Request, wire.Terms{Version: wire.Version, Outstanding: 100, WaitMillis: 1000}.Append, nil)
			continue
		}
		if !answer(c, &m) {
			return
		}
	}
}

// fileWith returns a file with these bytes, open for reading.
func fileWith(t testing.TB, b []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestHostileDaemon reads through daemons that lie, in time and right bytes, and
// leaves no descriptor open.
func TestHostileDaemon(t *testing.T) {
	o := chunks(1)[0]
	wrong := func(at int) []byte {
		b := bytes.Clone(o.Bytes)
		b[at] ^= 4
		return b
	}
	held := func(size, checked int) func([]byte) []byte {
		return wire.Held{Size: uint32(size), Checked: uint32(checked)}.Append
	}
	extract := func(size int, e chunk.Extract) func([]byte) []byte {
		return wire.Held{Size: uint32(size), Checked: uint32(size), Extract: e}.Append
	}
	all := len(o.Bytes)
	pipe, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pipe.Close(); _ = other.Close() }()
	zeros, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = zeros.Close() }()
	send := func(kind wire.Type, payload func([]byte) []byte, f *os.File) func(c *wire.Conn, m *wire.Message) bool {
		return func(c *wire.Conn, m *wire.Message) bool {
			if m.Type != wire.Get {
				return c.Write(wire.Done, m.Request, nil, nil) == nil
			}
			return c.Write(kind, m.Request, payload, f) == nil
		}
	}
	raw := func(b []byte) func(c *wire.Conn, m *wire.Message) bool {
		return func(c *wire.Conn, _ *wire.Message) bool { _, err := c.Socket().Write(b); return err == nil }
	}
	for name, answer := range map[string]func(c *wire.Conn, m *wire.Message) bool{
		"a pipe":                      send(wire.Hit, held(all, all), pipe),
		"a device":                    send(wire.Hit, held(all, all), zeros),
		"an empty file":               send(wire.Hit, held(all, all), fileWith(t, nil)),
		"a file cut short":            send(wire.Hit, held(all, all), fileWith(t, o.Bytes[:all-1])),
		"a wrong header":              send(wire.Hit, held(all, all), fileWith(t, wrong(20))),
		"a wrong frame":               send(wire.Hit, held(all, all), fileWith(t, wrong(o.Header.Len()))),
		"a wrong last byte":           send(wire.Hit, held(all, all), fileWith(t, wrong(all-1))),
		"another size":                send(wire.Hit, held(all-1, all-1), fileWith(t, o.Bytes)),
		"another chunk":               send(wire.Hit, held(all, all), fileWith(t, chunks(2)[1].Bytes)),
		"less than was asked for":     send(wire.Part, held(all, 100), fileWith(t, o.Bytes)),
		"nothing checked":             send(wire.Part, held(all, 0), fileWith(t, o.Bytes)),
		"more checked than there is":  send(wire.Part, held(all, all), fileWith(t, o.Bytes[:1000])),
		"an extract that is whole":    send(wire.Hit, extract(all, 0b1111), fileWith(t, o.Bytes)),
		"an extract of other frames":  send(wire.Hit, extract(o.Header.Len()+int(o.Header.Frames[0].Len), 0b1), fileWith(t, wrong(o.Header.Len()))),
		"an extract of too much":      send(wire.Hit, extract(all, 0b1), fileWith(t, o.Bytes)),
		"an extract without frames":   send(wire.Hit, extract(o.Header.Len(), 1<<63), fileWith(t, o.Bytes)),
		"the same extract each time":  send(wire.Hit, extract(o.Header.Len()+int(o.Header.Frames[0].Len), 0b1), fileWith(t, o.Bytes)),
		"leases without end":          send(wire.Lease, wire.Right{Lease: 1, Millis: 1}.Append, nil),
		"an answer to something else": send(wire.Listed, nil, nil),
		"a miss of no known reason":   send(wire.Miss, wire.Refusal{Reason: 200}.Append, nil),
		"nonsense":                    raw([]byte("HTTP/1.1 200 OK\r\n\r\n")),
		"an answer nobody asked for":  raw(wire.Header{Type: wire.Done, Request: 1 << 60}.Append(nil)),
		"descriptors nobody asked for": func(c *wire.Conn, _ *wire.Message) bool {
			fd := int(zeros.Fd())
			_, _, err := c.Socket().WriteMsgUnix(wire.Header{Type: wire.Done, Request: 1 << 60}.Append(nil), syscall.UnixRights(fd, fd, fd, fd), nil)
			return err == nil
		},
		"a descriptor with every answer": func(c *wire.Conn, m *wire.Message) bool {
			if m.Type == wire.Get {
				return c.Write(wire.Lease, m.Request, wire.Right{Lease: 1, Millis: 1}.Append, nil) == nil
			}
			return c.Write(wire.Hit, m.Request, held(all, all), zeros) == nil
		},
		"half a message": raw(wire.Header{Type: wire.Done, Request: 1}.Append(nil)[:9]),
		"the end":        func(*wire.Conn, *wire.Message) bool { return false },
		"silence":        func(*wire.Conn, *wire.Message) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			socket := impostor(t, answer)
			before := openfiles.In(t)
			origin := cachedtest.NewOrigin(t, o)
			c := New(Config{Socket: socket, Silence: 100 * time.Millisecond, Wait: time.Second})
			r := c.Reader(chunk.NewDoor(origin), origin)
			for range 3 {
				begun := time.Now()
				readWholly(t, r, &o)
				b := make([]byte, 4096)
				at := o.Header.FrameOffset(5) + 4096
				if n, err := r.ReadChunk(ctx, o.ID, b, at); err != nil || !bytes.Equal(b[:n], o.Bytes[at:at+4096]) {
					t.Errorf("%d bytes, %v", n, err)
				}
				if took := time.Since(begun); took > 8*time.Second {
					t.Errorf("two reads took %v", took)
				}
			}
			c.Close()
			// The impostor's ends close when it sees that ours have.
			eventually(t, "descriptors are closed", func() bool { return openfiles.In(t) <= before+1 })
		})
	}
}

// TestDescriptorsRunOut has a descriptor be lost on the way, as when the process
// has as many open as it may: the client gives up half of what it holds.
func TestDescriptorsRunOut(t *testing.T) {
	list := chunks(5)
	files := make(map[chunk.ID]*os.File)
	for i := range list {
		files[list[i].ID] = fileWith(t, list[i].Bytes)
	}
	lost := list[4].ID
	socket := impostor(t, func(c *wire.Conn, m *wire.Message) bool {
		w, err := wire.ParseWant(m.Payload)
		if err != nil || m.Type != wire.Get {
			return false
		}
		size := uint32(len(list[0].Bytes))
		if w.ID == lost {
			h := wire.Header{Len: 8, Type: wire.Hit, Files: 1, Request: m.Request}
			fd := int(files[lost].Fd())
			many := make([]int, 50)
			for i := range many {
				many[i] = fd
			}
			_, _, err := c.Socket().WriteMsgUnix(wire.Held{Size: size, Checked: size}.Append(h.Append(nil)), syscall.UnixRights(many...), nil)
			return err == nil
		}
		return c.Write(wire.Hit, m.Request, wire.Held{Size: size, Checked: size}.Append, files[w.ID]) == nil
	})
	origin := cachedtest.NewOrigin(t, list...)
	c := client(t, socket, nil)
	for i := range list {
		readWholly(t, c.Reader(chunk.NewDoor(origin), origin), &list[i])
	}
	eventually(t, "the loss is counted", func() bool { return c.Stats().Losses > 0 })
	if s := c.Stats(); s.Held > 2 || s.Fallbacks != 1 {
		t.Errorf("%+v", s)
	}
}

// TestBusy has the daemon refuse requests for a while because too many wait: the
// client asks again, and does not read the origin itself.
func TestBusy(t *testing.T) {
	o := chunks(1)[0]
	file := fileWith(t, o.Bytes)
	refused := 0
	socket := impostor(t, func(c *wire.Conn, m *wire.Message) bool {
		switch {
		case m.Type == wire.Fetch && refused < maxLeases+2:
			refused++
			return c.Write(wire.Fail, m.Request, wire.Refusal{Reason: wire.Busy}.Append, nil) == nil
		case m.Type == wire.Get && refused < maxLeases+2:
			return c.Write(wire.Lease, m.Request, wire.Right{Lease: uint64(refused + 1), Millis: 1000}.Append, nil) == nil
		case m.Type == wire.Get:
			n := uint32(len(o.Bytes))
			return c.Write(wire.Hit, m.Request, wire.Held{Size: n, Checked: n}.Append, file) == nil
		}
		return c.Write(wire.Done, m.Request, nil, nil) == nil
	})
	origin := cachedtest.NewOrigin(t, o)
	c := New(Config{Socket: socket})
	defer c.Close()
	readWholly(t, c.Reader(chunk.NewDoor(origin), origin), &o)
	if s := c.Stats(); s.Brought != 0 || s.Fallbacks != 0 || s.Asks < maxLeases+3 {
		t.Errorf("%+v", s)
	}
}

// TestDepositRefusedText has the daemon take no deposit: the log says why.
func TestDepositRefusedText(t *testing.T) {
	o := chunks(1)[0]
	socket := impostor(t, func(c *wire.Conn, m *wire.Message) bool {
		switch m.Type {
		case wire.Get:
			return c.Write(wire.Lease, m.Request, wire.Right{Lease: 1, Millis: 1000}.Append, nil) == nil
		case wire.Deposit:
			return c.Write(wire.Fail, m.Request, wire.Refusal{Reason: wire.NoRoom, Text: "no room"}.Append, nil) == nil
		}
		return c.Write(wire.Done, m.Request, nil, nil) == nil
	})
	origin := cachedtest.NewOrigin(t, o)
	var log bytes.Buffer
	c := New(Config{Socket: socket, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	readWholly(t, c.Reader(chunk.NewDoor(origin), nil), &o)
	c.Close()
	if !strings.Contains(log.String(), `err="refused: no room"`) {
		t.Errorf("the log says %s", log.String())
	}
}

// TestLateLease gives a lease to a read that has been given up: it comes back at
// once, for others wait for it.
func TestLateLease(t *testing.T) {
	o := chunks(1)[0]
	asked, back := make(chan struct{}), make(chan uint64, 1)
	var gone atomic.Bool
	socket := impostor(t, func(c *wire.Conn, m *wire.Message) bool {
		switch m.Type {
		case wire.Get:
			close(asked)
			for !gone.Load() {
				time.Sleep(time.Millisecond)
			}
			return c.Write(wire.Lease, m.Request, wire.Right{Lease: 7, Millis: 1000}.Append, nil) == nil
		case wire.Abandon:
			lease, _ := wire.ParseNumber(m.Payload)
			back <- lease
		}
		return c.Write(wire.Done, m.Request, nil, nil) == nil
	})
	c := New(Config{Socket: socket})
	defer c.Close()
	given, giveUp := context.WithCancel(ctx)
	go func() { <-asked; giveUp() }()
	if _, err := c.Reader(chunk.NewDoor(cachedtest.NewOrigin(t, o)), nil).ReadChunk(given, o.ID, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	gone.Store(true)
	select {
	case lease := <-back:
		if lease != 7 {
			t.Errorf("lease %d came back", lease)
		}
	case <-time.After(10 * time.Second):
		t.Error("the lease is kept")
	}
}

// TestNotFound says of a chunk that is nowhere what the client's own origin says.
func TestNotFound(t *testing.T) {
	d, o := cachedtest.Start(t, nil), cachedtest.NewOrigin(t)
	c := client(t, d.Socket, nil)
	if _, err := c.Reader(gone{}, o).ReadChunk(ctx, chunktest.Absent, make([]byte, 10), 0); !errors.Is(err, errGone) {
		t.Errorf("%v, want %v", err, errGone)
	}
}

// FuzzDaemon has the daemon say anything at all: reads are right, and no
// descriptor stays open.
func FuzzDaemon(f *testing.F) {
	o := chunktest.Random(1, 5000, chunk.FrameSize)
	add := func(kind wire.Type, request uint64, payload []byte) {
		h := wire.Header{Len: uint32(len(payload)), Type: kind, Request: request}
		if kind == wire.Hit || kind == wire.Part {
			h.Files = 1
		}
		f.Add(append(h.Append(nil), payload...), kind == wire.Hit)
	}
	add(wire.Hit, 1, wire.Held{Size: uint32(len(o.Bytes)), Checked: uint32(len(o.Bytes))}.Append(nil))
	add(wire.Hit, 1, wire.Held{Size: uint32(len(o.Bytes)), Checked: uint32(len(o.Bytes)), Extract: 0b101}.Append(nil))
	add(wire.Part, 1, wire.Held{Size: uint32(len(o.Bytes)), Checked: 60}.Append(nil))
	add(wire.Lease, 1, wire.Right{Lease: 1, Millis: 5}.Append(nil))
	add(wire.Miss, 1, wire.Refusal{Reason: wire.NoRoom}.Append(nil))
	add(wire.Done, 1, nil)
	path := filepath.Join(f.TempDir(), "chunk")
	if err := os.WriteFile(path, o.Bytes, 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, withFile bool) {
		socket := impostor(t, func(c *wire.Conn, m *wire.Message) bool {
			file, err := os.Open(path)
			if err != nil {
				return false
			}
			defer func() { _ = file.Close() }()
			var rights []byte
			if withFile {
				rights = syscall.UnixRights(int(file.Fd()))
			}
			_, _, err = c.Socket().WriteMsgUnix(b, rights, nil)
			return err == nil && len(b) > 0
		})
		before := openfiles.In(t)
		origin := cachedtest.NewOrigin(t, o)
		c := New(Config{Socket: socket, Silence: 20 * time.Millisecond, Wait: 40 * time.Millisecond})
		readWholly(t, c.Reader(chunk.NewDoor(origin), origin), &o)
		c.Close()
		eventually(t, "descriptors are closed", func() bool { return openfiles.In(t) <= before+1 })
	})
}
