package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sort"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/layout"
	"github.com/rivuletfs/rivulet/origin"
	"github.com/rivuletfs/rivulet/seal"
	"github.com/rivuletfs/rivulet/sign"
)

// disk puts the segments together: it writes the metadata of the file system,
// stores it, and stores the block map.
func (p *publisher) disk(ctx context.Context, segments []*segment) (*blockmap.Map, error) {
	layers := make([]*flatten.Layer, len(segments))
	image := &layout.Image{ChainID: p.chainID(), Size: p.opts.Size}
	for i, s := range segments {
		layers[i] = &s.Layer
		l := layout.Layer{Entries: s.Layer.Entries, Segment: s.plan, Stored: make([]bool, len(s.Chunks))}
		for k := range s.Chunks {
			l.Stored[k] = !s.Chunks[k].hole()
		}
		image.Layers = append(image.Layers, l)
	}
	var err error
	if image.Tree, err = flatten.Merge(layers); err != nil {
		return nil, err
	}
	if p.meta, err = newSparse(p.opts.TempDir, p.opts.Params.Chunk); err != nil {
		return nil, err
	}
	disk, err := layout.Build(image, p.meta)
	if err != nil {
		return nil, err
	}
	t := table{}
	for i, slot := range disk.Slots {
		for k, used := range slot.Used {
			if used {
				t.add(slot.First+uint32(k), &segments[i].Chunks[k])
			}
		}
	}
	info := p.info(segments, disk)
	if err := p.preview(ctx, info, t.chunks()); err != nil {
		return nil, err
	}
	places, sealed, object, err := p.storeMeta(ctx, p.meta)
	if err != nil {
		return nil, err
	}
	for i, place := range places {
		t.add(place, &sealed[i])
	}
	info.Metadata = object
	return p.blockMap(ctx, info, t)
}

// storeMeta stores what is written in meta, each chunk and the object that has them
// together, and tells where each chunk lies.
func (p *publisher) storeMeta(ctx context.Context, meta *sparse) ([]uint32, []stored, origin.Digest, error) {
	places := meta.written()
	together := newSheaf(len(places), p.store.PutObject)
	sealed, err := p.pool.storeShown(ctx, len(places), func(_ context.Context, i int, buf []byte) error {
		n, err := meta.file.ReadAt(buf, int64(places[i])*int64(len(buf)))
		if err == io.EOF { // the file ends where the last write did
			clear(buf[n:])
			err = nil
		}
		return err
	}, func(i int, object []byte) { together.add(ctx, places[i], object) },
		p.progress.storing(metadata, int64(len(places))*int64(p.opts.Params.Chunk)))
	object, putErr := together.wait()
	return places, sealed, object, errors.Join(err, putErr)
}

// A table is the chunk table of a block map in the making.
type table struct {
	index []uint32
	chunk []*stored
}

func (t *table) add(index uint32, c *stored) {
	if !c.hole() {
		t.index = append(t.index, index)
		t.chunk = append(t.chunk, c)
	}
}

func (t *table) Len() int           { return len(t.index) }
func (t *table) Less(i, j int) bool { return t.index[i] < t.index[j] }
func (t *table) Swap(i, j int) {
	t.index[i], t.index[j] = t.index[j], t.index[i]
	t.chunk[i], t.chunk[j] = t.chunk[j], t.chunk[i]
}

// chunks returns the chunks in the order of a block map.
func (t *table) chunks() []blockmap.Chunk {
	sort.Sort(t)
	chunks := make([]blockmap.Chunk, t.Len())
	for i, c := range t.chunk {
		chunks[i] = blockmap.Chunk{Index: t.index[i], Stored: c.Stored, Size: c.Size, ID: c.ID, Key: c.Key}
	}
	return chunks
}

// info says of a disk what its block map will, but for what comes of its chunks.
func (p *publisher) info(segments []*segment, disk *layout.Disk) *blockmap.Info {
	info := &blockmap.Info{
		Layout: layout.Version, Size: disk.Size,
		ChunkLog2: log2(p.opts.Params.Chunk), FrameLog2: log2(p.opts.Frame),
		Source: origin.Digest(hashBytes(p.img.Digest)), ChainID: p.chainID(), Config: p.img.Config,
		SaltID: p.opts.SaltID,
	}
	for i, s := range segments {
		src := p.img.Layers[i]
		info.Layers = append(info.Layers, blockmap.Layer{
			DiffID: origin.Digest(hashBytes(src.DiffID)), Compressed: origin.Digest(hashBytes(src.Digest)), CompressedSize: src.Size,
			First: disk.Slots[i].First, Slot: disk.Slots[i].Chunks, Segment: uint32(len(s.Chunks)),
		})
	}
	return info
}

// blockMap stores the block map of the disk with the chunks in t.
func (p *publisher) blockMap(ctx context.Context, info *blockmap.Info, t table) (*blockmap.Map, error) {
	chunks := t.chunks()
	sum := blockmap.NewDiskHash(layout.Version, info.Size)
	for i, c := range t.chunk {
		if err := sum.Add(int64(t.index[i])*int64(p.opts.Params.Chunk), c.Sum); err != nil {
			return nil, err
		}
	}
	info.Disk = sum.Sum()
	return p.storeMap(ctx, info, chunks)
}

// storeMap stores the block map of an image whose chunks were put, and says who
// may open it and who vouches for it.
func (p *publisher) storeMap(ctx context.Context, info *blockmap.Info, chunks []blockmap.Chunk) (*blockmap.Map, error) {
	if err := p.store.Flush(ctx); err != nil {
		return nil, fmt.Errorf("store chunks: %w", err)
	}
	var m *blockmap.Map
	var key seal.ImageKey
	var err error
	if p.opts.Open {
		m, err = seal.LockOpen(info, chunks)
	} else {
		m, key, err = seal.Lock(info, chunks)
	}
	if err != nil {
		return nil, err
	}
	if _, err := p.store.PutObject(ctx, m.Bytes()); err != nil {
		return nil, fmt.Errorf("store block map: %w", err)
	}
	if err := p.previewing.mapped(m, key); err != nil {
		return nil, err
	}
	if !p.opts.Open {
		if _, err := seal.Grant(ctx, m, key, p.opts.Recipients, p.store); err != nil {
			return nil, err
		}
	}
	return m, p.sign(ctx, m, p.store)
}

// sign attaches this publisher's signature to m. The same one again changes
// nothing.
func (p *publisher) sign(ctx context.Context, m *blockmap.Map, to origin.Attachments) error {
	signature, err := p.opts.Signer.SignMap(m)
	if err == nil {
		err = to.Attach(ctx, m.Digest(), sign.Kind, signature)
	}
	if err != nil {
		return fmt.Errorf("sign %v: %w", m, err)
	}
	return nil
}

func log2(n int) uint8 { return uint8(bits.TrailingZeros(uint(n))) }

// A sparse file remembers which chunks were written to.
type sparse struct {
	file  *os.File
	size  int64 // of a chunk, in bytes
	dirty map[uint32]struct{}
}

func newSparse(dir string, size int) (*sparse, error) {
	f, err := temporary(dir, "rivulet-meta-*")
	return &sparse{file: f, size: int64(size), dirty: make(map[uint32]struct{})}, err
}

// temporary makes a file in dir that is gone once it is closed, whatever
// happens to this process.
func temporary(dir, pattern string) (*os.File, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// WriteAt implements io.WriterAt, for one goroutine.
func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	for c := off / s.size; c*s.size < off+int64(len(p)); c++ {
		s.dirty[uint32(c)] = struct{}{}
	}
	return s.file.WriteAt(p, off)
}

// written returns the chunks written to, by rising index.
func (s *sparse) written() []uint32 {
	out := make([]uint32, 0, len(s.dirty))
	for c := range s.dirty {
		out = append(out, c)
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out
}

func (s *sparse) Close() error { return s.file.Close() }
