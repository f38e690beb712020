package start

import (
	"context"
	"errors"
	"sync"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/disk"
)

// Bounds of a Sequence.
const (
	// neighbours is how many chunks are brought before a run of reads, at most; at first
	// it is one.
	neighbours = 4
	// seenShare is of how many frames of a chunk one was read when the reads of the next
	// chunk go on where those of this one have been.
	seenShare = 2

	sequenceFetches = 2        // at a time
	sequenceBudget  = 64 << 20 // stored bytes in all
	sequenceQueue   = 64       // chunks; what finds no room is not brought

	// It is judged by its last so many frames, and given up when fewer than one in
	// useful was read.
	judgedFrames = 256
	useful       = 3
)

// ErrUseless says that what was read ahead was not read.
var ErrUseless = errors.New("what comes next is not what is read next")

// A Sequence reads ahead of a start that nobody has recorded. A layer's chunks have files in
// the order of their paths, and a large file's in the order of its bytes, so who reads on
// through a file, or through a directory, comes to the next chunk: when one chunk was read
// for the better part, and the reads come to the next, those that follow are brought, the
// further the longer that goes on. It measures itself, and ends when it does not help. Its
// methods may be called by any number of goroutines; Run is called once.
type Sequence struct {
	disk  Disk
	m     *blockmap.Map
	wants chan int // positions

	mu      sync.Mutex
	read    map[int]int          // frames that were read, by position
	run     map[int]int          // how many chunks before it were read one after the other
	brought map[int]*disk.Frames // that were brought and not read, by position
	asked   map[int]bool         // positions
	judged  int                  // frames brought, of those
	used    int                  // read since
	bytes   int64
	ending  error
	useless chan struct{} // closed with ending
}

// NewSequence returns a Sequence that reads ahead on d.
func NewSequence(d Disk) *Sequence {
	return &Sequence{
		disk: d, m: d.Map(), wants: make(chan int, sequenceQueue), read: make(map[int]int), run: make(map[int]int),
		brought: make(map[int]*disk.Frames), asked: make(map[int]bool), useless: make(chan struct{}),
	}
}

// frames returns how many frames the chunk at pos has.
func (s *Sequence) frames(pos int) int {
	log2 := s.m.Info().FrameLog2
	return int((int64(s.m.Chunk(pos).Size) + 1<<log2 - 1) >> log2)
}

// follows reports whether the chunk at pos lies right behind the one before it.
func (s *Sequence) follows(pos int) bool {
	return pos > 0 && pos < s.m.Len() && s.m.Chunk(pos).Index == s.m.Chunk(pos-1).Index+1
}

// Touch is told of first reads; see disk.Disk.OnTouch.
func (s *Sequence) Touch(t disk.Touch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil {
		return
	}
	s.read[t.Chunk]++
	if b := s.brought[t.Chunk]; b != nil && b.Has(t.Frame) {
		s.used++
	}
	if s.run[t.Chunk] > 0 || !s.follows(t.Chunk) || s.read[t.Chunk-1]*seenShare < s.frames(t.Chunk-1) {
		return
	}
	s.run[t.Chunk] = s.run[t.Chunk-1] + 1
	for pos := t.Chunk + 1; pos <= t.Chunk+min(s.run[t.Chunk], neighbours) && s.follows(pos); pos++ {
		if s.asked[pos] || s.read[pos] > 0 {
			continue
		}
		select {
		case s.wants <- pos:
			s.asked[pos] = true
		default:
			return
		}
	}
}

// Run reads ahead until ctx ends, or it does not help: the error is why. It starts
// goroutines, and waits for them.
func (s *Sequence) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for range sequenceFetches {
		running.Go(func() {
			for {
				select {
				case pos := <-s.wants:
					s.fetch(ctx, pos)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	select {
	case <-s.useless:
		return s.ending
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetch brings the chunk at pos, and judges what was brought before.
func (s *Sequence) fetch(ctx context.Context, pos int) {
	var all disk.Frames
	for i := range s.frames(pos) {
		all.Add(i)
	}
	s.mu.Lock()
	if s.ending == nil {
		s.brought[pos] = &all // reads that come to what is under way count
	}
	s.mu.Unlock()
	b, err := s.disk.Fetch(ctx, pos, all)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += b.Bytes
	s.judged += b.Frames
	switch {
	case s.ending != nil:
		return
	case errors.Is(err, disk.ErrClosed):
		s.ending = err
	case s.bytes >= sequenceBudget:
		s.ending = ErrBudget
	case s.judged >= judgedFrames && s.used*useful < s.judged:
		s.ending = ErrUseless
	case s.judged >= judgedFrames:
		s.judged, s.used = s.judged/2, s.used/2 // what was long ago counts for less
		return
	default:
		return
	}
	close(s.useless)
}
