package predict

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/profile"
)

// The stored bytes that a predicted profile names at most: a share of the image's, and
// no less than what a small one needs.
const (
	budgetShare = 3
	leastBudget = 16 << 20
)

// maxBeside bounds the size of files, in bytes, of which the chunks beside those that are
// predicted are told: of larger ones, starts read hardly more than is predicted.
const maxBeside = wholeBody

// Profile returns the profile that the files of an image's disk predict of a start. It
// fits the disk's block map, which may be locked. device, if it is not nil, is the disk that
// fsys is of, and far away: what will be read of it is asked for early. chunks are the places
// of the chunks that the profile names, and of all others of its files: a start that goes
// another way than was predicted needs frames of these.
func Profile(ctx context.Context, m *blockmap.Map, fsys *ext4.FS, device Device, s Start, workload string) (p *profile.Profile, chunks []uint32, err error) {
	f, err := Find(ctx, fsys, device, false, s)
	if err != nil {
		return nil, nil, err
	}
	return f.Profile(m, workload)
}

// A Found is what a start will read, and where on the disk that lies.
type Found struct {
	start   Start
	ranges  []Range
	extents map[string][]ext4.Extent // of all files in ranges that can be read
	block   int64                    // bytes
}

// Find does the part of [Profile] that reads files, for when there is no block map yet. If
// device is near, it is only asked early for what is read in any case, so that one processor
// decodes what another one looks through.
func Find(ctx context.Context, fsys *ext4.FS, device Device, near bool, s Start) (*Found, error) {
	files := fs.ReadLinkFS(fsys)
	if device != nil {
		files = &farFiles{FS: fsys, ctx: ctx, device: device, near: near}
	}
	ranges, err := Reads(ctx, files, s)
	if err != nil {
		return nil, err
	}
	f := &Found{start: s, ranges: ranges, extents: make(map[string][]ext4.Extent), block: int64(fsys.BlockSize())}
	for _, r := range ranges {
		if _, ok := f.extents[r.Path]; ok {
			continue
		}
		err := context.Cause(ctx)
		if err == nil {
			f.extents[r.Path], err = fsys.Extents(r.Path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
			return nil, fmt.Errorf("predict a start: %w", err)
		}
	}
	return f, nil
}

// Profile returns the profile that fits the disk's block map, and the chunks, as [Profile]
// does.
func (f *Found) Profile(m *blockmap.Map, workload string) (p *profile.Profile, chunks []uint32, err error) {
	b := newBuilder(m, f)
	for _, r := range f.ranges {
		if b.add(r); b.left <= 0 || len(b.p.Entries) >= profile.MaxEntries {
			break
		}
	}
	if len(b.p.Entries) == 0 {
		return nil, nil, fmt.Errorf("predict the start of %.80q: %w", f.start.Args, ErrNothing)
	}
	b.p.Workload = workload
	return b.p, slices.Sorted(maps.Keys(b.chunks)), nil
}

// A Device can bring a range of itself closer, as blockdev.Prefetcher says.
type Device interface {
	Prefetch(ctx context.Context, off, length int64) error
}

// farFiles are the files of a device.
type farFiles struct {
	*ext4.FS
	ctx    context.Context
	device Device
	near   bool
}

// Prefetch implements Prefetcher.
func (f *farFiles) Prefetch(name string, off, length int64, sure bool) {
	if f.near && !sure {
		return
	}
	extents, err := f.Extents(name)
	if err != nil {
		return // who reads it is told
	}
	size := int64(f.BlockSize())
	for _, x := range extents {
		start := int64(x.Logical) * size
		from, to := max(off, start), min(off+length, start+int64(x.Count)*size)
		if from < to && x.Start < 1<<40 {
			_ = f.device.Prefetch(f.ctx, int64(x.Start)*size+from-start, to-from) // reading tells what fails
		}
	}
}

// A builder gathers the frames of ranges.
type builder struct {
	profile.Geometry
	found  *Found
	seen   map[profile.Frame]bool
	beside map[string]bool // files whose chunks were added
	chunks map[uint32]bool // that frames were added of, and others of the same files
	left   int64           // stored bytes
	p      *profile.Profile
}

func newBuilder(m *blockmap.Map, found *Found) *builder {
	b := &builder{
		Geometry: profile.GeometryOf(m), found: found, seen: make(map[profile.Frame]bool), beside: make(map[string]bool), chunks: make(map[uint32]bool),
		p: &profile.Profile{Image: m.Digest(), Starts: 1, Predicted: true},
	}
	stored := int64(0)
	for i := range m.Len() {
		stored += int64(m.Chunk(i).Stored)
	}
	b.left = max(leastBudget, stored/budgetShare)
	return b
}

// add adds the frames that a range of a file lies in.
func (b *builder) add(r Range) {
	if !b.beside[r.Path] {
		b.beside[r.Path] = true
		b.addChunks(b.found.extents[r.Path])
	}
	size := b.found.block
	end := b.Info().Size
	for _, x := range b.found.extents[r.Path] {
		from, to := max(r.Off, int64(x.Logical)*size), min(r.Off+r.Length, (int64(x.Logical)+int64(x.Count))*size)
		if from >= to || x.Start > uint64(end/size) {
			continue
		}
		shift := int64(x.Start)*size - int64(x.Logical)*size
		for off := from + shift; off < min(to+shift, end); off += b.FrameBytes() - off%b.FrameBytes() {
			if f, ok := b.At(off); ok && !b.seen[f] && b.left > 0 && len(b.p.Entries) < profile.MaxEntries {
				b.seen[f] = true
				b.chunks[f.Chunk] = true
				b.left -= b.Coded(f)
				// The order of entries is that of their times.
				b.p.Entries = append(b.p.Entries, profile.Entry{Frame: f, Starts: 1, At: time.Duration(len(b.p.Entries)) * time.Microsecond})
			}
		}
	}
}

// addChunks adds the chunks of a file, if it is not too large.
func (b *builder) addChunks(extents []ext4.Extent) {
	size, info := b.found.block, b.Info()
	total := int64(0)
	for _, x := range extents {
		total += int64(x.Count) * size
	}
	if total > maxBeside {
		return
	}
	for _, x := range extents {
		if x.Start > uint64(info.Size/size) {
			continue
		}
		start := int64(x.Start) * size
		for off := start; off < min(start+int64(x.Count)*size, info.Size); off += info.ChunkSize() - off%info.ChunkSize() {
			if f, ok := b.At(off); ok {
				b.chunks[f.Chunk] = true
			}
		}
	}
}
