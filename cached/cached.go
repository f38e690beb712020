// Package cached is the host cache: one process a host that keeps sealed chunks
// on disk for everybody on it. It has no keys, and of credentials only those of
// downloads that run. doc/format/cache-protocol.md is what it speaks, package
// cachedclient who speaks with it, store/cache its disk.
//
// A hit is answered with a read-only descriptor of the chunk's file; its bytes
// never pass through this process. A chunk that is missing is fetched once
// however many ask for it, by a *flight*:
//
//	        zone has it ┌──────────────────────────────────────────┐
//	                    │                                          ▼
//	first asker ─► looking ─► leased ──Fetch──► fetching ──────► landed: every
//	                ▲  ▲        │  └─Deposit─► depositing ────►          waiter gets a Hit
//	  others        │  │        │               │       │
//	  wait here ────┘  └────────┴───────────────┴───────┘
//	                     lease lost, request failed: the next waiter's turn
//
// Who wants some frames of a chunk says so, and if nobody wants more, these are fetched alone
// and kept, with those that the cache had, as an extract. A flight that has landed so goes on
// for those who wait for other frames.
//
// Waiters are answered as soon as the bytes that they want are checked, before
// the chunk is whole (Part). A waiter that has waited as long as it said, and
// all of them when a flight is given up, get a Miss and read elsewhere.
//
// # Concurrency
//
//   - Server.mu guards the table of flights and all fields of flights, waiters
//     and leases. It is held for table work only: never over a system call that
//     may block, never while a message is sent.
//   - A connection has two goroutines. Its reader handles requests one after the
//     other and answers what it can at once; its sender sends what comes later,
//     from a queue that has a place for every request that may be outstanding, so
//     that nobody who puts an answer there waits.
//   - A deposit is written by one goroutine at a time: that of the download, or
//     the holder's reader. flight.busy says so; whoever ends a flight that is busy
//     leaves the deposit to that goroutine.
//   - Downloads have a goroutine each, bounded by Config.Downloads, and so have
//     looks, bounded by the flights that a connection may begin (Outstanding); of
//     these only a few look into the zone at a time. All belong to the server, not
//     to who asked: what a lease began survives its holder. Close ends and awaits
//     them.
package cached

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/cached/internal/wire"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/internal/loglimit"
	"github.com/rivuletfs/rivulet/internal/tokenbucket"
	"github.com/rivuletfs/rivulet/store/cache"
	"github.com/rivuletfs/rivulet/store/download"
	"github.com/rivuletfs/rivulet/tier"
)

// Defaults and bounds of Config.
const (
	DefaultDownloads = 64               // at a time
	DefaultLease     = 2 * time.Second  // from the lease to its use
	DefaultWait      = 30 * time.Second // the longest that a request waits

	// MaxConnections is how many clients may be connected.
	MaxConnections = 4096
	// Outstanding is how many requests of a connection may be unanswered.
	Outstanding = 512

	// maxHold is how many times its length a lease can be kept by using and
	// renewing it.
	maxHold = 15
	// maxTries is how many leases of a flight may come to nothing.
	maxTries = 3
	// greetTime is how long a client may take to say who it is.
	greetTime = 5 * time.Second
	// zoneLooks is how many chunks are asked of the zone at a time.
	zoneLooks = 64
	// sendTime is how long a client may leave an answer unread, and queueTime how
	// long those may be that wait behind it: each keeps a chunk from eviction.
	sendTime  = 5 * time.Second
	queueTime = 2 * sendTime
)

// A Zone is a cache that many hosts share, asked before an origin.
type Zone interface {
	// Offer calls take with what may be the whole object of a chunk, good until take
	// returns. It may do so again if take returns a *chunk.CorruptError, after which
	// nothing that take has done counts. It returns the last error of take, or
	// chunk.ErrNotFound (wrapped) if it has nothing to offer, or why that is not known.
	Offer(ctx context.Context, id chunk.ID, take func(object []byte) error) error
	// Fill offers the zone a chunk, which it may leave; it does not keep object, and
	// does not block.
	Fill(id chunk.ID, object []byte)
}

// Config says what a server works with. Cache is needed; zero values of others
// have defaults.
type Config struct {
	Cache     *cache.Cache     // the caller's to close, after the server
	Download  *download.Client // nil: clients fetch everything themselves
	Zone      Zone             // nil: none
	Limit     *tier.Limit      // of downloads; nil: DefaultDownloads at once
	Lease     time.Duration    // 0: DefaultLease
	Wait      time.Duration    // 0: DefaultWait
	Group     int              // members of this group may connect; 0: the server's user and root alone
	Downloads int              // goroutines of downloads, waiting ones included; 0: 16 × DefaultDownloads
	Version   string           // of the program, which clients are told
	Logger    *slog.Logger     // nil: nobody is told
}

// ErrClosed is returned by Serve after Close.
var ErrClosed = errors.New("host cache is closed")

// A Server serves one cache. New makes one.
type Server struct {
	cache    *cache.Cache
	download *download.Client
	zone     Zone
	limit    *tier.Limit
	lease    time.Duration
	wait     time.Duration
	group    int
	self     wire.Daemon
	logger   *slog.Logger
	stats    counters
	looks    tier.Limit  // into the zone; each has a buffer for a chunk
	excerpts tier.Limit  // that are put together, in memory
	places   tier.Limit  // goroutines of downloads, those that wait in line included
	scrub    atomic.Bool // one runs

	complaints complaints

	done    context.Context // ends at Close
	stop    context.CancelFunc
	running sync.WaitGroup // every goroutine

	mu        sync.Mutex // guards what follows, and flights
	closed    bool
	flights   map[chunk.ID]*flight
	leases    map[uint64]*flight
	lastLease uint64
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
}

// New returns a server. It serves nobody until Serve.
func New(c Config) (*Server, error) {
	if c.Cache == nil || c.Lease < 0 || c.Wait < 0 || c.Downloads < 0 {
		return nil, errors.New("host cache: want a cache, and no negative times and numbers")
	}
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	if c.Wait == 0 {
		c.Wait = DefaultWait
	}
	if c.Limit == nil {
		c.Limit = &tier.Limit{Concurrent: DefaultDownloads}
	}
	if c.Downloads == 0 {
		c.Downloads = 16 * DefaultDownloads
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cache: c.Cache, download: c.Download, zone: c.Zone, limit: c.Limit, lease: c.Lease, wait: c.Wait, group: c.Group,
		self:    wire.Daemon{Process: uint32(os.Getpid()), Since: uint64(time.Now().Unix()), Version: c.Version},
		logger:  loglimit.New(c.Logger),
		places:  tier.Limit{Concurrent: c.Downloads},
		flights: make(map[chunk.ID]*flight), leases: make(map[uint64]*flight),
		conns: make(map[*conn]struct{}), listeners: make(map[net.Listener]struct{}),
		looks:      tier.Limit{Concurrent: zoneLooks},
		excerpts:   tier.Limit{Concurrent: DefaultDownloads},
		complaints: complaints{users: make(map[int]*tokenbucket.Bucket)},
	}
	s.done, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Serve accepts clients on l, which it owns, until Close, whereupon it returns
// ErrClosed, or until l fails. It may be called for several listeners.
func (s *Server) Serve(l *net.UnixListener) error {
	defer func() { _ = l.Close() }()
	if !s.register(l) {
		return ErrClosed
	}
	for {
		socket, err := l.AcceptUnix()
		if err != nil {
			if s.done.Err() != nil {
				return ErrClosed
			}
			if again(err) {
				time.Sleep(10 * time.Millisecond) // too many descriptors are open; some will close
				continue
			}
			return fmt.Errorf("serve host cache: %w", err)
		}
		s.admit(socket)
	}
}

// register notes a listener, to be closed by Close.
func (s *Server) register(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

// admit starts a connection for a client who may have one.
func (s *Server) admit(socket *net.UnixConn) {
	who, err := s.identify(socket)
	if err != nil {
		s.stats.refused.Add(1)
		s.logger.Warn("host cache: client refused", "err", err)
		_ = socket.Close()
		return
	}
	c := newConn(s, socket, who)
	s.mu.Lock()
	full := len(s.conns) >= MaxConnections
	if s.closed || full {
		s.mu.Unlock()
		if full {
			s.stats.refused.Add(1)
			s.logger.Warn("host cache: too many clients", "connected", MaxConnections)
		}
		_ = socket.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.running.Add(2)
	s.mu.Unlock()
	s.stats.connections.Add(1)
	go c.receive()
	go c.sendLater()
}

// Close answers whoever waits with a Miss, ends downloads and connections and
// returns when all goroutines are gone. Closing again does nothing.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for _, f := range s.flights {
		s.giveUp(f, closing)
	}
	s.mu.Unlock()
	s.stop()
	s.mu.Lock()
	for l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.conns {
		c.end()
	}
	s.mu.Unlock()
	s.running.Wait()
}
