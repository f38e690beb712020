package publish

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/catalog"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/generation"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
)

// A Change is a published disk after somebody has written to a copy of it.
type Change struct {
	Base *blockmap.Map // the published disk; unlocked
	Disk io.ReaderAt   // the disk as it is now; stays so while Commit runs
	Size int64         // of Disk in bytes: a multiple of 512, at least the base's
	// Touched calls fn for ranges of Disk in rising order, until fn returns false.
	// Outside of them Disk reads as the base, and as zeros past its end; with zero
	// set, it reads as zeros inside.
	Touched func(ctx context.Context, fn func(off, length int64, zero bool) bool) error
}

// A Committed tells what Commit published.
type Committed struct {
	Name      string `json:"name"`
	BlockMap  string `json:"block_map"`  // object that attaches the disk
	Base      string `json:"base"`       // block map of the disk that was written to
	DiskSize  int64  `json:"disk_size"`  // bytes of the device
	Chunks    int    `json:"chunks"`     // pieces of the disk that are not zero
	Taken     int    `json:"taken"`      // of them, chunks taken over from the base unread
	NewChunks int64  `json:"new_chunks"` // chunks that the origin lacked
	NewBytes  int64  `json:"new_bytes"`  // and their bytes as stored
}

// ErrUntrusted is returned (wrapped) for a base that none of the publishers whom
// the options trust has signed: who signs a disk answers for all of its chunks.
var ErrUntrusted = errors.New("the disk that was written to is signed by nobody whom you trust")

// Commit publishes a changed disk as an image of its own, under o.Name, which must
// be given. Only the chunks that were touched are read, sealed and stored; the
// others are taken over from the base's block map with their keys, and carried to
// the active generation if they lie in an older one. A base of another salt has
// nothing to take over: all of it is read, and sealed anew.
//
// The new image has the base's configuration and layers, which tell what it was
// made from, and no digest of disk, source or chain: the first would cost reading
// everything, and the others are of something else. Nothing leads to it but its
// name and the digest of its block map.
//
// Of the options it uses those that say who publishes for whom, with which salt
// and coding, Workers, Puts and Progress. Any number of calls may run at once.
func Commit(ctx context.Context, place origin.Origin, c Change, o Options) (*Committed, error) {
	if o.Name == "" {
		return nil, errors.New("commit: no name to publish under")
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	info := c.Base.Info()
	if err := seal.CheckReadable(c.Base); err != nil {
		return nil, fmt.Errorf("commit %s: %w", o.Name, err)
	}
	if c.Size < info.Size {
		return nil, fmt.Errorf("commit %s: disk of %d bytes, and %v has %d", o.Name, c.Size, c.Base, info.Size)
	}
	o.Params.Chunk, o.Frame = int(info.ChunkSize()), 1<<info.FrameLog2
	m := &commit{publisher: publisher{place: place, opts: o, progress: newProgress(o.Progress, 0)}, Change: c}
	err := m.openSalt(ctx)
	if err == nil {
		err = m.plan(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", o.Name, err)
	}
	m.forward = generation.Forwarder{Origin: place, Copies: o.Puts}
	d, _, err := m.forward.Publish(ctx, o.Name, m.put)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", o.Name, err)
	}
	return &Committed{
		Name: o.Name, BlockMap: d.String(), Base: c.Base.Digest().String(), DiskSize: c.Size,
		Chunks: m.chunks, Taken: len(m.taken), NewChunks: m.newChunks.Load(), NewBytes: m.newBytes.Load(),
	}, nil
}

// A commit is one call of Commit.
type commit struct {
	publisher
	Change
	forward generation.Forwarder
	touched []uint32 // chunks to be read, by rising index
	taken   []int    // chunks of the base that stay, by position
	chunks  int      // of the new image
}

// plan finds out what is to be read and what stays.
func (m *commit) plan(ctx context.Context) error {
	gone, err := m.split(ctx)
	if err != nil {
		return err
	}
	all := m.Base.Info().SaltID != m.opts.Salt.ID() // nothing can be taken over
	var touched []uint32
	next := 0 // in m.touched
	for i := range m.Base.Len() {
		index := m.Base.Chunk(i).Index
		for ; next < len(m.touched) && m.touched[next] < index; next++ {
			touched = append(touched, m.touched[next])
		}
		for len(gone) > 0 && gone[0] < index {
			gone = gone[1:]
		}
		switch {
		case next < len(m.touched) && m.touched[next] == index, len(gone) > 0 && gone[0] == index:
		case all:
			touched = append(touched, index)
		default:
			m.taken = append(m.taken, i)
		}
	}
	m.touched = append(touched, m.touched[next:]...)
	return nil
}

// split sorts the touched ranges into chunks to be read, m.touched, and chunks of
// zeros only, which it returns.
func (m *commit) split(ctx context.Context) (gone []uint32, err error) {
	size := int64(m.opts.Params.Chunk)
	end := int64(0)             // of the ranges so far
	last, zeros := -1, int64(0) // the last chunk touched, and how much of it is zeros from its begin on
	done := func() {
		switch {
		case last < 0:
		case zeros == min(size, m.Size-int64(last)*size):
			gone = append(gone, uint32(last))
		default:
			m.touched = append(m.touched, uint32(last))
		}
	}
	var wrong error
	err = m.Touched(ctx, func(off, length int64, zero bool) bool {
		if off < end || length <= 0 || length > m.Size-off {
			wrong = fmt.Errorf("%d bytes at %d were touched, of %d, behind a range to %d", length, off, m.Size, end)
			return false
		}
		for end = off + length; off < end; {
			index := off / size
			n := min(end, (index+1)*size) - off
			if int(index) != last {
				done()
				last, zeros = int(index), 0
			}
			if zero && off == index*size+zeros {
				zeros += n
			}
			off += n
		}
		return true
	})
	done()
	return gone, errors.Join(err, wrong)
}

// put puts the image into generation g.
func (m *commit) put(ctx context.Context, g origin.GenerationID) (origin.Digest, error) {
	m.gen, m.store = g, m.place.Generation(g)
	var err error
	if m.pool, err = newPool(&m.opts, m.store, &m.counters); err != nil {
		return origin.Digest{}, err
	}
	together, err := m.bring(ctx)
	if err != nil {
		return origin.Digest{}, err
	}
	total := int64(len(m.touched)) * int64(m.opts.Params.Chunk)
	sealed, err := m.pool.storeShown(ctx, len(m.touched), m.read, func(i int, object []byte) {
		together.touched(ctx, m.touched[i], object)
	}, m.progress.storing(metadata, total))
	object, putErr := together.wait()
	if err := errors.Join(err, putErr); err != nil {
		return origin.Digest{}, err
	}
	info := m.Base.Info()
	info.Size, info.SaltID = m.Size, m.opts.Salt.ID()
	info.Disk, info.Source, info.ChainID, info.Metadata = origin.Digest{}, origin.Digest{}, origin.Digest{}, object
	made, err := m.storeMap(ctx, &info, m.table(sealed))
	if err != nil {
		return origin.Digest{}, err
	}
	m.chunks = made.Len()
	return made.Digest(), nil
}

// bring looks where the base is, and who has signed it, and brings what stays of
// it to the generation that is published into. It returns the metadata object in the
// making, with what stays of the base's.
func (m *commit) bring(ctx context.Context) (*changedSheaf, error) {
	l, err := generation.Load(ctx, m.place)
	if err != nil {
		return nil, err
	}
	for _, at := range l.Readable() {
		store := m.place.Generation(at)
		_, err := store.GetObject(ctx, m.Base.Digest(), catalog.MaxBlockMapBytes)
		if errors.Is(err, chunk.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var together *changedSheaf
		var g errgroup.Group
		g.Go(func() error {
			together = m.sheaf(ctx, store)
			return nil
		})
		g.Go(func() error { return m.bringFrom(ctx, at) })
		return together, g.Wait()
	}
	return nil, fmt.Errorf("%v: %w", m.Base, chunk.ErrNotFound)
}

// bringFrom brings what stays of the base from the generation that has it.
func (m *commit) bringFrom(ctx context.Context, at origin.GenerationID) error {
	if _, err := sign.Require(ctx, m.Base, m.place.Generation(at), m.opts.trusted()...); err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if at == m.gen {
		return nil
	}
	ids := make([]chunk.ID, len(m.taken))
	for i, pos := range m.taken {
		ids[i] = m.Base.Chunk(pos).ID
	}
	_, err := m.forward.Chunks(ctx, ids, at, m.gen)
	return err
}

// read reads the i-th touched chunk into buf.
func (m *commit) read(_ context.Context, i int, buf []byte) error {
	off := int64(m.touched[i]) * int64(len(buf))
	n := int(min(int64(len(buf)), m.Size-off))
	clear(buf[n:])
	got, err := m.Disk.ReadAt(buf[:n], off)
	if got == n {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d of the disk: %w", n, off, err)
}

// table merges what stays with what was sealed.
func (m *commit) table(sealed []stored) []blockmap.Chunk {
	out := make([]blockmap.Chunk, 0, len(m.taken)+len(sealed))
	next := 0
	add := func(below uint32) {
		for ; next < len(sealed) && m.touched[next] < below; next++ {
			if s := &sealed[next]; !s.hole() {
				out = append(out, blockmap.Chunk{Index: m.touched[next], Stored: s.Stored, Size: s.Size, ID: s.ID, Key: s.Key})
			}
		}
	}
	for _, pos := range m.taken {
		c := m.Base.Chunk(pos)
		add(c.Index)
		out = append(out, c)
	}
	add(1<<32 - 1)
	return out
}
