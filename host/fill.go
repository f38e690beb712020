package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/profile/start"
)

// A Fill says that all of a disk is to be brought to the host cache, so that a machine
// which runs for long needs its origin no more, and one that reads all of it does not
// wait for one chunk after the other. It begins when a quarter of the disk was read, when
// reads turn out to be a walk over it that nothing reads ahead of, or when the start is over.
// Of attachments that share a disk, the first one's counts.
type Fill struct {
	Rate int64 `json:"rate,omitempty"` // stored bytes a second; 0: no bound but the origin's
	// Optional says to do without where there is no host cache; else that is an error.
	Optional bool `json:"optional,omitempty"`
}

func (f *Fill) check() error {
	if f != nil && f.Rate < 0 {
		return SpecErrorf("attach: fill of %d bytes a second: want 0 or more", f.Rate)
	}
	return nil
}

// fillShare is of how many frames one has to be read for a fill to begin before the start
// is over.
const fillShare = 4

const (
	// Of the last walkMisses chunks that reads have waited for, walkShare have to lie among the
	// same walkRegion chunks of the disk for a fill to begin before the start is over. Who reads
	// all files finds those of a folder near one another, and has the way to the store idle most
	// of the time. A start goes from here to there (of the last 24, 16 at most lie so: nodejs),
	// and what a fill brings of others is in its way.
	walkMisses = 24
	walkShare  = 20
	walkRegion = 64
	// missTime is from when on a read has waited for more than this machine.
	missTime = 5 * time.Millisecond
)

// misses tell a walk by the chunks that reads have waited for.
type misses struct {
	mu    sync.Mutex
	count int
	last  [walkMisses]int // their positions; the next one comes at count
}

// touch is told of a first read, and reports whether it is one of a walk.
func (m *misses) touch(t disk.Touch) bool {
	if t.Waited < missTime {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count > 0 && t.Chunk == m.last[(m.count-1)%walkMisses] {
		return false
	}
	m.last[m.count%walkMisses] = t.Chunk
	m.count++
	near := 0
	for _, pos := range m.last[:min(m.count, walkMisses)] {
		if pos/walkRegion == t.Chunk/walkRegion {
			near++
		}
	}
	return near >= walkShare
}

// A FillState says how far a fill is.
type FillState string

// States of a fill.
const (
	FillWaits  FillState = "waiting" // for the start
	FillRuns   FillState = "running"
	FillPaused FillState = "paused" // it goes on, or begins, when it is resumed
	FillDone   FillState = "done"
	FillFailed FillState = "failed" // some chunks could not be read
)

// A Filled tells of a fill.
type Filled struct {
	State   FillState `json:"state"`
	Chunks  int       `json:"chunks"` // of the disk
	Done    int       `json:"done"`   // of them, those that the host cache was seen to have
	Bytes   int64     `json:"bytes"`  // stored, of those
	Problem string    `json:"problem,omitempty"`
}

// A filling is the fill of a shared disk.
type filling struct {
	fill   *start.Fill
	cancel context.CancelFunc
	ended  chan struct{} // closed when its goroutine has ended

	mu    sync.Mutex // guards what follows
	begun bool
	over  bool
	err   error
}

// waits reports whether somebody waits for a read of the disk.
func (s *sharedDisk) waits() bool {
	pieces, _ := s.Waiting()
	return pieces > 0
}

// beginFill has the disk of s filled as spec says, when the start is over or far enough;
// nil: there is none.
func (h *Host) beginFill(s *sharedDisk, spec *Fill) {
	if spec == nil {
		return
	}
	if h.cfg.Cache == nil {
		if spec.Optional {
			return
		}
		h.log.Warn("the disk is not filled: there is no host cache to fill", "image", s.key.image)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &filling{
		fill:   start.NewFill(s.Map(), s.reader, start.FillOptions{Rate: spec.Rate, Away: h.cfg.Cache.Away, Packed: s.packed(), Waits: s.waits}),
		cancel: cancel, ended: make(chan struct{}),
	}
	s.fill = f
	var ready <-chan struct{}
	if s.start != nil {
		ready = s.start.far
		s.start.fill.Store(f.fill)
	}
	go func() {
		defer close(f.ended)
		f.run(ctx, ready, h, s)
	}()
}

func (f *filling) run(ctx context.Context, ready <-chan struct{}, h *Host, s *sharedDisk) {
	if ready != nil {
		select {
		case <-ready:
		case <-ctx.Done():
			return
		}
	}
	f.mu.Lock()
	f.begun = true
	f.mu.Unlock()
	err := f.fill.Run(ctx)
	f.mu.Lock()
	f.over, f.err = true, err
	f.mu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) {
		h.log.Warn("the host cache does not have all of the disk", "image", s.key.image, "err", err)
	}
}

// end ends the fill with its disk.
func (f *filling) end() {
	if f != nil {
		f.cancel()
		<-f.ended
	}
}

// tell tells of the fill; nil: there is none.
func (f *filling) tell() *Filled {
	if f == nil {
		return nil
	}
	p := f.fill.Progress()
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &Filled{State: FillWaits, Chunks: p.Chunks, Done: p.Done, Bytes: p.Bytes}
	switch {
	case f.over && f.err != nil:
		t.State, t.Problem = FillFailed, f.err.Error()
	case f.over:
		t.State = FillDone
	case p.Paused:
		t.State = FillPaused
	case f.begun:
		t.State = FillRuns
	}
	return t
}

// PauseFill holds the fill of an attachment's disk up, or has it go on; it lasts until the
// process ends. The error is ErrNotFound if there is no such attachment, and a SpecError
// if its disk is not filled.
func (h *Host) PauseFill(id string, pause bool) error {
	h.mu.Lock()
	a := h.attached[id]
	h.mu.Unlock()
	if a == nil {
		return fmt.Errorf("fill of %q: %w", id, ErrNotFound)
	}
	s := a.dev.disk.Load()
	if s == nil || s.fill == nil {
		return SpecErrorf("fill of %s: its disk is not filled", id)
	}
	s.fill.fill.Pause(pause)
	return nil
}
