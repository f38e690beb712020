package host

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
)

// requestPatience bounds how long a request to a cache waits for an origin. A
// lease hangs on it; without a request its holder reads the chunk and deposits it.
const requestPatience = time.Second

// errAway is what reads get of an image whose origin has not been found yet.
var errAway = errors.New("the origin has not answered since this process started")

// published is an image where it is published.
type published interface {
	chunk.Source
	chunk.Prober
	origin.Requester
}

// A late image is opened from what was kept of it; its origin is found later, by
// find, and as any reader finds it: marked as in use, and its generation settled.
// Until then a chunk that has to come from there waits, as long as its reader.
type late struct {
	find func(ctx context.Context) (*generation.Image, chunk.Source, error)

	found  chan struct{}     // closed when image and source are set
	image  *generation.Image // at the origin
	source chunk.Source      // the same, bounded
	wanted chan struct{}     // holds one when somebody waits
	last   atomic.Pointer[error]
}

var _ published = (*late)(nil)

func newLate(find func(ctx context.Context) (*generation.Image, chunk.Source, error)) *late {
	return &late{find: find, found: make(chan struct{}), wanted: make(chan struct{}, 1)}
}

// keep finds the image's origin, trying again with pauses from least to most, at
// once after least if a read waits; then it marks the image as in use, until ctx
// ends.
func (l *late) keep(ctx context.Context, least, most time.Duration, tell func(err error, again time.Duration)) {
	for pause := least; ; pause = min(2*pause, most) {
		image, source, err := l.find(ctx)
		if err == nil {
			l.image, l.source = image, source
			l.last.Store(nil)
			close(l.found)
			image.Keep(ctx)
			return
		}
		if ctx.Err() != nil {
			return
		}
		l.last.Store(&err)
		tell(err, pause)
		if !l.pause(ctx, least, pause) {
			return
		}
	}
}

// pause waits for most, or no longer than least if a read waits. It reports
// whether ctx has not ended.
func (l *late) pause(ctx context.Context, least, most time.Duration) bool {
	start := time.NewTimer(least/2 + rand.N(least/2+1))
	defer start.Stop()
	select {
	case <-start.C:
	case <-ctx.Done():
		return false
	}
	rest := time.NewTimer(most - least)
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-l.wanted:
	case <-ctx.Done():
		return false
	}
	return true
}

// problem is why the origin is not found yet; nil: it is, or nothing is known.
func (l *late) problem() error {
	if err := l.last.Load(); err != nil {
		return fmt.Errorf("%w: %w", errAway, *err)
	}
	return nil
}

// wait returns when the origin is found.
func (l *late) wait(ctx context.Context) error {
	select {
	case <-l.found:
		return nil
	default:
	}
	select {
	case l.wanted <- struct{}{}:
	default:
	}
	select {
	case <-l.found:
		return nil
	case <-ctx.Done():
		if err := l.problem(); err != nil {
			return err
		}
		return fmt.Errorf("%w: %w", errAway, context.Cause(ctx))
	}
}

// Fetch implements [chunk.Source].
func (l *late) Fetch(ctx context.Context, id chunk.ID, dst []byte, off int64) (int, error) {
	if err := l.wait(ctx); err != nil {
		return 0, err
	}
	return l.source.Fetch(ctx, id, dst, off)
}

// Request implements [origin.Requester].
func (l *late) Request(ctx context.Context, id chunk.ID) (origin.Request, error) {
	limited, cancel := context.WithTimeout(ctx, requestPatience)
	defer cancel()
	if err := l.wait(limited); err != nil {
		return origin.Request{}, err
	}
	return l.image.Request(ctx, id)
}

// Stat implements [chunk.Prober].
func (l *late) Stat(ctx context.Context, id chunk.ID) (int64, error) {
	if err := l.wait(ctx); err != nil {
		return 0, err
	}
	return l.image.Stat(ctx, id)
}
