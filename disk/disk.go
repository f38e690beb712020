// Package disk reads a block device out of a block map and a chunk reader.
//
// A read is cut at frames. Frames in memory are copied; for the others a
// flight is joined or begun, all of them before the first is waited for. A
// flight fetches one unit, by default a whole chunk in one request (its stored
// length is in the block map, so header and frames come in one round trip),
// and decodes the frames that somebody waits for before the others. Where a
// reader is near (a host cache whose files are at hand), frames that are stored
// raw are read from there by the page, without a flight, and the frames behind reads that
// go on from frame to frame are decoded before they come (sequence.go).
//
// # Concurrency
//
//	ReadAt ──hit──────────────────────────► copy          (shard lock, pinned frame)
//	   │ miss
//	   ▼          demand queue      ┌──────────────┐
//	  join ──────► FIFO ──────────► │ window       │ one goroutine a flight:
//	Prefetch ────► background ────► │ ≤ Fetches    │   fetch, retry ► decode ► memory
//	Fetch ───────► FIFO             │ (background  │                    │
//	                                │  ≤ a half)   │                    ▼
//	  wait ◄──────── broadcast ──── └──────────────┘ ◄────────────── deliver
//
// What holds:
//
//   - Disk.mu guards the queues, the table of flights and every flight's
//     mutable fields. It is held for table work only: never over a fetch, a
//     decode or a copy. A Memory shard's lock may be taken under it.
//   - A flight is in the table from the first request for its unit on, and its
//     frames are in memory before it leaves. So a unit is never fetched twice
//     at once, nor again by a reader that just missed it.
//   - A flight owns one reference to each frame it decoded until it ends, and
//     longer only to those that somebody waits for.
//   - Goroutines are those of started flights, at most Options.Fetches. Close
//     ends their context, fails what is queued and waits for them. The demand
//     queue is bounded by the reads that wait, maxWaits units each. Prefetch
//     drops what finds MaxBackground units queued; each Fetch queues one.
//   - A flight that was queued by Prefetch or Fetch and is then demanded moves to the
//     demand queue, and its fetch, wherever that waits, becomes a guest's
//     (chunk.Urgency: locks of queues behind the reader are taken under mu).
//     Background flights start only while no read is queued and half of the
//     window is free for reads to come.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/internal/loglimit"
	"github.com/rivuletfs/rivulet/seal"
)

// Defaults and bounds of Options.
const (
	DefaultFetches = 64               // fetches in flight
	MaxFetches     = 4096             // most that may be asked for
	DefaultTimeout = 30 * time.Second // from a read's miss to its failure

	// MaxBackground is how many units may be queued for Prefetch to queue more.
	MaxBackground = 256
	// maxWaits bounds the frames that one read has asked for and not copied.
	maxWaits = 512
)

// ErrClosed is returned by reads of a disk that was closed.
var ErrClosed = fmt.Errorf("disk: %w", fs.ErrClosed)

// ErrTimedOut is returned (wrapped) by reads that were given up for want of time: a
// hung read, which is the guest's EIO.
var ErrTimedOut = errors.New("it took too long")

// A Mode says how much one request fetches.
type Mode int

const (
	// WholeChunks fetches a chunk by one request, which suits far sources.
	WholeChunks Mode = iota
	// SingleFrames fetches the header and the frame that is asked for, which
	// suits near stores.
	SingleFrames
)

// Options says how a disk reads. The zero value is usable.
type Options struct {
	Memory  *Memory                // frames in memory, may be shared; nil: own, of DefaultMemory bytes
	Opener  *seal.Opener           // opens sealed frames; shared, the caller's; nil: own
	Mode    Mode                   // what one request fetches
	Whole   func(id chunk.ID) bool // with SingleFrames: whether this chunk is to be fetched whole all the same, at present; must not block; nil: none is
	Far     bool                   // a request takes long, so that frames that a read goes on to come with the first of them
	Near    chunk.Reader           // reads at once what is near at hand, of other chunks chunk.ErrNotFound; nil: nothing is
	Fetches int                    // fetches in flight; 0: DefaultFetches
	Timeout time.Duration          // bound of a fetch with its retries; 0: DefaultTimeout
	Meter   *Meter                 // counts times and tiers, may be shared; nil: own
	Logger  *slog.Logger           // told once of each failed fetch, loglimit.PerSecond at most; nil: nobody

	// OnSlow is told of each read that memory could not answer and that took Slow or
	// longer (0: DefaultSlow), or failed, but for reads of a closed disk. It runs in the
	// goroutine of that read, any number at once, before the read returns: it is quick,
	// and blocks on nothing. What it is given is its own. nil: nobody is told.
	OnSlow func(*SlowRead)
	Slow   time.Duration
}

// A Disk is a blockdev.Device, Extenter and Prefetcher. Its methods may be
// called by any number of goroutines.
type Disk struct {
	m      *blockmap.Map
	info   blockmap.Info
	reader chunk.Reader
	opt    Options
	memory *Memory
	opener *seal.Opener
	desks  sync.Pool // of *desk
	stats  counters
	marks  marks

	sequence sequence // of reads that missed memory

	frameCount int64                       // of all chunks
	ebb        atomic.Bool                 // what Fetch brings for nobody is not kept any more
	onTouch    atomic.Pointer[func(Touch)] // nil: nobody is told

	ctx     context.Context // ends at Close
	cancel  context.CancelFunc
	closed  atomic.Bool    // set under mu; read without it on the way in
	running sync.WaitGroup // flights that were started

	mu         sync.Mutex // guards what follows, and the flights
	flights    map[unit]*flight
	demand     []*flight // first in, first out
	background []*flight // the same
	active     int       // flights started and not finished
}

var (
	_ blockdev.Device     = (*Disk)(nil)
	_ blockdev.Extenter   = (*Disk)(nil)
	_ blockdev.Prefetcher = (*Disk)(nil)
)

// Open returns the disk that m describes, its chunks read from r. It fetches
// nothing. The caller closes the disk, and r after that. The error is
// seal.ErrLocked for a map whose keys cannot be read, and seal.ErrUnsealed for
// one without encryption.
func Open(m *blockmap.Map, r chunk.Reader, opt Options) (*Disk, error) {
	if err := seal.CheckReadable(m); err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	if opt.Fetches < 0 || opt.Fetches > MaxFetches || opt.Timeout < 0 || opt.Slow < 0 {
		return nil, fmt.Errorf("open disk %s: %d fetches, timeout %v, slow from %v: want 0 to %d, at least 0, at least 0",
			m.Digest(), opt.Fetches, opt.Timeout, opt.Slow, MaxFetches)
	}
	if opt.Fetches == 0 {
		opt.Fetches = DefaultFetches
	}
	if opt.Timeout == 0 {
		opt.Timeout = DefaultTimeout
	}
	if opt.Slow == 0 {
		opt.Slow = DefaultSlow
	}
	if opt.Memory == nil {
		opt.Memory = NewMemory(DefaultMemory)
	}
	if opt.Meter == nil {
		opt.Meter = new(Meter)
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	opt.Logger = loglimit.New(opt.Logger)
	d := &Disk{m: m, info: m.Info(), reader: r, opt: opt, memory: opt.Memory, opener: opt.Opener, flights: make(map[unit]*flight)}
	d.marks, d.frameCount = newMarks(m), countFrames(m)
	if d.opener == nil {
		var err error
		if d.opener, err = seal.NewOpener(); err != nil {
			return nil, fmt.Errorf("open disk %s: %w", m.Digest(), err)
		}
	}
	d.desks.New = func() any {
		return &desk{buf: make([]byte, blockmap.MaxStored(int(d.info.ChunkSize())))}
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// Size returns the bytes of the disk.
func (d *Disk) Size() int64 { return d.info.Size }

// Map returns the block map that the disk is read from.
func (d *Disk) Map() *blockmap.Map { return d.m }

// Close fails reads that wait and all later ones with ErrClosed, ends the
// fetches and returns when their goroutines are gone. It closes nothing else.
// Closing again does the same.
func (d *Disk) Close() error {
	d.mu.Lock()
	first := !d.closed.Swap(true)
	d.cancel()
	for _, f := range d.flights {
		if f.state != started {
			d.end(f, ErrClosed)
		}
	}
	d.demand, d.background = nil, nil
	d.mu.Unlock()
	d.running.Wait()
	if first && d.opt.Opener == nil {
		d.opener.Close()
	}
	return nil
}
