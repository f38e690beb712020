package dir

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/origin/place"
)

// syncsAtOnce is how many folders are synced at one time: they mostly wait.
const syncsAtOnce = 16

// folders are the fan-out folders of one kind of files, by the first byte of the
// files' names.
type folders struct {
	known [256]atomic.Bool // to be there
	// since is when the oldest of a folder's entries came that may not be durable, in
	// nanoseconds of Unix time; 0: there is none.
	since    [256]atomic.Int64
	flushing sync.Mutex
}

// make makes the folder of id at dir, unless it is known to be there.
func (f *folders) make(id [32]byte, dir string) error {
	if f.known[id[0]].Load() {
		return nil
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	f.known[id[0]].Store(true)
	return nil
}

// entered is told that id has an entry that may not be durable, and reports whether
// one of that folder has waited too long for it: other processes take what is older
// than fresh for durable.
func (f *folders) entered(id [32]byte) (late bool) {
	now, since := time.Now().UnixNano(), &f.since[id[0]]
	if since.CompareAndSwap(0, now) {
		return false
	}
	old := since.Load() // 0 if a flush has just begun, which has this entry too
	return old != 0 && now-old > int64(fresh/2)
}

// settle is entered for a file that is there already, should it be new.
func (f *folders) settle(id [32]byte, info fs.FileInfo) (late bool) {
	return time.Since(changed(info)) < fresh && f.entered(id)
}

// flush makes all entries durable that were told of. Whoever comes while it is under
// way waits for that too.
func (f *folders) flush(ctx context.Context, root, kind string, sync func(dir string) error) error {
	f.flushing.Lock()
	defer f.flushing.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(syncsAtOnce)
	for i := range f.since {
		since := f.since[i].Load()
		if since == 0 {
			continue
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			f.since[i].Store(0) // first: what comes meanwhile waits for the next flush
			err := sync(fmt.Sprintf("%s/%s/%02x", root, kind, i))
			if err != nil {
				f.since[i].CompareAndSwap(0, since)
			}
			return err
		})
	}
	return g.Wait()
}

// Flush implements [chunk.Sink]: it makes the names of chunks durable.
func (s *Store) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.chunks.flush(ctx, s.root, place.Chunks, s.sync); err != nil {
		return fmt.Errorf("flush chunks: %w", err)
	}
	return nil
}
