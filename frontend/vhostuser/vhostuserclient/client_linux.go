// Package vhostuserclient is a vhost-user-blk front end without a virtual machine:
// it shares memory with a back end, puts requests into rings there and takes the
// answers out. Tests and benchmarks drive back ends with it, ours and others.
//
// A Client is a blockdev.Device, and a Writer if the disk can be written. Each of
// its queues has a goroutine that takes answers out of the ring, from the first
// call on. Whoever wants the last bit of speed uses a Queue alone instead, from one
// goroutine and without that.
//
// A back end that goes away is waited for (Dialer.Reconnect): requests that it did
// not answer are taken up by the next one, by the record of requests in flight that
// the client keeps. Without that, everything that waits fails.
package vhostuserclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/frontend/vhostuser/internal/wire"
)

// Defaults of a Dialer's settings.
const (
	DefaultQueueSize = 128
	DefaultBuffer    = 256 << 10
	DefaultTimeout   = 30 * time.Second

	redialPause = 2 * time.Millisecond
)

// Errors that callers branch on.
var (
	// ErrClosed is what calls get on a client that is closed, or whose back end has
	// gone and is not waited for.
	ErrClosed = errors.New("vhost-user client is closed")
	// ErrIO is what calls get when the back end says that a request failed.
	ErrIO = errors.New("the back end reports an I/O error")
	// ErrUnsupported is what calls get when the back end does not know a request.
	ErrUnsupported = errors.New("the back end does not support the request")
)

// A Dialer makes clients. Its zero value is ready.
type Dialer struct {
	Queues    int // 0: 1
	QueueSize int // descriptors, a power of two. 0: DefaultQueueSize
	// Depth bounds the requests in flight on one queue. 0: what the queue holds.
	Depth int
	// Buffer bounds the data of one request, in bytes: a multiple of 4096. 0:
	// DefaultBuffer. The shared memory is Queues × Depth of it.
	Buffer int
	// Segments is by how many descriptors a request's data are described. 0: 1.
	Segments int
	// Chained uses chains of descriptors where else each request is one indirect
	// table. NoEventIndex does without the event index. Blind gives the back end no
	// descriptor to wait for.
	Chained, NoEventIndex, Blind bool
	// Slots shares the memory region by region (ADD_MEM_REG), not as a table.
	Slots bool
	// Shrinkable shares memory that could be taken away again.
	Shrinkable bool
	// Reconnect waits for another back end when one has gone.
	Reconnect bool
	// Timeout bounds connecting, and each message to a back end. 0: DefaultTimeout.
	Timeout time.Duration
}

// A Client is connected to one disk. All its methods may be called at any time,
// from any goroutine.
type Client struct {
	d      Dialer
	path   string
	memory *memory
	queues []*Queue
	turn   atomic.Uint32 // which queue is next

	edge sync.RWMutex // held alone by writes of less than a sector

	mu       sync.Mutex // guards what follows, and the connection's messages
	conn     *connection
	inflight int // the record's descriptor; -1: none
	record   wire.Inflight
	config   wire.BlkConfig
	readOnly bool

	spurious atomic.Int64 // answers to nothing that was asked
	closing  atomic.Bool
	closed   chan struct{} // closes with the client
	watching sync.WaitGroup
	gaps     []time.Duration // see Gaps
}

var _ blockdev.Writer = (*Client)(nil)

// Dial connects to the back end that listens on the socket path.
func Dial(ctx context.Context, path string) (*Client, error) { return new(Dialer).Dial(ctx, path) }

// Dial connects to the back end that listens on the socket path. ctx bounds the
// connecting only.
func (d Dialer) Dial(ctx context.Context, path string) (*Client, error) {
	d.setDefaults()
	c := &Client{d: d, path: path, inflight: -1, closed: make(chan struct{})}
	if err := c.open(ctx); err != nil {
		c.free()
		return nil, fmt.Errorf("dial vhost-user back end at %s: %w", path, err)
	}
	c.watching.Go(c.watch)
	return c, nil
}

func (d *Dialer) setDefaults() {
	or := func(v *int, preset int) {
		if *v == 0 {
			*v = preset
		}
	}
	or(&d.Queues, 1)
	or(&d.QueueSize, DefaultQueueSize)
	or(&d.Segments, 1)
	or(&d.Buffer, DefaultBuffer)
	most := d.QueueSize
	if d.Chained {
		most /= d.Segments + 2
	}
	or(&d.Depth, most)
	d.Depth = min(d.Depth, most)
	if d.Timeout == 0 {
		d.Timeout = DefaultTimeout
	}
}

func (c *Client) open(ctx context.Context) error {
	if c.d.Depth < 1 || c.d.Buffer%pageSize != 0 || c.d.Segments > maxSegments {
		return fmt.Errorf("depth %d, buffer %d or segments %d do not go together", c.d.Depth, c.d.Buffer, c.d.Segments)
	}
	var err error
	if c.memory, err = newMemory(&c.d); err != nil {
		return err
	}
	for i := range c.d.Queues {
		q, err := newQueue(c, i)
		if err != nil {
			return err
		}
		c.queues = append(c.queues, q)
	}
	nc, err := new(net.Dialer).DialContext(ctx, "unix", c.path)
	if err != nil {
		return err
	}
	return c.attach(nc.(*net.UnixConn))
}

// attach agrees with the back end and starts the queues.
func (c *Client) attach(nc *net.UnixConn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = &connection{nc: nc, timeout: c.d.Timeout}
	err := c.conn.setUp(c)
	if err != nil {
		_ = nc.Close()
	}
	return err
}

// watch waits for the end of the connection, and for another back end if it is to.
func (c *Client) watch() {
	for {
		c.conn.awaitEnd()
		lost := time.Now()
		_ = c.conn.nc.Close()
		for ok := false; !ok; {
			if c.closing.Load() || !c.d.Reconnect {
				c.giveUp()
				return
			}
			nc, err := net.Dial("unix", c.path)
			if err != nil {
				time.Sleep(redialPause)
				continue
			}
			ok = c.attach(nc.(*net.UnixConn)) == nil
		}
		c.mu.Lock()
		c.gaps = append(c.gaps, time.Since(lost))
		c.mu.Unlock()
	}
}

// Gaps returns how long the client was without a back end, each time.
func (c *Client) Gaps() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Duration(nil), c.gaps...)
}

// Spurious counts answers to nothing that was asked: of a right back end there are
// none, over restarts neither.
func (c *Client) Spurious() int64 { return c.spurious.Load() }

// giveUp ends everything that waits.
func (c *Client) giveUp() {
	for _, q := range c.queues {
		q.end()
	}
	close(c.closed)
}

// Close stops the queues in good order, as far as the back end is there, and ends
// the client. Calls that wait fail.
func (c *Client) Close() error {
	if c.closing.Swap(true) {
		<-c.closed
		return nil
	}
	c.mu.Lock()
	for i := range c.queues {
		if _, err := c.conn.state(wire.GetVringBase, wire.VringState{Index: uint32(i)}); err != nil {
			break
		}
	}
	c.conn.shut()
	c.mu.Unlock()
	c.watching.Wait()
	for _, q := range c.queues {
		q.reaping.Wait()
	}
	c.free()
	return nil
}

// Drop closes the connection without a word, as a front end does that dies. The
// client then does as if the back end had gone.
func (c *Client) Drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.shut()
}

func (c *Client) free() {
	for _, q := range c.queues {
		q.free()
	}
	c.memory.free()
	if c.inflight >= 0 {
		_ = unix.Close(c.inflight)
		c.inflight = -1
	}
}

// Size returns the size in bytes.
func (c *Client) Size() int64 { return int64(c.config.Capacity) * wire.SectorSize }

// ReadOnly reports whether the back end takes no writes.
func (c *Client) ReadOnly() bool { return c.readOnly }

// Queue returns the nth queue, for one goroutine that uses it alone.
func (c *Client) Queue(n int) *Queue { return c.queues[n] }

// Lost is closed when the client has ended, or has lost a back end for good.
func (c *Client) Lost() <-chan struct{} { return c.closed }

// KickOnly wakes the back end, with nothing new in the ring.
func (c *Client) KickOnly() {
	for _, q := range c.queues {
		signal(q.kick)
	}
}

// Truncate makes the shared memory shorter than the back end believes, which needs
// Dialer.Shrinkable.
func (c *Client) Truncate(size int64) error {
	if err := unix.Ftruncate(c.memory.fd, size); err != nil {
		return fmt.Errorf("shorten shared memory: %w", err)
	}
	return nil
}

// do has one request done on some queue.
func (c *Client) do(typ uint32, sector uint64, n int, fill, drain func(data []byte)) error {
	q := c.queues[int(c.turn.Add(1))%len(c.queues)]
	return q.do(typ, sector, n, fill, drain)
}

// ReadAt implements [io.ReaderAt].
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: offset is negative", off)
	}
	if off >= c.Size() {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), c.Size()-off)]
	n := 0
	for n < len(want) {
		at := off + int64(n)
		skip := int(at % wire.SectorSize)
		k := min(len(want)-n, c.d.Buffer-skip)
		whole := (skip + k + wire.SectorSize - 1) &^ (wire.SectorSize - 1)
		err := c.do(wire.BlkIn, uint64(at)/wire.SectorSize, whole, nil, func(data []byte) { copy(want[n:n+k], data[skip:]) })
		if err != nil {
			return n, fmt.Errorf("read %d bytes at %d: %w", k, at, err)
		}
		n += k
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements [io.WriterAt].
func (c *Client) WriteAt(p []byte, off int64) (int, error) {
	if err := blockdev.CheckRange(off, int64(len(p)), c.Size()); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	unlock := c.lockEdges(off, int64(len(p)))
	defer unlock()
	for n := 0; n < len(p); {
		at := off + int64(n)
		skip := int(at % wire.SectorSize)
		k := min(len(p)-n, c.d.Buffer-skip)
		if cut := (skip + k) % wire.SectorSize; k > wire.SectorSize && cut != 0 {
			k -= cut
		}
		if err := c.write(p[n:n+k], at, skip); err != nil {
			return n, fmt.Errorf("write %d bytes at %d: %w", k, at, err)
		}
		n += k
	}
	return len(p), nil
}

// lockEdges keeps those who write parts of sectors from each other and from all
// others.
func (c *Client) lockEdges(off, n int64) (unlock func()) {
	if off%wire.SectorSize == 0 && n%wire.SectorSize == 0 {
		c.edge.RLock()
		return c.edge.RUnlock
	}
	c.edge.Lock()
	return c.edge.Unlock
}

// write writes whole sectors, or reads what of them is not to change first.
func (c *Client) write(p []byte, at int64, skip int) error {
	whole := (skip + len(p) + wire.SectorSize - 1) &^ (wire.SectorSize - 1)
	sector := uint64(at) / wire.SectorSize
	var old []byte
	if whole != len(p) {
		old = make([]byte, whole)
		if _, err := c.ReadAt(old, int64(sector)*wire.SectorSize); err != nil {
			return err
		}
	}
	return c.do(wire.BlkOut, sector, whole, func(data []byte) { copy(data, old); copy(data[skip:], p) }, nil)
}

// Flush implements [blockdev.Writer].
func (c *Client) Flush() error { return c.do(wire.BlkFlush, 0, 0, nil, nil) }

// Discard implements [blockdev.Writer].
func (c *Client) Discard(off, length int64) error {
	return c.zero(wire.BlkDiscard, "discard", off, length)
}

// WriteZeroes implements [blockdev.Writer].
func (c *Client) WriteZeroes(off, length int64) error {
	return c.zero(wire.BlkWriteZeroes, "write zeroes", off, length)
}

func (c *Client) zero(typ uint32, op string, off, length int64) error {
	if err := blockdev.CheckRange(off, length, c.Size()); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	unlock := c.lockEdges(off, length)
	defer unlock()
	first := (off + wire.SectorSize - 1) &^ (wire.SectorSize - 1)
	last := (off + length) &^ (wire.SectorSize - 1)
	for _, e := range [][2]int64{{off, min(first, off+length)}, {max(last, first), off + length}} {
		if n := e[1] - e[0]; n > 0 {
			if err := c.write(make([]byte, n), e[0], int(e[0]%wire.SectorSize)); err != nil {
				return fmt.Errorf("%s: %w", op, err)
			}
		}
	}
	for first < last {
		n := min(last-first, int64(c.maxZero())*wire.SectorSize)
		r := wire.Range{Sector: uint64(first) / wire.SectorSize, Sectors: uint32(n / wire.SectorSize)}
		if err := c.do(typ, 0, wire.RangeSize, func(data []byte) { r.Put(data) }, nil); err != nil {
			return fmt.Errorf("%s %d bytes at %d: %w", op, n, first, err)
		}
		first += n
	}
	return nil
}

func (c *Client) maxZero() uint32 {
	return max(1, min(c.config.MaxDiscard, c.config.MaxWriteZeroes, 1<<30))
}

// Serial asks for the disk's serial number.
func (c *Client) Serial() (string, error) {
	var serial string
	err := c.do(wire.BlkGetID, 0, wire.BlkIDSize, nil, func(data []byte) {
		n := 0
		for n < len(data) && data[n] != 0 {
			n++
		}
		serial = string(data[:n])
	})
	return serial, err
}

// SetCache turns the back end's volatile cache on or off.
func (c *Client) SetCache(on bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := byte(0)
	if on {
		v = 1
	}
	return c.conn.set(wire.SetConfig, wire.Config{Offset: wire.WritebackOffset, Data: []byte{v}}.Append(nil))
}

// Remap takes the buffers' memory away from the back end and shares it again, as on
// memory hotplug. It needs Dialer.Slots. Requests must not be in flight.
func (c *Client) Remap() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.memory.regions()[1]
	if err := c.conn.set(wire.RemMemReg, r.Append(nil)); err != nil {
		return err
	}
	return c.conn.set(wire.AddMemReg, r.Append(nil), c.memory.fd)
}
