package zone

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Defaults and limits of a [Config].
const (
	MaxNodes    = 256
	Timeout     = time.Second
	MinTimeout  = 250 * time.Millisecond
	Copies      = 4
	Connections = 32
	FillBytes   = 64 << 20
	FillWorkers = 4
	HedgeShare  = 0.05
)

// A Scheme says how a chunk lies on the nodes and how it is read: [Coded],
// [Replicas] or [Whole].
type Scheme interface {
	plan() plan
}

// Coded cuts a chunk into K stripes and adds N-K of parity; each lies on a node
// of its own, if there are as many. All N are asked at once, and the first K
// answers rebuild the chunk. 1 <= K <= N <= MaxStripes.
type Coded struct{ K, N int }

// Replicas keeps two whole copies of a chunk. One is asked, and the other if that
// has failed or takes longer than usual. The latter are hedges: at most the share
// Hedge of all reads, but for short bursts; 0 means HedgeShare.
type Replicas struct{ Hedge float64 }

// Whole keeps a chunk on one node.
type Whole struct{}

// DefaultScheme is what a Config without one has; doc/benchmarks-zone.md says why.
var DefaultScheme Scheme = Coded{K: 4, N: 5}

// A plan is a scheme as reads carry it out.
type plan struct {
	shape
	first int     // stripes that are asked for at once
	hedge float64 // share of reads that may ask for the other one early
}

func (c Coded) plan() plan { return plan{shape: shape{c.K, c.N}, first: c.N} }

func (r Replicas) plan() plan {
	if r.Hedge == 0 {
		r.Hedge = HedgeShare
	}
	return plan{shape: shape{1, 2}, first: 1, hedge: r.Hedge}
}

func (Whole) plan() plan { return plan{shape: shape{1, 1}, first: 1} }

// A Config says what a zone is made of. All hosts of a zone must name the same
// nodes in the same spelling, in any order, and the same scheme.
type Config struct {
	// Nodes are the addresses of servers that know nothing of each other:
	// redis://, valkey:// or memcached:// and [USER:PASSWORD@]HOST[:PORT][/DB];
	// rediss://, valkeys:// and memcacheds:// use TLS. 1 to MaxNodes.
	Nodes  []string
	Scheme Scheme // nil: DefaultScheme
	// Copies is on how many sets of nodes a chunk that many want may lie, where
	// there are nodes enough; 0: Copies, which is also the most.
	Copies int

	User, Password string // for nodes whose address has none
	CAFile         string // PEM certificates that are trusted besides the system's; "": none

	// A request to a node may take three times as long as 99 of 100 did lately,
	// within these bounds.
	Timeout    time.Duration // at most; 0: Timeout
	MinTimeout time.Duration // at least, but for Timeout; 0: MinTimeout

	Connections int   // to one node for reads, at most; 0: Connections
	FillBytes   int64 // of chunks that are to be put, at most; 0: FillBytes
	FillWorkers int   // chunks that are put at once; 0: FillWorkers

	Logger *slog.Logger // of nodes that come and go; nil: none
}

// Format implements [fmt.Formatter]: however a Config is printed, no password shows.
func (c Config) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "zone of %d nodes", len(c.Nodes))
	for _, address := range c.Nodes {
		e, _ := parseNode(address) // a malformed one has no name
		fmt.Fprintf(f, "; %s", e.name)
	}
}

// withDefaults fills in what is zero and checks the rest.
func (c Config) withDefaults() (Config, plan, error) {
	if c.Scheme == nil {
		c.Scheme = DefaultScheme
	}
	c.Timeout = cmp.Or(c.Timeout, Timeout)
	c.MinTimeout = min(c.Timeout, cmp.Or(c.MinTimeout, MinTimeout))
	c.Copies = cmp.Or(c.Copies, Copies)
	c.Connections = cmp.Or(c.Connections, Connections)
	c.FillBytes = cmp.Or(c.FillBytes, FillBytes)
	c.FillWorkers = cmp.Or(c.FillWorkers, FillWorkers)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	p := c.Scheme.plan()
	switch {
	case c.Timeout < 0 || c.MinTimeout < 0 || c.Connections < 0 || c.FillBytes < 0 || c.FillWorkers < 0:
		return c, p, errors.New("zone: a limit is negative")
	case !(p.hedge >= 0 && p.hedge <= 1):
		return c, p, fmt.Errorf("zone: hedge %v: want a share, 0 to 1", p.hedge)
	case c.Copies < 1 || c.Copies > Copies:
		return c, p, fmt.Errorf("zone: %d copies, want 1 to %d", c.Copies, Copies)
	case len(c.Nodes) == 0 || len(c.Nodes) > MaxNodes:
		return c, p, fmt.Errorf("zone: %d nodes, want 1 to %d", len(c.Nodes), MaxNodes)
	}
	if err := p.check(); err != nil {
		return c, p, fmt.Errorf("zone: %w", err)
	}
	return c, p, nil
}
