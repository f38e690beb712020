// Package cachedclient reads chunks through the host cache (package cached).
//
// A chunk that the cache has is read from its file, by a descriptor that the
// daemon sent: after the first touch no byte and no question goes through the
// daemon. The daemon is not trusted. Each frame is checked by its SHA-256 against
// the chunk's header when it is touched first, and by the page from then on, with
// keyed checksums taken behind that check; what turns out damaged is reported to the
// daemon, and had anew.
//
// A chunk that the cache lacks is fetched once for the whole host. Whoever asks
// first gets the lease, and hands the daemon a request that it can send by
// itself (origin.Requester); without one, or if that came to nothing, the client
// reads the chunk from its own origin and deposits it.
//
// Of a chunk the cache may have an extract, some frames. A read beyond these asks for the rest,
// so that the chunk is whole then, or for those that its context names.
//
// Nobody waits for a daemon that is dead, stopped or overloaded for longer than
// Config.Wait in all, nor longer than Config.Silence for a sign of life. A read
// that gets nothing from it reads from its own origin; what is held goes on being
// read from its files; and the daemon is tried again after a pause that grows.
//
// # Concurrency
//
// link.mu guards a connection's table of calls; Client.mu, which may be taken
// under it, the connection and who dials it; shelf.mu the chunks that are held.
// None is held over a system call. A client has up to three goroutines, and one
// for each lease that it gives back: the keeper, which tells the daemon what is
// used; a dialler, while it dials; and the reader of the connection. Close ends
// and awaits them.
package cachedclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/internal/loglimit"
	"github.com/rivuletfs/rivulet/origin"
)

// Defaults of Config.
const (
	DefaultWait        = 10 * time.Second
	DefaultSilence     = 2 * time.Second
	DefaultDescriptors = 4096 // or a quarter of those that the process may have
)

// How a client keeps in touch.
const (
	sweepTime  = 5 * time.Second // between tellings of what is used
	idleSweeps = 12              // after which an unused descriptor is closed
)

// ErrAway is returned (wrapped) when the daemon does not answer.
var ErrAway = errors.New("the host cache does not answer")

// Config says how a client works. Zero values but Socket's have defaults.
type Config struct {
	Socket      string        // path of the daemon's
	Wait        time.Duration // the longest that a read waits for the daemon; 0: DefaultWait
	Silence     time.Duration // after which a daemon that owes an answer is given up; 0: DefaultSilence
	Descriptors int           // chunks held open; 0: DefaultDescriptors
	Logger      *slog.Logger  // nil: nobody is told

	sweep time.Duration // tests; 0: sweepTime
}

// A Client is one process's use of a host cache. New makes one. Its methods may
// be called by any number of goroutines.
type Client struct {
	config  Config
	logger  *slog.Logger
	shelf   shelf
	buffers sync.Pool // of *buffer
	stats   counters

	done    context.Context // ends at Close
	stop    context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows
	closed  bool
	link    *link         // nil: none
	dialing chan struct{} // closed when the dialler is done; nil: none dials
	pause   time.Duration // before the next dialling; 0: there was no failure
	after   time.Time     // when it may be
	told    bool          // that the daemon is away

	away atomic.Bool // it was when it was last dialled; set under mu
}

// New returns a client. It connects when it is used first.
func New(c Config) *Client {
	if c.Wait <= 0 {
		c.Wait = DefaultWait
	}
	if c.Silence <= 0 {
		c.Silence = DefaultSilence
	}
	if c.Descriptors <= 0 {
		c.Descriptors = DefaultDescriptors
		var r syscall.Rlimit
		if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) == nil {
			c.Descriptors = int(min(DefaultDescriptors, max(16, r.Cur/4)))
		}
	}
	if c.sweep <= 0 {
		c.sweep = sweepTime
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	cl := &Client{config: c, logger: loglimit.New(c.Logger)}
	cl.shelf.init(c.Descriptors)
	cl.buffers.New = func() any { return new(buffer) }
	cl.done, cl.stop = context.WithCancel(context.Background())
	cl.running.Go(cl.keep)
	return cl
}

// Socket returns the path of the daemon's socket.
func (c *Client) Socket() string { return c.config.Socket }

// Close ends the connection and gives up the descriptors. Reads that wait for
// the daemon go to their origins, as do all later ones.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	l := c.link
	c.link = nil
	c.mu.Unlock()
	c.stop()
	if l != nil {
		l.fail(ErrAway)
	}
	c.running.Wait()
	c.shelf.clear()
}

// A Reader reads one image's chunks through the cache.
type Reader struct {
	client   *Client
	origin   chunk.Reader
	requests origin.Requester // nil: none
}

var _ chunk.Reader = (*Reader)(nil)

// Reader returns a reader for chunks that origin has, which is read when the
// cache does not help. requests makes requests for them; nil if there are none.
// All readers of a client share what it holds. A read whose context tells of frames
// (chunk.WithExtract) has the cache bring these and no more, if it lacks any of them.
func (c *Client) Reader(origin chunk.Reader, requests origin.Requester) *Reader {
	return &Reader{c, origin, requests}
}

// ReadChunk implements [chunk.Reader]. Reads of what is held allocate nothing.
func (r *Reader) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read chunk %v: negative offset %d", id, off)
	}
	if err := ctx.Err(); err != nil || len(dst) == 0 {
		return 0, err
	}
	t := newStep(ctx, id, dst, off)
	n, err := r.client.readHeld(id, dst, off, chunk.ExtractOf(ctx))
	if err == nil {
		t.end(nil)
		return n, nil
	}
	return r.ask(ctx, t, id, dst, off)
}

// Held returns a reader of what the client has in its hands: a chunk that it
// would have to ask for, or of which it lacks a frame that the context tells of
// (chunk.WithExtract), is chunk.ErrNotFound. It is for those who can do better
// than wait.
func (c *Client) Held() chunk.Reader { return heldReader{c} }

// Away reports whether the daemon did not answer when it was last tried, and the
// chunk is not held: a read of it goes to the origin. It does not block.
func (c *Client) Away(id chunk.ID) bool { return c.away.Load() && !c.shelf.has(id) }

type heldReader struct{ client *Client }

// ReadChunk implements [chunk.Reader].
func (r heldReader) ReadChunk(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read chunk %v: negative offset %d", id, off)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return r.client.readHeld(id, dst, off, chunk.ExtractOf(ctx))
}

// readHeld reads a chunk that is on the shelf, if those frames of it are there, 0 being none.
// One that is not, or not as far as it is wanted, or that turns out damaged, is
// chunk.ErrNotFound.
func (c *Client) readHeld(id chunk.ID, dst []byte, off int64, frames chunk.Extract) (int, error) {
	h := c.shelf.get(id)
	if h == nil {
		return 0, chunk.ErrNotFound
	}
	defer c.shelf.put(h)
	if frames != 0 && !h.extract.Covers(frames) {
		return 0, chunk.ErrNotFound
	}
	n, err := c.read(h, dst, off)
	if err != nil {
		if !errors.Is(err, errMore) {
			c.complain(h, err)
		}
		return 0, chunk.ErrNotFound
	}
	c.stats.hits.Add(1)
	return n, nil
}

// A buffer is memory for one read.
type buffer struct{ b []byte }

// bytes returns n bytes of undefined content.
func (b *buffer) bytes(n int) []byte {
	if cap(b.b) < n {
		b.b = make([]byte, n)
	}
	return b.b[:n]
}

func (c *Client) read(h *held, dst []byte, off int64) (int, error) {
	b := c.buffers.Get().(*buffer)
	defer c.buffers.Put(b)
	return h.read(dst, off, b)
}
