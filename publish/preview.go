package publish

import (
	"context"
	"io"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
)

// A Preview is a new disk whose files are known and which is not published yet: the data
// of its files are stored, its own blocks are being sealed. So who wants to know something
// of the files can find it out beside the rest of the work. It is good until
// Options.Preview returns.
type Preview struct {
	Data *blockmap.Map // where the files' data lie, and no block of the file system; open, and stored nowhere

	store origin.Store
	kept  *kept // nil: nothing is
	meta  *sparse
	made  chan struct{} // closed when what follows is there
	m     *blockmap.Map
}

// AtHand reports whether a chunk was kept on this machine; see Options.Keep.
func (p *Preview) AtHand(id chunk.ID) bool { return p.kept != nil && p.kept.has(id) }

// Chunks returns the chunks of Data: those at hand, and the origin's, before which it puts
// bound.
func (p *Preview) Chunks(bound func(chunk.Source) chunk.Source) chunk.Source {
	if p.kept == nil {
		return bound(p.store)
	}
	return keptOver{p.kept, bound(p.store)}
}

// Over returns the disk, all of it: data, which is a disk of Data, and over it the blocks
// of the file system.
func (p *Preview) Over(data io.ReaderAt) io.ReaderAt { return &previewed{p.meta, data} }

// Store returns where the image is published.
func (p *Preview) Store() origin.Store { return p.store }

// Map waits for the disk's block map to be stored and returns it, unlocked. Nothing leads to
// it yet.
func (p *Preview) Map(ctx context.Context) (*blockmap.Map, error) {
	select {
	case <-p.made:
		return p.m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A previewed is the disk of a Preview.
type previewed struct {
	meta *sparse
	data io.ReaderAt
}

// ReadAt implements [io.ReaderAt].
func (d *previewed) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) && err == nil {
		index := off / d.meta.size
		part := b[n:min(int64(len(b)), int64(n)+(index+1)*d.meta.size-off)]
		if _, ok := d.meta.dirty[uint32(index)]; ok && off >= 0 {
			var got int
			got, err = d.meta.file.ReadAt(part, off)
			if err == io.EOF { // the file ends where the last write did
				clear(part[got:])
				err = nil
			}
		} else {
			_, err = d.data.ReadAt(part, off)
		}
		if err == nil {
			n, off = n+len(part), off+int64(len(part))
		}
	}
	return n, err
}

// A previewing is a call of Options.Preview under way.
type previewing struct {
	*Preview
	cancel context.CancelFunc
	done   chan struct{} // closed when it has returned
}

// preview calls Options.Preview, if there is one, for the disk that has these chunks of
// data under p.meta, which from then on is only read.
func (p *publisher) preview(ctx context.Context, info *blockmap.Info, chunks []blockmap.Chunk) error {
	if p.opts.Preview == nil {
		return nil
	}
	data, err := seal.LockOpen(info, chunks)
	if err != nil {
		return err
	}
	v := &Preview{Data: data, store: p.store, kept: p.pool.kept, meta: p.meta, made: make(chan struct{})}
	ctx, cancel := context.WithCancel(ctx)
	w := &previewing{Preview: v, cancel: cancel, done: make(chan struct{})}
	p.previewing = w
	go func() {
		defer close(w.done)
		p.opts.Preview(ctx, v)
	}()
	return nil
}

// mapped tells the preview, if there is one, of the block map that was made.
func (w *previewing) mapped(m *blockmap.Map, key seal.ImageKey) error {
	if w == nil {
		return nil
	}
	unlocked, err := seal.Unlock(m, key)
	if err != nil {
		return err
	}
	w.m = unlocked
	close(w.made)
	return nil
}

// release waits for the preview of an attempt, whose outcome it is told: nothing of a
// failed one is of use.
func (p *publisher) release(failed bool) {
	if w := p.previewing; w != nil {
		if failed {
			w.cancel()
		}
		<-w.done
		w.cancel()
	}
	p.previewing = nil
	if p.meta != nil {
		_ = p.meta.Close()
	}
	p.meta = nil
	if p.pool != nil && p.pool.kept != nil {
		_ = p.pool.kept.Close()
	}
	p.pool = nil
}
