package nbdclient

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// says returns the client's end of a connection whose server waits for so many
// bytes, says data, and closes; it takes everything.
func says(after int, data []byte) (client net.Conn, served <-chan struct{}) {
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.ReadFull(server, make([]byte, after))
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, server)
		}()
		_, _ = server.Write(data)
		_ = server.Close()
		<-drained
	}()
	return client, done
}

// FuzzHandshake has a server that says anything in the handshake: the client
// gives up, or has an export of a size that a device can have.
func FuzzHandshake(f *testing.F) {
	s := goodScript()
	whole := join(s.greeting, s.options[wire.OptStructuredReply], s.options[wire.OptSetMeta], s.options[wire.OptGo])
	f.Add(whole)
	f.Add(join(s.greeting, wire.AppendReply(nil, wire.OptStructuredReply, wire.RepErrUnsup, []byte("no")), s.options[wire.OptGo]))
	f.Fuzz(func(t *testing.T, data []byte) {
		nc, served := says(0, data)
		defer func() { _ = nc.Close(); <-served }()
		h := &handshake{nc}
		if h.greet() != nil {
			return
		}
		c, err := h.client("d")
		if err == nil && (c.size < 0 || c.maxBlock < wire.MinDF || c.maxBlock > wire.MaxBlock || len(c.contexts) > 2) {
			t.Errorf("size %d, reads of %d bytes, contexts %v", c.size, c.maxBlock, c.contexts)
		}
	})
}

// FuzzReplies has a server that says anything in answer to a read and a block
// status. A read that succeeds leaves no byte of the buffer as it was; extents
// cover their range without gaps.
func FuzzReplies(f *testing.F) {
	const off, n = 8192, 4096
	r := wire.Request{Cookie: 1}
	f.Add(simple(0, 1, bytes.Repeat([]byte{1}, n)...), false)
	f.Add(join(hole(r, off, 2000, false), data(r, off+2000, n-2000, 1, true)), false)
	f.Add(chunk(1, wire.ChunkError, 1, 6, 0, 0, 0, 5, 0, 0), false)
	f.Add(wire.AppendStatus(nil, 1, 1, []wire.Status{{Length: 4096, Flags: 3}, {Length: exportSize - 4096}}, true), true)
	f.Fuzz(func(t *testing.T, say []byte, extents bool) {
		var results [2][]byte
		for i, dirt := range []byte{0x55, 0xAA} {
			nc, served := says(wire.RequestSize, say)
			c := &Client{nc: nc, size: exportSize, maxBlock: wire.MaxBlock, timeout: time.Minute,
				contexts: map[uint32]string{1: wire.ContextAllocation, 2: wire.ContextLocal},
				calls:    map[uint64]*call{}, ended: make(chan struct{})}
			go c.receive()
			if extents {
				fuzzExtents(t, c)
			} else {
				got := bytes.Repeat([]byte{dirt}, n)
				if _, err := c.ReadAt(got, off); err == nil {
					results[i] = got
				}
			}
			_ = c.Close()
			<-served
		}
		if results[0] != nil && results[1] != nil && !bytes.Equal(results[0], results[1]) {
			t.Error("a read succeeded without some of its bytes")
		}
	})
}

func fuzzExtents(t *testing.T, c *Client) {
	at := int64(0)
	err := c.Extents(t.Context(), 0, exportSize, func(e blockdev.Extent) bool {
		if e.Offset != at || e.Length < 1 || e.Length > exportSize-at {
			t.Errorf("extent %+v, expected one at %d", e, at)
		}
		at += e.Length
		return true
	})
	if err == nil && at != exportSize {
		t.Errorf("extents end at %d", at)
	}
}
