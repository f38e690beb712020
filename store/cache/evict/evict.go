// Package evict decides which chunk a cache gives up when it needs room.
//
// A [Policy] keeps an order and nothing else: no bytes, no files. The cache
// tells it what came, what was asked for and what went, and asks for the next
// to go. Four are here, and they differ in what they remember:
//
//	LRU      when each chunk was asked for last
//	LRUK     when each was asked for the K-th last time, of chunks that are gone too
//	SIEVE    whether each was asked for since the hand passed it
//	S3FIFO   how often, up to 3, in two queues; and the names of what went soon
//
// LRU is ruined by scans: cron functions that start together on the hour, each
// with an image that nobody asks for again, push out everything. The other
// three want a second reference before they believe in a chunk.
// doc/benchmarks-eviction.md compares them; New makes the one that won. A chunk
// takes some 130 bytes of memory in the simple ones and 190 in LRU-K, map
// included, and so does one that is remembered.
//
// Time is given to a policy, never asked for: so that it is deterministic, a
// simulator can run a week in a second, and a cache's time can stand still
// while its process is down.
package evict

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
)

// A Policy orders the chunks that a cache holds. Its methods are not safe for
// concurrent use: the cache's lock guards it. Equal calls give equal answers.
// now is the time since some moment that is the same for all calls, and does
// not go back. Each call costs at most O(log n) for n chunks held, but for
// Victim, which adds O(log n) for each chunk that it must pass over, and
// Snapshot.
type Policy interface {
	// Insert says that the cache now holds id, whose cost is size bytes. A
	// chunk that is held already is accessed instead.
	Insert(id chunk.ID, size int64, now time.Duration)
	// Access says that somebody asked for id. It is ignored if id is not held.
	Access(id chunk.ID, now time.Duration)
	// Victim returns the chunk to give up next of those that evictable says
	// may go, and false if none may. It removes nothing: the cache calls Remove
	// when the chunk is gone. evictable must not call the policy.
	Victim(now time.Duration, evictable func(chunk.ID) bool) (chunk.ID, bool)
	// Remove says that the cache no longer holds id. If it was evicted to make
	// room, a policy that keeps history keeps it; else (damaged, or told to
	// go) it is forgotten.
	Remove(id chunk.ID, evicted bool)

	// Len and Bytes return the number of chunks held and the sum of their
	// sizes; History, the chunks remembered that are not held.
	Len() int
	Bytes() int64
	History() int

	// Snapshot calls emit with all that the policy knows, and Restore gives it
	// back, record by record in the same order, to an empty policy of the
	// same kind, before any other call; records of chunks that are gone may be
	// left out. A record that makes no sense is made to fit: it came from a
	// file.
	Snapshot(emit func(Record))
	Restore(r Record)
}

// MaxK is the largest K of LRU-K.
const MaxK = 4

// A Record is what a policy knows of one chunk. What a field says, and the
// order of records, is the policy's own.
type Record struct {
	ID    chunk.ID
	Size  int64 // bytes
	Held  bool  // else it is history
	Queue uint8
	Refs  uint8
	Times [MaxK + 1]time.Duration
}

// Defaults returns the parameters that did best: doc/benchmarks-eviction.md says
// on what, and why not others.
func Defaults() Options {
	return Options{K: 3, Correlated: 10 * time.Second, Recent: 50, History: 50}
}

// New returns the policy that did best, an LRUK with the Defaults.
func New() Policy { return NewLRUK(Defaults()) }

// Names returns the names of policies, the default first.
func Names() []string { return []string{"lru-3", "lru-2", "lru-4", "lru", "sieve", "s3fifo"} }

// Parse returns the policy of a name, as for a flag. Those of LRU-K may have
// parameters instead of the Defaults, like a URL:
//
//	lru-2?correlated=10s&recent=50&retained=1h&history=50
//
// The empty name is New.
func Parse(name string) (Policy, error) {
	kind, query, _ := strings.Cut(name, "?")
	if name == "" || strings.HasPrefix(kind, "lru-") {
		o, err := parseOptions(kind, query)
		if err != nil {
			return nil, fmt.Errorf("eviction policy %q: %w", name, err)
		}
		return NewLRUK(o), nil
	}
	switch name {
	case "lru":
		return NewLRU(), nil
	case "sieve":
		return NewSIEVE(), nil
	case "s3fifo":
		return NewS3FIFO(), nil
	}
	return nil, fmt.Errorf("eviction policy %q: want one of %s", name, strings.Join(Names(), ", "))
}

// parseOptions returns the Defaults with a K and the parameters in query.
func parseOptions(kind, query string) (o Options, err error) {
	o = Defaults()
	if kind != "" {
		if o.K, err = strconv.Atoi(strings.TrimPrefix(kind, "lru-")); err != nil || o.K < 1 || o.K > MaxK {
			return o, fmt.Errorf("want lru-1 to lru-%d", MaxK)
		}
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return o, err
	}
	for key, list := range values {
		value := list[len(list)-1]
		switch key {
		case "correlated":
			o.Correlated, err = time.ParseDuration(value)
		case "retained":
			o.Retained, err = time.ParseDuration(value)
		case "recent":
			o.Recent, err = parsePercent(value, 1, 100)
		case "history":
			o.History, err = parsePercent(value, 0, maxHistory)
		default:
			err = errors.New("want correlated, recent, retained or history")
		}
		if err != nil || o.Correlated < 0 || o.Retained < 0 {
			return o, fmt.Errorf("parameter %s=%s: %w", key, value, cmp.Or(err, errors.New("is negative")))
		}
	}
	return o, nil
}

// maxHistory is the longest history that Parse accepts, in per cent.
const maxHistory = 1000

func parsePercent(s string, low, high int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("want %d to %d per cent", low, high)
	}
	return n, nil
}
