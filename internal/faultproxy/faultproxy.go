// Package faultproxy stands between a client and a server and misbehaves as
// networks, servers and caches do: for tests, end-to-end scripts and
// measurements.
//
// There are two parts. A [Link] is a network: it forwards TCP connections with
// the latency and the bandwidth that it is given. A [Server] is an HTTP proxy
// that forwards requests, and does to a part of them what its [Faults] say. A
// server behind a link has both. What happens to a request depends on the seed
// and the request's number alone, so that a run can be repeated as far as the
// order of requests can.
package faultproxy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Kind is a way to misbehave.
type Kind string

// What can happen to a request. Faults of bodies leave requests alone that are
// answered without one.
const (
	Unavailable Kind = "503"         // it is refused: 503 with Retry-After
	TooMany     Kind = "429"         // it is refused: 429 with Retry-After
	Reset       Kind = "reset"       // its connection is reset before anything is done
	LostAnswer  Kind = "lost-answer" // it is done, and its connection reset
	Truncate    Kind = "truncate"    // the body ends before its length is reached
	Short       Kind = "short"       // the body is cut, and its length tells so
	Flip        Kind = "flip"        // a bit of the body is another
	Drip        Kind = "drip"        // the body comes slowly, a little at a time
	HalfClose   Kind = "half-close"  // it is answered, and the connection then closed by one side without a word
	Hang        Kind = "hang"        // it is never answered
)

// kinds has all of them, in the order in which chances are laid out.
var kinds = []Kind{Unavailable, TooMany, Reset, LostAnswer, Truncate, Short, Flip, Drip, HalfClose, Hang}

// Faults are chances of kinds, from 0 to 1; together at most 1.
type Faults map[Kind]float64

// Check reports, by a nil error, whether f has known kinds and possible chances.
func (f Faults) Check() error {
	sum := 0.0
	for kind, chance := range f {
		if !slices.Contains(kinds, kind) {
			return fmt.Errorf("fault %q is not known: want one of %v", kind, kinds)
		}
		if !(chance >= 0 && chance <= 1) {
			return fmt.Errorf("fault %s: chance %v, want 0 to 1", kind, chance)
		}
		sum += chance
	}
	if sum > 1 {
		return fmt.Errorf("chances are %v together, want at most 1", sum)
	}
	return nil
}

// Set reads KIND=CHANCE into f, for flag.Func.
func (f Faults) Set(s string) error {
	kind, value, ok := strings.Cut(s, "=")
	chance, err := strconv.ParseFloat(value, 64)
	if !ok || err != nil {
		return errors.New("want KIND=CHANCE, such as flip=0.05")
	}
	f[Kind(kind)] = chance
	return f.Check()
}

// roll returns two random numbers that depend on seed and n alone.
func roll(seed, n uint64) (chance float64, r uint64) {
	x := mix(seed ^ n*0x9e3779b97f4a7c15)
	return float64(x>>11) / (1 << 53), mix(x)
}

// mix is the last step of splitmix64.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// pick returns the kind that chance falls on, or "".
func (f Faults) pick(chance float64) Kind {
	for _, kind := range kinds {
		if chance -= f[kind]; chance < 0 && f[kind] > 0 {
			return kind
		}
	}
	return ""
}
