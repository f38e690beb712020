package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/disk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/host"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/profile"
	"github.com/rivuletfs/rivulet/profile/predict"
	"github.com/rivuletfs/rivulet/publish"
	"github.com/rivuletfs/rivulet/vm"
)

// An expectation is the prediction of an image's first start that is made and stored while
// the image is published: of its files as they are about to be, so that nothing which was
// just stored has to be read back from afar, and beside what is left to do.
type expectation struct {
	app  *app
	p    *profile.Profile // nil: err says why, or there was nothing to look at
	said *predicted
	err  error
}

// look makes the prediction and stores it; it is publish.Options.Preview. What is inherited
// later takes its place. What a host cache has is not asked for.
func (e *expectation) look(ctx context.Context, v *publish.Preview) {
	*e = expectation{app: e.app} // an attempt before this one may have come as far
	m, p, err := e.predict(ctx, v)
	var version origin.Digest
	if err == nil {
		bounded, cancel := predictBound(ctx)
		defer cancel()
		version, err = catalog.AddProfile(bounded, v.Store(), p)
	}
	if err != nil {
		e.err = fmt.Errorf("predict the first start: %w", err)
		return
	}
	e.p, e.said = p, tell(m, p)
	e.said.Version = version.String()
}

// predictBound bounds what is done for a prediction.
func predictBound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, predictTime, fmt.Errorf("it took longer than %v", predictTime))
}

// predict makes the prediction. The wait for the block map is no part of its time: that is as long as the
// disk takes to be stored.
func (e *expectation) predict(ctx context.Context, v *publish.Preview) (*blockmap.Map, *profile.Profile, error) {
	bounded, cancel := predictBound(ctx)
	defer cancel()
	process, err := vm.Process(v.Data.Info().Config, "", nil, nil)
	if err != nil {
		return nil, nil, err
	}
	near := e.app.near()
	bound, err := e.app.origin.share(near)
	if err != nil {
		return nil, nil, err
	}
	name := v.Data.Digest().String()
	chunks := v.Chunks(func(src chunk.Source) chunk.Source { return bound(src, name) })
	o := disk.Options{Memory: disk.NewMemory(predictMemory), Mode: disk.SingleFrames, Logger: e.app.logger()}
	if !near {
		o.Whole = func(id chunk.ID) bool { return !v.AtHand(id) }
	}
	door := chunk.NewDoor(chunks)
	d, err := disk.Open(v.Data, door, o)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = d.Close() }()
	files, err := ext4.Open(v.Over(d), d.Size())
	if err != nil {
		return nil, nil, err
	}
	var device predict.Device = d
	if !near {
		device = farParts{d, v}
	}
	found, err := predict.Find(bounded, files, device, near, predict.Start{Args: process.Args, Env: process.Env, Dir: process.Dir})
	if err != nil {
		return nil, nil, err
	}
	m, err := v.Map(ctx)
	if err != nil {
		return nil, nil, err
	}
	p, places, err := found.Profile(m, "")
	if err != nil {
		return nil, nil, err
	}
	bounded, cancelHeaders := predictBound(ctx)
	defer cancelHeaders()
	headers, err := host.ReadHeaders(bounded, m, door, places)
	if err != nil {
		return nil, nil, err
	}
	p.AddHeaders(headers)
	return m, p, nil
}

// farParts are the parts of a disk that are not at hand.
type farParts struct {
	*disk.Disk
	v *publish.Preview
}

// Prefetch implements predict.Device.
func (f farParts) Prefetch(ctx context.Context, off, length int64) error {
	info := f.v.Data.Info()
	size := info.ChunkSize()
	for end := off + length; off < end; {
		next := min(end, (off/size+1)*size)
		if c, ok := f.v.Data.Lookup(uint32(off / size)); ok && !f.v.AtHand(c.ID) {
			if err := f.Disk.Prefetch(ctx, off, next-off); err != nil {
				return err
			}
		}
		off = next
	}
	return nil
}

// predictAfter tells what was predicted of an image that was just published, if nothing was
// inherited that is better. What fails is told, and no failure.
func (a *app) predictAfter(ctx context.Context, o origin.Origin, r *publish.Result, got []inherited, e *expectation) *predicted {
	if !r.Made || slices.ContainsFunc(got, func(i inherited) bool { return i.Workload == "" }) {
		return nil
	}
	p, err := e.said, e.err
	if p != nil && p.Image != r.BlockMap {
		p = nil // of an attempt that came to nothing
	}
	// Nothing was new but the configuration, so there was no preview; or the origin shows
	// chunks late, and not all were at hand.
	if p == nil && err == nil || errors.Is(err, chunk.ErrNotFound) {
		ctx, cancel := predictBound(ctx)
		defer cancel()
		a.hostCache(ctx) // before the copy: it is closed with a
		as := *a
		as.silent, as.required = true, nil // nobody waits for this, or trusts it
		p, err = as.predict(ctx, o, r.BlockMap)
	}
	if err != nil && !errors.Is(err, predict.ErrNothing) && !errors.Is(err, vm.ErrNoCommand) {
		a.note("rivulet: what the first start will read is not predicted: %v", err)
	}
	return p
}
