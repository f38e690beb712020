//go:build linux

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

const (
	// How long an answer is believed: a pull asks for each layer anew. Short
	// where there is no disk, as that may change while somebody waits for it.
	believeFound  = time.Minute
	believeNone   = 5 * time.Second
	believeFailed = time.Minute

	maxAnswers = 128
	// freshTime is for how long a disk stays mounted that no snapshot
	// needs yet.
	freshTime = 2 * time.Minute
)

// An answer is what a Finder said.
type answer struct {
	found Found
	err   error
	until time.Time
}

// chainOf returns the chain ID of layers.
func chainOf(layers []digest.Digest) digest.Digest { return identity.ChainID(layers) }

// indexOf returns which layer has that chain ID; -1: none.
func indexOf(layers []digest.Digest, chain digest.Digest) int {
	return slices.Index(identity.ChainIDs(slices.Clone(layers)), chain)
}

// indexOfPull is indexOf, and where the name does not say the chain ID, the layer after those below; -1: none.
func indexOfPull(layers []digest.Digest, p pull, below digest.Digest) int {
	if p.chain != "" {
		return indexOf(layers, p.chain)
	}
	index := 0
	if below != "" {
		if index = indexOf(layers, below) + 1; index == 0 {
			return -1
		}
	}
	if index == len(layers) {
		return -1
	}
	return index
}

// look finds the disk of the image that is pulled, or, for the first of its layers,
// one of just that layer; and which of its layers p is. below is the chain ID of those under it.
func (s *Snapshotter) look(ctx context.Context, p pull, below digest.Digest) (f Found, index int, err error) {
	err = errors.New("nobody says which image it is of")
	if p.manifest != "" {
		if err := checkDigest(p.manifest); err != nil {
			return f, 0, err
		}
		if f, err = s.find(ctx, Query{Reference: p.reference, Manifest: p.manifest}); err == nil {
			if index = indexOfPull(f.Layers, p, below); index >= 0 {
				return f, index, nil
			}
			err = fmt.Errorf("image %s on disk %s has no such layer: %w", p.manifest, f.Digest, ErrNoDisk)
		}
	}
	if below != "" || p.chain == "" || ctx.Err() != nil || p.manifest != "" && !errors.Is(err, ErrNoDisk) {
		return f, 0, err
	}
	// Of other layers it would be too late: those above one are downloaded with it.
	f, chainErr := s.find(ctx, Query{Reference: p.reference, Chain: p.chain})
	if chainErr != nil {
		return f, 0, errors.Join(err, chainErr)
	}
	return f, len(f.Layers) - 1, nil
}

// find asks the Finder, unless it has just answered. What it finds has layers, and
// the chain ID that was asked for.
func (s *Snapshotter) find(ctx context.Context, q Query) (Found, error) {
	now := time.Now()
	s.mu.Lock()
	a, ok := s.answers[q]
	s.mu.Unlock()
	if ok && now.Before(a.until) {
		return a.found, a.err
	}
	bounded, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	a.found, a.err = s.cfg.Finder.Find(bounded, q)
	if a.err == nil && (len(a.found.Layers) == 0 || q.Chain != "" && chainOf(a.found.Layers) != q.Chain) {
		a.err = fmt.Errorf("disk %s is of another image: %w", a.found.Digest, ErrNoDisk)
	}
	if ctx.Err() != nil {
		return Found{}, context.Cause(ctx)
	}
	switch {
	case a.err == nil:
		a.until = now.Add(believeFound)
	case errors.Is(a.err, ErrNoDisk):
		a.until = now.Add(believeNone)
	default:
		a.until = now.Add(believeFailed)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) >= maxAnswers {
		clear(s.answers)
	}
	s.answers[q] = a
	return a.found, a.err
}

// withDisk has a disk mounted and returns where. then, if set, is called
// before anybody may take it down.
func (s *Snapshotter) withDisk(ctx context.Context, chain digest.Digest, d Disk, then func() error) (string, error) {
	unlock, err := s.disks.lock(ctx, string(chain))
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := s.diskDir(chain)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	bounded, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	if err := s.cfg.Mounter.Mount(bounded, d, dir); err != nil {
		return "", fmt.Errorf("mount disk %s of %s: %w", d.Digest, d.Store, err)
	}
	if then != nil {
		err = then()
	}
	return dir, err
}

// keepFresh keeps a disk mounted for a while that no snapshot needs yet.
func (s *Snapshotter) keepFresh(chain digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fresh[chain] = time.Now().Add(freshTime)
}

// isNeeded says of a disk that a snapshot needs it: that keeps it mounted.
func (s *Snapshotter) isNeeded(chain digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fresh, chain)
}

// isFresh reports whether keepFresh keeps a disk still.
func (s *Snapshotter) isFresh(chain digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, ok := s.fresh[chain]
	if ok && time.Now().After(until) {
		delete(s.fresh, chain)
		return false
	}
	return ok
}
