// Package nbdclient reads and writes block devices over the NBD protocol.
//
// A Client is a blockdev.Device: any number of reads may run at once, and they
// share one connection. Of an export that can be written it gives a
// blockdev.Writer, which is a type of its own, so that a read-only export does
// not pass for one. The server is not trusted with more than the bytes of
// the device: what it sends is checked against what was asked, and cannot make
// the client keep more memory than the caller's buffers and some fixed room.
package nbdclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/nbd/internal/wire"
)

const (
	// DefaultTimeout bounds how long connecting or a request may take, unless
	// the dialer says otherwise.
	DefaultTimeout = 2 * time.Minute

	closeTimeout = 2 * time.Second // bounds how long Close waits for the server to close
	maxList      = 1 << 20         // bytes of one list of exports
)

var (
	// ErrClosed is what calls get on a client that is closed, by Close or by
	// its server.
	ErrClosed = errors.New("NBD client is closed")
	// ErrTimeout is what calls get when one of them was not answered in time:
	// the connection is closed then.
	ErrTimeout = errors.New("NBD server does not answer")
)

// A Dialer makes clients. Its zero value is ready.
type Dialer struct {
	// TLS is used for URIs that want TLS. Nil: the system's authorities.
	TLS *tls.Config
	// Timeout bounds how long connecting may take, and then how long a request
	// may stay unanswered, from its call to its last byte. The connection ends
	// when one does. 0: DefaultTimeout.
	Timeout time.Duration
}

// A Client is a connection to one export. All its methods may be called at any
// time, from any goroutine.
type Client struct {
	nc       net.Conn
	size     int64
	maxBlock int64 // bytes of a read or write
	flags    uint16
	contexts map[uint32]string // by ID; nil: no block status
	timeout  time.Duration     // of a call

	wmu  sync.Mutex // owns writing and wbuf
	wbuf []byte

	mu     sync.Mutex
	calls  map[uint64]*call // sent and not answered, by cookie
	cookie uint64
	err    error // why no call may begin

	ended chan struct{} // closes when the receiver has ended
}

var (
	_ blockdev.Device     = (*Client)(nil)
	_ blockdev.Extenter   = (*Client)(nil)
	_ blockdev.Prefetcher = (*Client)(nil)
)

// Dial connects to the export that uri names. ctx bounds the connecting only.
func Dial(ctx context.Context, uri string) (*Client, error) {
	return new(Dialer).Dial(ctx, uri)
}

// Dial connects to the export that uri names. ctx bounds the connecting only.
func (d *Dialer) Dial(ctx context.Context, uri string) (*Client, error) {
	a, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	c, err := d.dial(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("dial NBD export %q at %s: %w", a.Export, a.Addr, err)
	}
	return c, nil
}

func (d *Dialer) dial(ctx context.Context, a Address) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout())
	defer cancel()
	h, err := d.open(ctx, a)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = h.nc.Close() })
	c, err := h.client(a.Export)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = h.nc.Close()
		return nil, err
	}
	c.timeout = d.timeout()
	go c.receive()
	return c, nil
}

func (d *Dialer) timeout() time.Duration {
	if d.Timeout <= 0 {
		return DefaultTimeout
	}
	return d.Timeout
}

// client ends the handshake.
func (h *handshake) client(export string) (*Client, error) {
	c := &Client{nc: h.nc, calls: map[uint64]*call{}, ended: make(chan struct{})}
	var refused *OptionError
	err := h.simple(wire.OptStructuredReply)
	switch {
	case err == nil:
		c.contexts, err = h.contexts(export, wire.ContextAllocation, wire.ContextLocal)
		if err != nil {
			return nil, err
		}
	case !errors.As(err, &refused):
		return nil, err
	}
	info, block, err := h.choose(export)
	if err != nil {
		return nil, err
	}
	c.size, c.flags = int64(info.Size), info.Flags
	c.maxBlock = int64(min(block.Maximum, wire.MaxBlock))
	return c, nil
}

// A ListedExport is one export that a server offers.
type ListedExport struct {
	Name, Description string
}

// List returns the exports of the server that uri names. It takes at most
// 10,000, with names and descriptions of 1 MiB in all.
func (d *Dialer) List(ctx context.Context, uri string) ([]ListedExport, error) {
	a, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout())
	defer cancel()
	h, err := d.open(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("list NBD exports at %s: %w", a.Addr, err)
	}
	defer func() { _ = h.nc.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = h.nc.Close() })
	defer stop()
	var all []ListedExport
	size := 0
	err = h.ask(wire.OptList, nil, func(t wire.ReplyType, data []byte) error {
		if t != wire.RepServer {
			return fmt.Errorf("unexpected answer %d", t)
		}
		if size += len(data); size > maxList {
			return fmt.Errorf("list of more than %d bytes", maxList)
		}
		name, description, err := wire.ParseServer(data)
		all = append(all, ListedExport{name, description})
		return err
	})
	if err == nil {
		err = h.simple(wire.OptAbort)
	}
	if err != nil {
		return nil, fmt.Errorf("list NBD exports at %s: %w", a.Addr, err)
	}
	return all, nil
}

// Size returns the export's size in bytes.
func (c *Client) Size() int64 { return c.size }

// ReadOnly reports whether the server says that the export is.
func (c *Client) ReadOnly() bool { return c.flags&wire.FlagReadOnly != 0 }

// ReadAt reads as blockdev.Device says. A server's error for the request is an
// Errno.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read NBD export at %d: offset is negative", off)
	}
	if off >= c.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), c.size-off)]
	for n := 0; n < len(want); {
		part := want[n:min(len(want), n+int(c.maxBlock))]
		k := newCall(wire.CmdRead, off+int64(n), len(part))
		k.buf = part
		if err := c.do(context.Background(), k); err != nil {
			return n, fmt.Errorf("read %d bytes at %d of NBD export: %w", len(part), k.off, err)
		}
		n += len(part)
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

// Prefetch asks the server to make a range local. Where the server cannot it
// does nothing.
func (c *Client) Prefetch(ctx context.Context, off, length int64) error {
	if c.flags&wire.FlagSendCache == 0 {
		return nil
	}
	for length > 0 {
		n := min(length, 1<<30)
		if err := c.do(ctx, newCall(wire.CmdCache, off, int(n))); err != nil {
			return fmt.Errorf("prefetch %d bytes at %d of NBD export: %w", n, off, err)
		}
		off, length = off+n, length-n
	}
	return nil
}

// Close tells the server, waits a short time until it has closed the
// connection, and closes it. Calls that run get ErrClosed unless the server
// still answers them; later ones get it at once.
func (c *Client) Close() error {
	c.over(ErrClosed)
	// Before the lock, which a call may hold that the server takes nothing of.
	_ = c.nc.SetWriteDeadline(time.Now().Add(closeTimeout))
	c.wmu.Lock()
	_, err := c.nc.Write(wire.Request{Command: wire.CmdDisc}.Append(nil))
	c.wmu.Unlock()
	if err == nil {
		select {
		case <-c.ended:
		case <-time.After(closeTimeout):
		}
	}
	err = c.nc.Close()
	<-c.ended
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}
