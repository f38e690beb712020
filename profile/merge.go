package profile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrMismatch is returned (wrapped) for profiles that do not belong together, or a
// profile that is not of the block map at hand.
var ErrMismatch = errors.New("of another image or workload")

// How starts are forgotten. A quarter is what a start may read by chance; half is
// what one more start would rather read than not.
const (
	dropFrom  = 8 // starts, before any frame is dropped
	dropShare = 4 // frames that fewer than one in so many starts read can go
	rareShare = 2 // those that fewer than one in so many starts read come last
)

// Profile returns what one start says: a profile of one start. Of a frame that
// was touched twice the first counts, and frames beyond MaxEntries do not. Times
// are cut to whole microseconds, and to MaxTime.
func (r *Recording) Profile() *Profile {
	p := &Profile{Image: r.Image, Workload: r.Workload, Starts: 1, Length: whole(r.Length)}
	seen := make(map[Frame]bool, min(len(r.Touches), MaxEntries))
	for _, t := range r.Touches {
		if len(p.Entries) == MaxEntries {
			break
		}
		if !seen[t.Frame] {
			seen[t.Frame] = true
			p.Entries = append(p.Entries, Entry{Frame: t.Frame, Starts: 1, At: whole(t.At), Waited: whole(t.Waited)})
		}
	}
	p.Arrange()
	return p
}

// whole returns d as a profile has times.
func whole(d time.Duration) time.Duration {
	return min(max(d, 0), MaxTime).Truncate(unit)
}

// Rare reports whether fewer than half of the starts read an entry of p: fetching
// it ahead is more likely waste than not.
func (p *Profile) Rare(e *Entry) bool { return uint64(e.Starts)*rareShare < uint64(p.Starts) }

// Arrange puts the entries into the order in which to fetch: those that are not
// rare first, and of each kind by the time at which they were read, then by
// place. What exceeds MaxEntries is dropped from the end.
func (p *Profile) Arrange() {
	slices.SortFunc(p.Entries, func(a, b Entry) int {
		if ra, rb := p.Rare(&a), p.Rare(&b); ra != rb {
			if ra {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(a.Number, b.Number))
	})
	p.Entries = p.Entries[:min(len(p.Entries), MaxEntries)]
}

// Merge returns what the starts of all profiles have in common, given the oldest
// first; they must be of one image and workload, or the error is ErrMismatch. Times
// are averages over the starts.
//
// It forgets, so that a profile stays small and follows its workload: from 8 starts
// on, a frame goes that fewer than a quarter of them read, unless the newest profile
// has it; and beyond MaxStarts all counts are halved. Other than by that, and by
// rounding, it does not matter in which order starts are merged. The profiles
// given stay as they are. A predicted one counts only if there are no others, and then the
// newest of them alone. Headers of all are kept.
func Merge(list ...*Profile) (*Profile, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("merge profiles: none: %w", ErrMismatch)
	}
	m := list[0].scaled(MaxStarts)
	for _, p := range list[1:] {
		switch {
		case p.Image != m.Image || p.Workload != m.Workload:
			return nil, fmt.Errorf("merge profiles: of %v, workload %q, with one of %v, workload %q: %w", m.Image, m.Workload, p.Image, p.Workload, ErrMismatch)
		case m.Predicted:
			headers := m.Headers
			m = p.scaled(MaxStarts)
			m.AddHeaders(headers)
		case !p.Predicted:
			m = merge(m, p.scaled(MaxStarts))
			m.AddHeaders(p.Headers)
		default:
			m.AddHeaders(p.Headers)
		}
	}
	m.Arrange()
	return m, nil
}

// Scaled returns a profile that counts as at most starts starts, and at least one:
// one that others should soon outweigh. p stays as it is.
func (p *Profile) Scaled(starts uint32) *Profile {
	s := p.scaled(max(starts, 1))
	s.Arrange()
	return s
}

// scaled returns a copy of p whose counts are halved until they are within starts.
func (p *Profile) scaled(starts uint32) *Profile {
	s := *p
	s.Entries = slices.Clone(p.Entries)
	for s.Starts > starts {
		s.Starts -= s.Starts / 2
		for i := range s.Entries {
			s.Entries[i].Starts -= s.Entries[i].Starts / 2
		}
	}
	return &s
}

// merge merges two profiles, each of at most MaxStarts starts, into the first.
func merge(older, newer *Profile) *Profile {
	m := older
	m.Starts += newer.Starts
	m.Length = max(m.Length, newer.Length)
	where := make(map[Frame]int, len(m.Entries)+len(newer.Entries))
	for i := range m.Entries {
		where[m.Entries[i].Frame] = i
	}
	fresh := make(map[Frame]bool, len(newer.Entries))
	for _, e := range newer.Entries {
		fresh[e.Frame] = true
		if i, ok := where[e.Frame]; ok {
			m.Entries[i].add(e)
		} else {
			where[e.Frame] = len(m.Entries)
			m.Entries = append(m.Entries, e)
		}
	}
	if m.Starts >= dropFrom {
		m.Entries = slices.DeleteFunc(m.Entries, func(e Entry) bool {
			return e.Starts*dropShare < m.Starts && !fresh[e.Frame]
		})
	}
	return m.scaled(MaxStarts)
}

// add makes e the average of both.
func (e *Entry) add(o Entry) {
	n, m := time.Duration(e.Starts), time.Duration(o.Starts)
	e.At = whole((e.At*n + o.At*m) / (n + m))
	e.Waited = whole((e.Waited*n + o.Waited*m) / (n + m))
	e.Starts += o.Starts
}

// Predict returns a predicted profile of what the profiles have, which are of one image and
// workload: each frame once, those of the first profile first.
func Predict(list ...*Profile) *Profile {
	p := &Profile{Starts: 1, Predicted: true}
	seen := make(map[Frame]bool)
	for _, l := range list {
		p.Image, p.Workload = l.Image, l.Workload
		p.AddHeaders(l.Headers)
		for _, e := range l.Entries {
			if !seen[e.Frame] && len(p.Entries) < MaxEntries {
				seen[e.Frame] = true
				// The order of entries is that of their times.
				p.Entries = append(p.Entries, Entry{Frame: e.Frame, Starts: 1, At: time.Duration(len(p.Entries)) * unit})
			}
		}
	}
	return p
}
