package host

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
)

// MaxSlowReads bounds the slow reads that are kept of an attachment: the newest.
const MaxSlowReads = 1024

// maxSlowError bounds the text of an error that is kept, in bytes.
const maxSlowError = 256

// A SlowRead is what is kept of a disk.SlowRead.
type SlowRead struct {
	Begun  time.Time     `json:"begun"`
	Offset int64         `json:"offset"` // on the disk
	Length int           `json:"length"` // bytes
	Wait   time.Duration `json:"wait_ns"`
	Tier   string        `json:"tier"` // a chunk.Tier's name: the furthest that had to be waited for

	// Queued is the longest that one of its fetches waited for a place in the window.
	Queued  time.Duration `json:"queued_ns,omitempty"`
	Fetches int           `json:"fetches"`           // that it waited for
	Retries int           `json:"retries,omitempty"` // answers of the origin that were none
	Opening bool          `json:"opening,omitempty"` // it waited for the disk to be opened
	Error   string        `json:"error,omitempty"`   // why it failed; empty: it was answered
}

// A SlowTier sums up the slow reads that waited for one tier, since the attachment
// was made in this process.
type SlowTier struct {
	Tier    string        `json:"tier"`
	Reads   int64         `json:"reads"`
	Failed  int64         `json:"failed"`
	Wait    time.Duration `json:"wait_ns"` // of all together
	Longest time.Duration `json:"longest_ns"`
	// Counts are how many took at most as long as the SlowBound of that index, and
	// longer than the one before; the last is of those that took longer than all.
	Counts []int64 `json:"counts"`
}

// SlowBounds are the bounds of SlowTier.Counts.
var SlowBounds = [...]time.Duration{
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// A Slow tells of the slow reads of an attachment, since it was made in this process.
type Slow struct {
	Slow  time.Duration `json:"slow_ns"` // how long a read takes that is slow
	Tiers []SlowTier    `json:"tiers"`   // those that had some, nearest first
	Reads []SlowRead    `json:"reads"`   // the newest, MaxSlowReads at most, the oldest of them first
}

// A slowLog keeps the slow reads of an attachment. It grows to some 150 KiB.
type slowLog struct {
	mu    sync.Mutex
	tiers [chunk.Tiers]SlowTier
	reads []SlowRead
	next  int // place of the oldest once there are MaxSlowReads
	total int64
	fail  time.Time // when the last one that failed had begun
}

func (l *slowLog) add(r *disk.SlowRead) {
	s := SlowRead{Begun: r.Begun, Offset: r.Offset, Length: r.Length, Wait: r.Wait, Tier: r.Tier.String(), Fetches: len(r.Fetches) + r.More}
	for i := range r.Fetches {
		f := &r.Fetches[i]
		s.Queued = max(s.Queued, f.Queued)
		for _, step := range f.Steps {
			if step.Tier == chunk.Origin && step.Err != nil {
				s.Retries++
			}
		}
	}
	s.Opening = r.Tier == chunk.Nowhere && s.Fetches == 0
	if r.Err != nil {
		text := r.Err.Error()
		s.Error = strings.ToValidUTF8(text[:min(len(text), maxSlowError)], "")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	if r.Err != nil {
		l.fail = s.Begun
	}
	l.tiers[min(r.Tier, chunk.Tiers-1)].add(&s)
	if len(l.reads) < MaxSlowReads {
		l.reads = append(l.reads, s)
		return
	}
	l.reads[l.next] = s
	l.next = (l.next + 1) % MaxSlowReads
}

func (t *SlowTier) add(s *SlowRead) {
	if t.Counts == nil {
		t.Tier, t.Counts = s.Tier, make([]int64, len(SlowBounds)+1)
	}
	t.Reads++
	if s.Error != "" {
		t.Failed++
	}
	t.Wait += s.Wait
	t.Longest = max(t.Longest, s.Wait)
	at, _ := slices.BinarySearch(SlowBounds[:], s.Wait)
	t.Counts[at]++
}

// count returns how many slow reads there were, and when the last one that failed
// had begun.
func (l *slowLog) count() (total int64, failed time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total, l.fail
}

// tell returns a copy of what l has.
func (l *slowLog) tell() Slow {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Slow{Tiers: []SlowTier{}, Reads: make([]SlowRead, 0, len(l.reads))}
	for _, t := range l.tiers {
		if t.Reads > 0 {
			t.Counts = slices.Clone(t.Counts)
			s.Tiers = append(s.Tiers, t)
		}
	}
	s.Reads = append(append(s.Reads, l.reads[l.next:]...), l.reads[:l.next]...)
	return s
}

// onSlow keeps what a disk tells of a slow read, and tells it on.
func (h *Host) onSlow(r *disk.SlowRead) {
	h.mu.Lock()
	a := h.attached[r.Reader]
	h.mu.Unlock()
	if a != nil {
		a.slow.add(r)
	}
	if h.cfg.OnSlow != nil {
		h.cfg.OnSlow(r)
	}
}

// Slow tells of an attachment's slow reads; the error is ErrNotFound if there is no
// such attachment.
func (h *Host) Slow(id string) (Slow, error) {
	h.mu.Lock()
	a := h.attached[id]
	h.mu.Unlock()
	if a == nil {
		return Slow{}, fmt.Errorf("slow reads of %q: %w", id, ErrNotFound)
	}
	s := a.slow.tell()
	s.Slow = h.cfg.Slow
	return s, nil
}
