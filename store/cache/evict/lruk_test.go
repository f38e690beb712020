package evict_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict"
	"github.com/rivuletfs/rivulet/store/cache/evict/evicttest"
)

const never = time.Duration(math.MinInt64)

// paper is LRU-K as the paper writes it down (figure 2.1), with a scan for a
// victim instead of a structure. Pages are numbers.
type paper struct {
	k          int
	correlated time.Duration
	retained   time.Duration
	pages      map[uint64]*page
}

type page struct {
	hist []time.Duration
	last time.Duration
	in   bool // the buffer
}

func (p *paper) reference(q uint64, t time.Duration) {
	b := p.pages[q]
	switch {
	case b != nil && b.in && t-b.last > p.correlated:
		period := b.last - b.hist[0]
		for i := p.k - 1; i > 0; i-- {
			if b.hist[i] = b.hist[i-1]; b.hist[i] != never {
				b.hist[i] += period
			}
		}
		b.hist[0] = t
	case b != nil && b.in: // correlated
	case b != nil && t-b.last <= p.retained:
		copy(b.hist[1:], slices.Clone(b.hist[:p.k-1]))
		b.hist[0] = t
	default:
		b = &page{hist: slices.Repeat([]time.Duration{never}, p.k)}
		b.hist[0] = t
		p.pages[q] = b
	}
	b.last, b.in = t, true
}

// victim returns the page with the largest backward K-distance of those that
// are eligible, or else that used longest ago.
func (p *paper) victim(t time.Duration) uint64 {
	best, eligible := uint64(0), false
	for q, b := range p.pages {
		if !b.in {
			continue
		}
		ok := t-b.last > p.correlated
		top := p.pages[best]
		switch {
		case top == nil || !top.in, ok && !eligible:
			best, eligible = q, ok
		case ok != eligible:
		case ok && (b.hist[p.k-1] < top.hist[p.k-1] || b.hist[p.k-1] == top.hist[p.k-1] && b.last < top.last):
			best = q
		case !ok && b.last < top.last:
			best = q
		}
	}
	return best
}

// TestPaper compares LRUK with the paper's algorithm.
func TestPaper(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &paper{
			k:          rapid.IntRange(1, evict.MaxK).Draw(t, "K"),
			correlated: time.Duration(rapid.IntRange(0, 5).Draw(t, "correlated")) * 10,
			retained:   time.Duration(rapid.IntRange(1, 100).Draw(t, "retained")) * 10,
			pages:      map[uint64]*page{},
		}
		l := evict.NewLRUK(evict.Options{K: p.k, Correlated: p.correlated, Retained: p.retained, History: 1e6})
		names := map[chunk.ID]uint64{}
		now := time.Duration(1)
		for range rapid.IntRange(1, 300).Draw(t, "references") {
			now += time.Duration(rapid.IntRange(1, 30).Draw(t, "time"))
			q := rapid.Uint64Range(1, 12).Draw(t, "page")
			id := evicttest.ID(q)
			names[id] = q
			if b := p.pages[q]; (b == nil || !b.in) && l.Len() == 5 {
				want := p.victim(now)
				got, ok := l.Victim(now, func(chunk.ID) bool { return true })
				if !ok || names[got] != want {
					t.Fatalf("at %d victim is page %d, want %d", now, names[got], want)
				}
				p.pages[want].in = false
				l.Remove(got, true)
			}
			p.reference(q, now)
			l.Insert(id, 1, now) // of what is held, an access
		}
	})
}

// TestRecentShare: the correlated period ends early for what is more than its
// share.
func TestRecentShare(t *testing.T) {
	l := evict.NewLRUK(evict.Options{K: 2, Correlated: time.Hour, Recent: 50})
	for i := range uint64(10) {
		l.Insert(evicttest.ID(i), 1, time.Duration(i))
	}
	l.Access(evicttest.ID(0), 20) // its period was ended by the others: a second reference
	l.Access(evicttest.ID(9), 21) // still the first one
	for i := range uint64(10) {
		id, ok := l.Victim(2*time.Hour, func(chunk.ID) bool { return true })
		if !ok {
			t.Fatal("no victim")
		}
		if i < 8 && id != evicttest.ID(i+1) || i == 8 && id != evicttest.ID(9) || i == 9 && id != evicttest.ID(0) {
			t.Errorf("victim %d is %v", i, id)
		}
		l.Remove(id, true)
	}
}

func TestParse(t *testing.T) {
	names := append(evict.Names(), "", "lru-1", "lru-2?correlated=0s", "lru-3?correlated=1m&recent=10&retained=1h&history=0", "lru-4?history=1000")
	for _, name := range names {
		if p, err := evict.Parse(name); err != nil || p == nil {
			t.Errorf("Parse(%q) = %v, %v", name, p, err)
		}
	}
	for _, name := range []string{
		"lru-0", "lru-5", "lru-", "lru-x", "LRU", "fifo", "sieve?history=1", "?history=1", "lru-2?k=3", "lru-2?correlated=1", "lru-2?correlated=-1s",
		"lru-2?recent=0", "lru-2?recent=101", "lru-2?history=-1", "lru-2?history=1001", "lru-2?retained=x", "lru-2?%",
	} {
		if _, err := evict.Parse(name); err == nil {
			t.Errorf("Parse(%q) succeeded", name)
		}
	}
}

// TestParseParameters: they have their effect.
func TestParseParameters(t *testing.T) {
	p, err := evict.Parse("lru-2?correlated=0s&history=0")
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(3) {
		p.Insert(evicttest.ID(i), 1, time.Duration(i)*time.Second)
	}
	p.Access(evicttest.ID(0), 4*time.Second) // a second reference, though soon after
	id, _ := p.Victim(5*time.Second, func(chunk.ID) bool { return true })
	p.Remove(id, true)
	if id != evicttest.ID(1) || p.History() != 0 {
		t.Errorf("victim %v, history of %d; want chunk 1, none", id, p.History())
	}
}
