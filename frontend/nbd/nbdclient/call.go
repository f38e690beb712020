package nbdclient

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

// Limits for what a server may send in one reply.
const (
	maxChunks = 1 << 14  // chunks
	maxStatus = 1 << 20  // bytes of a block status chunk
	maxError  = 16 << 10 // bytes of an error chunk
)

// A span is a part of a read that has arrived, in bytes from its start.
type span struct{ from, to int }

// A call is one request and what has arrived of its reply. Until done is
// closed it is the receiver's.
type call struct {
	cmd   wire.Command
	flags uint16
	off   int64
	n     int

	buf    []byte // of a read
	send   []byte // of a write; not used any more once do returns
	got    []span // of buf
	status map[uint32][]wire.Status
	chunks int
	err    error
	done   chan struct{}
}

func newCall(cmd wire.Command, off int64, n int) *call {
	return &call{cmd: cmd, off: off, n: n, done: make(chan struct{})}
}

// do sends k and waits for its reply, at most as long as the dialer said. A
// read is waited for even when ctx ends, since the receiver writes to its
// buffer.
func (c *Client) do(ctx context.Context, k *call) error {
	late := time.AfterFunc(c.timeout, func() { c.fail(ErrTimeout) })
	defer late.Stop()
	c.mu.Lock()
	if err := c.err; err != nil {
		c.mu.Unlock()
		return err
	}
	c.cookie++
	cookie := c.cookie
	c.calls[cookie] = k
	c.mu.Unlock()

	c.wmu.Lock()
	c.wbuf = wire.Request{Flags: k.flags, Command: k.cmd, Cookie: cookie,
		Offset: uint64(k.off), Length: uint32(k.n)}.Append(c.wbuf[:0])
	_, err := c.nc.Write(c.wbuf)
	if err == nil && len(k.send) > 0 {
		_, err = c.nc.Write(k.send)
	}
	c.wmu.Unlock()
	if err != nil {
		c.fail(err)
	}
	if k.buf != nil {
		<-k.done
		return k.err
	}
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fail ends the connection, and by that the receiver, which ends all calls.
func (c *Client) fail(err error) {
	c.over(err)
	_ = c.nc.Close()
}

// over lets no further call begin. The first reason given is the one told.
func (c *Client) over(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = fmt.Errorf("NBD connection is over: %w", err)
	}
	c.mu.Unlock()
}

// receive reads replies until the connection ends, and then ends all calls.
func (c *Client) receive() {
	r := bufio.NewReaderSize(c.nc, 64<<10)
	var err error
	for err == nil {
		err = c.reply(r)
	}
	if errors.Is(err, io.EOF) {
		err = ErrClosed
	}
	c.fail(err)
	c.mu.Lock()
	for _, k := range c.calls {
		k.err = c.err
		close(k.done)
	}
	clear(c.calls)
	c.mu.Unlock()
	close(c.ended)
}

// finish takes k out of the calls and gives it back to its caller.
func (c *Client) finish(cookie uint64, k *call) {
	if k.err == nil {
		k.err = k.complete()
	}
	c.mu.Lock()
	delete(c.calls, cookie)
	c.mu.Unlock()
	close(k.done)
}

func (c *Client) call(cookie uint64) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.calls[cookie]
	if k == nil {
		return nil, fmt.Errorf("server answers unknown request %#x", cookie)
	}
	return k, nil
}

// reply reads one simple reply or one chunk. An error ends the connection.
func (c *Client) reply(r *bufio.Reader) error {
	magic, err := r.Peek(4)
	if err != nil {
		return err
	}
	switch binary.BigEndian.Uint32(magic) {
	case wire.SimpleReplyMagic:
		return c.simpleReply(r)
	case wire.ChunkMagic:
		return c.chunk(r)
	}
	return wire.ErrMagic
}

func (c *Client) simpleReply(r *bufio.Reader) error {
	var b [wire.SimpleReplySize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	cookie := binary.BigEndian.Uint64(b[8:])
	k, err := c.call(cookie)
	if err != nil {
		return err
	}
	if k.chunks > 0 || k.cmd == wire.CmdBlockStatus {
		return errors.New("server mixes kinds of replies")
	}
	if e := wire.Errno(binary.BigEndian.Uint32(b[4:])); e != 0 {
		k.err = Errno(e)
	} else if k.buf != nil {
		if _, err := io.ReadFull(r, k.buf); err != nil {
			return err
		}
		k.got = append(k.got, span{0, k.n})
	}
	c.finish(cookie, k)
	return nil
}

func (c *Client) chunk(r *bufio.Reader) error {
	var b [wire.ChunkHeaderSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	h, err := wire.ParseChunkHeader(b[:])
	if err != nil {
		return err
	}
	k, err := c.call(h.Cookie)
	if err != nil {
		return err
	}
	if k.chunks++; k.chunks > maxChunks {
		return fmt.Errorf("server answers one request with more than %d chunks", maxChunks)
	}
	if err := k.take(r, h); err != nil {
		return fmt.Errorf("chunk of type %d: %w", h.Type, err)
	}
	if h.Done() {
		c.finish(h.Cookie, k)
	}
	return nil
}

// take reads the payload of one chunk.
func (k *call) take(r io.Reader, h wire.ChunkHeader) error {
	switch {
	case h.Type == wire.ChunkNone && h.Length == 0 && h.Done():
		return nil
	case h.Type == wire.ChunkData && k.buf != nil && h.Length > 8:
		return k.takeData(r, h.Length)
	case h.Type == wire.ChunkHole && k.buf != nil && h.Length == 12:
		return k.takeHole(r)
	case h.Type == wire.ChunkBlockStatus && k.cmd == wire.CmdBlockStatus && h.Length <= maxStatus:
		data := make([]byte, h.Length)
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		id, runs, err := wire.ParseStatus(data, uint32(k.n))
		if err == nil && k.status[id] == nil && len(k.status) < 2 {
			k.status[id] = runs
		}
		return err
	case h.Type.IsError() && h.Length <= maxError:
		data := make([]byte, h.Length)
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		e, _, err := wire.ParseError(h.Type, data)
		if k.err == nil {
			k.err = Errno(e)
		}
		return err
	}
	return fmt.Errorf("not expected here with %d bytes", h.Length)
}

// arrived notes that n bytes at off of the device are there.
func (k *call) arrived(off uint64, n uint32) (span, error) {
	from := off - uint64(k.off)
	if off < uint64(k.off) || from > uint64(k.n) || uint64(n) > uint64(k.n)-from || n == 0 {
		return span{}, fmt.Errorf("%d bytes at %d are not in the request", n, off)
	}
	s := span{int(from), int(from) + int(n)}
	k.got = append(k.got, s)
	return s, nil
}

func (k *call) takeData(r io.Reader, length uint32) error {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	s, err := k.arrived(binary.BigEndian.Uint64(b[:]), length-8)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(r, k.buf[s.from:s.to])
	return err
}

func (k *call) takeHole(r io.Reader) error {
	var b [12]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	s, err := k.arrived(binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint32(b[8:]))
	if err == nil {
		clear(k.buf[s.from:s.to])
	}
	return err
}

// complete reports whether a reply without error has all that was asked for.
func (k *call) complete() error {
	switch k.cmd {
	case wire.CmdRead:
		slices.SortFunc(k.got, func(a, b span) int { return a.from - b.from })
		end := 0
		for _, s := range k.got {
			if s.from != end {
				return errors.New("server sends parts of the data never or twice")
			}
			end = s.to
		}
		if end != k.n {
			return errors.New("server sends parts of the data never or twice")
		}
	case wire.CmdBlockStatus:
		if len(k.status) == 0 {
			return errors.New("server sends no block status")
		}
	}
	return nil
}

// An Errno is the error number by which a server failed a request, as the
// protocol numbers them.
type Errno uint32

// Error describes the error number.
func (e Errno) Error() string {
	return fmt.Sprintf("server error %d: %s", uint32(e), wire.Errno(e).Error())
}

// Is makes a server's ENOSPC a blockdev.ErrNoSpace.
func (e Errno) Is(target error) bool {
	return target == blockdev.ErrNoSpace && wire.Errno(e) == wire.ENOSPC
}
