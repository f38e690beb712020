package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"time"
)

// block is what costs are multiples of.
const block = 4096

// maxCost is that of a full raw chunk.
const maxCost = 129 * block

// cost draws what a chunk costs: a third are raw and full, the rest coded to
// anything down to an eighth.
func cost(rng *rand.Rand) int64 {
	if rng.IntN(3) == 0 {
		return maxCost
	}
	return (maxCost/block/8 + rng.Int64N(maxCost/block*7/8)) * block
}

// Ranks draw numbers from 0 on, number i with a probability in proportion to
// (i+1)^-skew: Zipf's law. math/rand has that for a skew above 1 alone.
type Ranks []float64

// NewRanks returns the ranks of n numbers, of which there is at least one.
func NewRanks(n int, skew float64) Ranks {
	r, sum := make(Ranks, n), 0.0
	for i := range r {
		sum += math.Pow(float64(i+1), -skew)
		r[i] = sum
	}
	return r
}

// Draw returns the next number.
func (r Ranks) Draw(rng *rand.Rand) int {
	return min(sort.SearchFloat64s(r, rng.Float64()*r[len(r)-1]), len(r)-1)
}

// Zipf makes a trace of independent requests, each for one of n chunks, chunk i
// with a probability in proportion to (i+1)^-skew; perSecond of them.
func Zipf(seed uint64, n, requests int, skew, perSecond float64) *Trace {
	rng := rand.New(rand.NewPCG(seed, 1))
	t := &Trace{Name: fmt.Sprintf("Zipf %.1f", skew)}
	for range n {
		t.Costs = append(t.Costs, cost(rng))
	}
	r := NewRanks(n, skew)
	for i := range requests {
		at := time.Duration(float64(i) / perSecond * float64(time.Second))
		t.Requests = append(t.Requests, Request{at, int32(r.Draw(rng))})
	}
	return t
}

// A Load describes what a host of functions asks its cache for. Functions have
// images; an image has chunks of its base, which it shares with others, and
// chunks of its own. A start asks for each chunk that it needs, one after the
// other in some seconds, and for some of them again.
type Load struct {
	Name   string
	Seed   uint64
	Hours  int
	Starts int // an hour, of Functions

	Functions int     // that people call
	Skew      float64 // of how often each is called: Zipf
	Bases     int     // images that functions are built on, chosen by Zipf
	Shared    int     // chunks of a base that a start needs
	Own       int     // chunks of its own that a function has at most
	Again     float64 // how many requests of a start are repeated by it soon after

	Herd     int // functions that start on the hour, each once, all within a minute
	HerdEach int // hours between two starts of one of them: those of an hour are a share of Herd

	Renewed float64 // share of the functions that get a new version in an hour
	Changed float64 // share of its own chunks that are then new
}

// fleet is a Load while it is made.
type fleet struct {
	Load
	trace *Trace
	rng   *rand.Rand
	bases [][]int32
	own   [][]int32 // of Functions, then of Herd
	base  []int     // of each
}

// Fleet makes the trace of a load.
func Fleet(l Load) *Trace {
	f := &fleet{Load: l, trace: &Trace{Name: l.Name}, rng: rand.New(rand.NewPCG(l.Seed, 2))}
	for range l.Bases {
		f.bases = append(f.bases, f.chunks(l.Shared))
	}
	bases := NewRanks(l.Bases, 1)
	for range l.Functions + l.Herd {
		f.own = append(f.own, f.chunks(f.rng.IntN(l.Own+1)))
		f.base = append(f.base, bases.Draw(f.rng))
	}
	called := NewRanks(l.Functions, l.Skew)
	for hour := range l.Hours {
		begin := time.Duration(hour) * time.Hour
		for range l.Starts {
			f.start(called.Draw(f.rng), begin+time.Duration(f.rng.Int64N(int64(time.Hour))))
		}
		for i := range l.Herd {
			if i%l.HerdEach == hour%l.HerdEach {
				f.start(l.Functions+i, begin+time.Duration(f.rng.Int64N(int64(time.Minute))))
			}
		}
		f.renew()
	}
	slices.SortStableFunc(f.trace.Requests, func(a, b Request) int { return int(a.At - b.At) })
	return f.trace
}

// chunks makes n new chunks.
func (f *fleet) chunks(n int) (list []int32) {
	for range n {
		list = append(list, int32(len(f.trace.Costs)))
		f.trace.Costs = append(f.trace.Costs, cost(f.rng))
	}
	return list
}

// start asks for the chunks of a function.
func (f *fleet) start(function int, at time.Duration) {
	for _, list := range [][]int32{f.bases[f.base[function]], f.own[function]} {
		for _, c := range list {
			f.trace.Requests = append(f.trace.Requests, Request{at, c})
			if f.rng.Float64() < f.Again {
				later := at + time.Duration(f.rng.Int64N(int64(5*time.Second)))
				f.trace.Requests = append(f.trace.Requests, Request{later, c})
			}
			at += time.Duration(f.rng.Int64N(int64(20 * time.Millisecond)))
		}
	}
}

// renew gives functions new versions.
func (f *fleet) renew() {
	for i := range f.Functions {
		if f.rng.Float64() >= f.Renewed {
			continue
		}
		f.own[i] = slices.Clone(f.own[i])
		for k := range f.own[i] {
			if f.rng.Float64() < f.Changed {
				f.own[i][k] = f.chunks(1)[0]
			}
		}
	}
}
