package generation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/sign"
)

// Kinds are the kinds of attachments that are carried along with an image. See
// the rule at the version of a List before adding one.
var Kinds = []string{"age", "aws-kms", "recipient", "minisign"}

// carriedPrefix begins the names of pointers that say of an image that it was
// carried from a generation, attachments and all.
const carriedPrefix = "carried/"

// DefaultCopies is how many chunks are copied at one time.
const DefaultCopies = 32

// A Forwarder carries images from one generation to another. Any number of them
// may work on one image at once, and one that was killed leaves nothing that
// another could not go on with. The zero value, with an Origin, is usable.
type Forwarder struct {
	Origin origin.Origin
	Copies int         // chunks copied at one time; 0: DefaultCopies
	Tell   func(n int) // told of n more chunks copied, by several goroutines; nil: nobody
}

// Forward carries image d from one generation to another, sealed bytes and block
// map unchanged, and all that leads to it but names. It returns how many chunks
// were copied. What from lacks is chunk.ErrNotFound. When it is done it says so in
// to, so that it need not look again.
func (f *Forwarder) Forward(ctx context.Context, d origin.Digest, from, to origin.GenerationID) (copied int, err error) {
	if copied, err = f.forward(ctx, d, from, to); err != nil {
		return copied, fmt.Errorf("carry image %v from generation %v to %v: %w", d, from, to, err)
	}
	return copied, nil
}

func (f *Forwarder) forward(ctx context.Context, d origin.Digest, from, to origin.GenerationID) (copied int, err error) {
	src, dst, done := f.Origin.Generation(from), f.Origin.Generation(to), claimKey(carriedPrefix+from.String()+"/", d)
	if _, err := dst.GetPointer(ctx, done); !errors.Is(err, chunk.ErrNotFound) {
		return 0, err
	}
	m, err := catalog.Load(ctx, src, d)
	if err != nil {
		return 0, err
	}
	err = Bring(ctx, m, f.Origin, from, dst, func(ctx context.Context) (err error) {
		ids := make([]chunk.ID, m.Len())
		for i := range ids {
			ids[i] = m.Chunk(i).ID
		}
		copied, err = f.Chunks(ctx, ids, from, to)
		return err
	})
	if err == nil {
		err = dst.SwapPointer(ctx, done, nil, []byte("complete\n"))
	}
	if errors.Is(err, origin.ErrConflict) {
		err = nil // another one was here too
	}
	return copied, err
}

// Bring makes image m, which generation from of o has, complete in dst but for its
// names. If dst has not got its block map, it calls chunks to bring the chunks, and
// then brings what else the image needs, its attachments, and the block map last.
// Attachments are brought once more after it, so that one that was added meanwhile
// is seen here, or its writer has seen the block map; see Attach. Short cuts and
// profiles, which nothing needs, come after that.
func Bring(ctx context.Context, m *blockmap.Map, o origin.Origin, from origin.GenerationID, dst origin.Store, chunks func(ctx context.Context) error) error {
	src := o.Generation(from)
	_, err := dst.GetObject(ctx, m.Digest(), catalog.MaxBlockMapBytes)
	if errors.Is(err, chunk.ErrNotFound) {
		if err = chunks(ctx); err == nil {
			err = bringMap(ctx, m, o, from, dst)
		}
	}
	if err == nil {
		err = bringAttachments(ctx, m.Digest(), src, dst)
	}
	if err == nil {
		err = shortcuts(ctx, m, src, dst)
	}
	if err == nil {
		err = catalog.CarryProfiles(ctx, src, dst, m.Digest())
	}
	return err
}

// bringMap brings the block map, after all but chunks that it needs. Of a
// generation that is being erased, attachments may be missing already, so it looks
// at its state after that.
func bringMap(ctx context.Context, m *blockmap.Map, o origin.Origin, from origin.GenerationID, dst origin.Store) error {
	src := o.Generation(from)
	if meta := m.Info().Metadata; meta != (origin.Digest{}) {
		b, err := src.GetObject(ctx, meta, origin.MaxObjectBytes)
		lost := errors.Is(err, chunk.ErrNotFound) || errors.Is(err, origin.ErrCorrupt)
		if err == nil {
			_, err = dst.PutObject(ctx, b)
		}
		if err != nil && !lost { // an image is whole without it; fsck makes it again
			return fmt.Errorf("object %v: %w", meta, err)
		}
	}
	if err := bringAttachments(ctx, m.Digest(), src, dst); err != nil {
		return err
	}
	l, err := Load(ctx, o)
	if err != nil {
		return err
	}
	if l.State(from) == StateErased {
		return fmt.Errorf("generation %v is erased: %w", from, chunk.ErrNotFound)
	}
	_, err = dst.PutObject(ctx, m.Bytes())
	return err
}

// Chunks copies chunks, each once, from one generation to another, and returns
// how many were not there yet. They are durable there when it returns. A publisher
// carries a segment so that it remembers from an older generation, before the
// record: which chunks that needs is locked, so a collector cannot.
func (f *Forwarder) Chunks(ctx context.Context, ids []chunk.ID, from, to origin.GenerationID) (int, error) {
	var copied atomic.Int64
	seen := make(map[chunk.ID]bool, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.copies())
	for _, id := range ids {
		if seen[id] {
			continue
		}
		if gctx.Err() != nil {
			break
		}
		seen[id] = true
		g.Go(func() error {
			added, err := f.Origin.CopyChunk(gctx, id, from, to)
			if added {
				copied.Add(1)
				if f.Tell != nil {
					f.Tell(1)
				}
			}
			return err
		})
	}
	err := g.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = f.Origin.Generation(to).Flush(ctx)
	}
	return int(copied.Load()), err
}

func (f *Forwarder) copies() int {
	if f.Copies == 0 {
		return DefaultCopies
	}
	return f.Copies
}

func bringAttachments(ctx context.Context, d origin.Digest, src, dst origin.Store) error {
	for _, kind := range Kinds {
		err := src.ListAttachments(ctx, d, kind, func(data []byte) error { return dst.Attach(ctx, d, kind, data) })
		if err != nil {
			return err
		}
	}
	return nil
}

// shortcuts copies the pointers that lead to an image from its digests and its
// chain ID, where there are none yet. Those of segments are left behind: which
// chunks a segment needs only a publisher can read, who carries what it can use.
// If its chain ID leads to other images only, which may stay behind, it gets a
// pointer of its own: whoever knows the chain ID alone finds it by that.
func shortcuts(ctx context.Context, m *blockmap.Map, src, dst origin.Store) error {
	info, d := m.Info(), m.Digest()
	for _, key := range []string{catalog.DigestKey(info.Source), catalog.DigestKey(info.Disk)} {
		if _, err := shortcut(ctx, key, d, src, dst); err != nil {
			return err
		}
	}
	keys, err := chainKeys(ctx, m, src)
	if err != nil {
		return err
	}
	leads := false
	for _, key := range keys {
		here, err := shortcut(ctx, key, d, src, dst)
		if err != nil {
			return err
		}
		leads = leads || here
	}
	if leads || info.ChainID == (origin.Digest{}) {
		return nil
	}
	return put(ctx, dst, catalog.CarriedChainKey(info.ChainID, d), d)
}

// shortcut copies a pointer if it leads to d, and reports whether it does.
func shortcut(ctx context.Context, key string, d origin.Digest, src, dst origin.Store) (bool, error) {
	at, err := catalog.Get(ctx, src, key)
	if errors.Is(err, chunk.ErrNotFound) || errors.Is(err, catalog.ErrPointer) || err == nil && at != d {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, put(ctx, dst, key, d)
}

// put sets a pointer that is not there yet.
func put(ctx context.Context, dst origin.Pointers, key string, d origin.Digest) error {
	err := dst.SwapPointer(ctx, key, nil, catalog.Value(d))
	if errors.Is(err, origin.ErrConflict) {
		return nil
	}
	return err
}

// chainKeys returns the names of the pointers that may lead from the chain ID of m to
// it. A place that cannot list is asked for those of the image's signers.
func chainKeys(ctx context.Context, m *blockmap.Map, src origin.Store) ([]string, error) {
	info := m.Info()
	var keys []string
	add := func(key string) error {
		keys = append(keys, key)
		return nil
	}
	err := src.ListPointers(ctx, catalog.ChainPrefix(info.ChainID), add)
	if !errors.Is(err, origin.ErrNoListing) {
		return keys, err
	}
	keys = nil
	err = src.ListAttachments(ctx, m.Digest(), sign.Kind, func(signature []byte) error {
		signer, err := sign.SignerID(signature)
		if err != nil {
			return nil // it leads nowhere
		}
		for _, size := range []int64{0, info.Size} {
			_ = add(catalog.ChainKey(info.ChainID, info.Layout, info.SaltID, size, signer))
		}
		return nil
	})
	return keys, err
}

// ForwardName carries a name with its image. A name that to has already stays as
// it is: somebody published it there. So that one which is removed meanwhile
// does not come back, the name is first only reserved, then looked for once more
// where it comes from, and only then made good; whoever removes it sees to the
// old generation first.
func (f *Forwarder) ForwardName(ctx context.Context, name string, from, to origin.GenerationID) error {
	err := f.forwardName(ctx, catalog.NameKey(name), from, to)
	if err != nil {
		return fmt.Errorf("carry name %q from generation %v to %v: %w", name, from, to, err)
	}
	return nil
}

func (f *Forwarder) forwardName(ctx context.Context, key string, from, to origin.GenerationID) error {
	src, dst := f.Origin.Generation(from), f.Origin.Generation(to)
	for {
		d, err := catalog.Get(ctx, src, key)
		if errors.Is(err, chunk.ErrNotFound) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		old, err := dst.GetPointer(ctx, key)
		if err == nil && !catalog.IsReserved(old) {
			return nil
		}
		if err != nil && !errors.Is(err, chunk.ErrNotFound) {
			return err
		}
		if _, err := f.Forward(ctx, d, from, to); err != nil {
			return err
		}
		mine := catalog.Reserved(d, from, rand.Uint64())
		err = dst.SwapPointer(ctx, key, old, mine)
		if err == nil {
			err = settleName(ctx, key, d, mine, src, dst)
		}
		if !errors.Is(err, origin.ErrConflict) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// settleName makes a name good that is reserved by mine, or takes the
// reservation back. The error is origin.ErrConflict if the name is another's by
// now, or leads elsewhere where it comes from.
func settleName(ctx context.Context, key string, d origin.Digest, mine []byte, src, dst origin.Store) error {
	again, err := catalog.Get(ctx, src, key)
	switch {
	case errors.Is(err, chunk.ErrNotFound):
		err = dst.SwapPointer(ctx, key, mine, nil)
		if errors.Is(err, origin.ErrConflict) {
			return nil // published anew, or reserved by another who will see the same
		}
		return err
	case err != nil:
		return err
	case again != d:
		return origin.ErrConflict
	}
	return dst.SwapPointer(ctx, key, mine, catalog.Value(d))
}

// ErrDeleted is returned (wrapped) by Settle when the generation that an image
// was published into is not there any more: it has to be published again.
var ErrDeleted = errors.New("the generation was deleted meanwhile")

// Settle ends a publication: image d was put into generation g, and its name
// written last. If g is no longer active, the image is carried to the one that
// is, its name set there whatever it leads to (a publisher's name is the newest),
// and so on. It returns the generation in which the image is published.
func (f *Forwarder) Settle(ctx context.Context, name string, d origin.Digest, g origin.GenerationID) (origin.GenerationID, error) {
	for {
		l, err := Load(ctx, f.Origin)
		if err != nil {
			return 0, err
		}
		switch s := l.State(g); {
		case s == StateActive:
			return g, nil
		case s == 0:
			return 0, fmt.Errorf("publish %s: generation %v is in no list", name, g)
		case !s.Readable():
			return 0, fmt.Errorf("publish %s: generation %v: %w", name, g, ErrDeleted)
		}
		to := l.Active()
		_, err = f.Forward(ctx, d, g, to)
		if err == nil {
			_, err = catalog.SetName(ctx, f.Origin.Generation(to), name, d)
		}
		if err != nil && ctx.Err() == nil && f.closed(ctx, g) { // while it was copied
			err = errors.Join(ErrDeleted, err)
		}
		if err != nil {
			return 0, fmt.Errorf("publish %s: %w", name, err)
		}
		g = to
	}
}

// Settled reports whether there is nothing to do to publish image d, which
// generation g has complete, under a name: g says so already, and is the active one.
// The name is read before the state. So it is as if it had been written when it was
// read, and Settle had read the state after that. What cannot be read is not settled.
func (f *Forwarder) Settled(ctx context.Context, name string, d origin.Digest, g origin.GenerationID) bool {
	at, err := catalog.Get(ctx, f.Origin.Generation(g), catalog.NameKey(name))
	if err != nil || at != d {
		return false
	}
	l, err := Load(ctx, f.Origin)
	return err == nil && l.Active() == g
}

// Publish publishes an image under a name, whatever becomes of generations
// meanwhile. put puts the image into generation g, complete but for its name, and
// returns its block map; it is called again if g was deleted before all was done.
// Publish returns that block map and the generation in which the image is.
func (f *Forwarder) Publish(ctx context.Context, name string, put func(ctx context.Context, g origin.GenerationID) (origin.Digest, error)) (origin.Digest, origin.GenerationID, error) {
	for {
		g, err := Active(ctx, f.Origin)
		if err != nil {
			return origin.Digest{}, 0, err
		}
		d, err := put(ctx, g)
		if err == nil {
			_, err = catalog.SetName(ctx, f.Origin.Generation(g), name, d)
		}
		now := g
		if err == nil {
			now, err = f.Settle(ctx, name, d, g)
		}
		if err == nil || ctx.Err() != nil || !errors.Is(err, ErrDeleted) && !f.closed(ctx, g) {
			return d, now, err
		}
	}
}

// closed reports whether generation g cannot be read any more; then anything may
// fail there.
func (f *Forwarder) closed(ctx context.Context, g origin.GenerationID) bool {
	l, err := Load(ctx, f.Origin)
	return err == nil && !l.State(g).Readable()
}

// Attach adds an attachment to an image wherever it is, and is carried to
// meanwhile; see Bring.
func Attach(ctx context.Context, o origin.Origin, d origin.Digest, kind string, data []byte) error {
	done := make(map[origin.GenerationID]bool)
	for {
		l, err := Load(ctx, o)
		if err != nil {
			return err
		}
		more := false
		for _, g := range l.newestFirst(StateDeleted) {
			if done[g] {
				continue
			}
			_, err := o.Generation(g).GetObject(ctx, d, catalog.MaxBlockMapBytes)
			if errors.Is(err, chunk.ErrNotFound) {
				continue
			}
			if err == nil {
				err = o.Generation(g).Attach(ctx, d, kind, data)
			}
			if err != nil {
				return fmt.Errorf("generation %v: %w", g, err)
			}
			done[g], more = true, true
		}
		if !more && len(done) == 0 {
			return fmt.Errorf("attach %s to %v: %w", kind, d, chunk.ErrNotFound)
		}
		if !more {
			return nil
		}
	}
}
