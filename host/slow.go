package host

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/internal/histogram"
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
	Tier    string         `json:"tier"`
	Reads   int64          `json:"reads"`
	Failed  int64          `json:"failed"`
	Longest time.Duration  `json:"longest_ns"`
	Waits   disk.Histogram `json:"waits"` // how long they waited
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
	tiers [chunk.Tiers]slowTier
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

// A slowTier is a SlowTier that goes on.
type slowTier struct {
	reads, failed int64
	longest       time.Duration
	waits         histogram.Histogram
}

func (t *slowTier) add(s *SlowRead) {
	t.reads++
	if s.Error != "" {
		t.failed++
	}
	t.longest = max(t.longest, s.Wait)
	t.waits.Add(s.Wait, 1)
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
	for i := range l.tiers {
		if t := &l.tiers[i]; t.reads > 0 {
			s.Tiers = append(s.Tiers, SlowTier{chunk.Tier(i).String(), t.reads, t.failed, t.longest, t.waits.Counts()})
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
