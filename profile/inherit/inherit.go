// Package inherit translates what starts of an image read to another image, as a
// rule the next of the same name, so that its first start is not one without
// memory.
//
// Most of an update's chunks are those of the image before, by name; frames of those
// stay what they are. What the others hold is found by the old file system: files
// and directories go to where the new disk has them, by path; superblock, group
// descriptors and bitmaps to the same blocks; inode tables to the block that has the
// same inodes, and to that of each file that is read. What is not there any more is
// left out. No byte of a file is read.
package inherit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"

	"github.com/rivuletfs/rivulet/blockmap"
	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/profile"
)

// Starts is how many starts an inherited profile counts as: two real ones outweigh
// it.
const Starts = 2

// maxGrowth bounds an inherited profile by that many times the entries of the old
// one: small files that lay in one frame may have scattered.
const maxGrowth = 2

// ErrNothing is returned (wrapped) when nothing that the old image's starts read is
// in the new one.
var ErrNothing = errors.New("the images have nothing in common that starts read")

// A Disk is an image's disk. Its block map may be locked.
type Disk struct {
	Map *blockmap.Map
	// Files opens the disk's file system. It is called at most once, and only if there
	// are chunks that the disks do not share.
	Files func(ctx context.Context) (*ext4.FS, error)
}

// Profile returns what p, a profile of the old disk, says of the new one. It reads
// the file systems' metadata alone; ctx ends that.
func Profile(ctx context.Context, p *profile.Profile, old, new Disk) (*profile.Profile, error) {
	t, err := translate(ctx, p, old, new)
	if err != nil {
		return nil, fmt.Errorf("translate the profile of image %v to %v: %w", old.Map.Digest(), new.Map.Digest(), err)
	}
	return t, nil
}

func translate(ctx context.Context, p *profile.Profile, old, new Disk) (*profile.Profile, error) {
	if err := p.Fits(old.Map); err != nil {
		return nil, err
	}
	t := &translator{old: profile.GeometryOf(old.Map), new: profile.GeometryOf(new.Map), found: make(map[profile.Frame]*profile.Entry)}
	if rest := t.shared(p.Entries); len(rest) > 0 {
		var err error
		if t.oldFiles, err = old.Files(ctx); err == nil {
			t.newFiles, err = new.Files(ctx)
		}
		if err == nil {
			err = t.moved(ctx, rest)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(t.found) == 0 {
		return nil, ErrNothing
	}
	n := &profile.Profile{Image: new.Map.Digest(), Workload: p.Workload, Starts: p.Starts, Length: p.Length, Predicted: p.Predicted}
	for _, e := range t.found {
		n.Entries = append(n.Entries, *e)
	}
	n.Arrange()
	n.Entries = n.Entries[:min(len(n.Entries), maxGrowth*len(p.Entries))]
	return n.Scaled(Starts), nil
}

// translator gathers the entries of the new disk.
type translator struct {
	old, new           profile.Geometry
	oldFiles, newFiles *ext4.FS
	found              map[profile.Frame]*profile.Entry
}

// add adds a frame of the new disk for e. One that several lead to is read as
// early and as often as any of them.
func (t *translator) add(f profile.Frame, e *profile.Entry) {
	if was := t.found[f]; was != nil {
		was.Starts, was.At, was.Waited = max(was.Starts, e.Starts), min(was.At, e.At), max(was.Waited, e.Waited)
		return
	}
	n := *e
	n.Frame = f
	t.found[f] = &n
}

// addBlocks adds the frames of blocks of the new disk.
func (t *translator) addBlocks(start, count uint64, e *profile.Entry) {
	size := int64(t.newFiles.BlockSize())
	blocks := uint64(t.new.Info().Size / size)
	start = min(start, blocks)
	end := int64(start+min(count, blocks-start)) * size
	for off := int64(start) * size; off < end; off += t.new.FrameBytes() - off%t.new.FrameBytes() {
		if f, ok := t.new.At(off); ok {
			t.add(f, e)
		}
	}
}

// shared adds the frames of chunks that both disks have, and returns the other
// entries.
func (t *translator) shared(entries []profile.Entry) (rest []profile.Entry) {
	where := make(map[chunk.ID]uint32, t.new.Len())
	for i := range t.new.Len() {
		where[t.new.Chunk(i).ID] = uint32(i)
	}
	for _, e := range entries {
		if i, ok := where[t.old.Chunk(int(e.Chunk)).ID]; ok {
			t.add(profile.Frame{Chunk: i, Number: e.Number}, &e)
		} else {
			rest = append(rest, e)
		}
	}
	return rest
}

// moved adds what the frames of rest hold, as the new disk has it.
func (t *translator) moved(ctx context.Context, rest []profile.Entry) error {
	size := int64(t.oldFiles.BlockSize())
	per := max(t.old.FrameBytes()/size, 1)
	rest = rest[:min(int64(len(rest)), ext4.MaxOwned/per)]
	slices.SortFunc(rest, func(a, b profile.Entry) int {
		return cmp.Or(cmp.Compare(a.Chunk, b.Chunk), cmp.Compare(a.Number, b.Number))
	})
	var wanted []ext4.Range
	for i := range rest {
		wanted = append(wanted, ext4.Range{Start: uint64(t.old.Offset(rest[i].Frame) / size), Count: uint64(per)})
	}
	owners, err := t.oldFiles.Owners(ctx, wanted)
	if err != nil {
		return err
	}
	files := &files{fsys: t.newFiles}
	for i := range owners {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := t.owner(files, &owners[i], rest); err != nil {
			return err
		}
	}
	return nil
}

// owner adds where the new disk has what some blocks of the old one belong to,
// piece by piece of the frames that they are in.
func (t *translator) owner(files *files, o *ext4.Owner, rest []profile.Entry) error {
	size := int64(t.oldFiles.BlockSize())
	end := int64(o.Start+o.Count) * size
	for off := int64(o.Start) * size; off < end; {
		next := min(end, off+t.old.FrameBytes()-off%t.old.FrameBytes())
		f, _ := t.old.At(off)
		i := sort.Search(len(rest), func(i int) bool {
			r := &rest[i]
			return r.Chunk > f.Chunk || r.Chunk == f.Chunk && r.Number >= f.Number
		})
		if i < len(rest) && rest[i].Frame == f {
			part := *o
			part.Start, part.Count = uint64(off/size), uint64((next-off)/size)
			skipped := uint32(part.Start - o.Start)
			if part.Logical += skipped; o.Use == ext4.InodeTable {
				part.Inode += skipped * t.inodesPerBlock()
			}
			if err := t.piece(files, &part, &rest[i]); err != nil {
				return err
			}
		}
		off = next
	}
	return nil
}

func (t *translator) inodesPerBlock() uint32 {
	return uint32(t.oldFiles.BlockSize() / ext4.InodeSize)
}

// piece adds where the new disk has what blocks of one frame belong to.
func (t *translator) piece(files *files, o *ext4.Owner, e *profile.Entry) error {
	switch o.Use {
	case ext4.Super, ext4.Descriptors, ext4.BlockBitmap, ext4.InodeBitmap:
		t.addBlocks(o.Start, o.Count, e)
	case ext4.InodeTable:
		for n := range uint32(o.Count) {
			if err := t.addInode(o.Inode+n*t.inodesPerBlock(), e); err != nil {
				return err
			}
		}
	case ext4.FileData, ext4.DirectoryData, ext4.LinkTarget:
		if o.Path == "" {
			return nil
		}
		f, err := files.find(o.Path)
		if err != nil || f == nil {
			return err
		}
		for _, x := range f.extents {
			from, to := max(x.Logical, o.Logical), min(uint64(x.Logical)+uint64(x.Count), uint64(o.Logical)+o.Count)
			if uint64(from) < to {
				t.addBlocks(x.Start+uint64(from-x.Logical), to-uint64(from), e)
			}
		}
		return t.addInode(f.number, e)
	}
	return nil
}

// addInode adds the frame of the new disk's inode table that has an inode.
func (t *translator) addInode(number uint32, e *profile.Entry) error {
	block, err := t.newFiles.InodeBlock(number)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		t.addBlocks(block, 1, e)
	}
	return err
}

// A file is what the new disk has under a path.
type file struct {
	number  uint32
	extents []ext4.Extent
}

// files looks paths up, and remembers the last one: an owner has many pieces.
type files struct {
	fsys *ext4.FS
	path string
	last *file
}

// find returns nil for a path that is not there.
func (l *files) find(path string) (*file, error) {
	if path == l.path {
		return l.last, nil
	}
	l.path, l.last = path, nil
	info, err := l.fsys.Lstat(path)
	var extents []ext4.Extent
	if err == nil {
		extents, err = l.fsys.Extents(path)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.last = &file{info.Sys().(*ext4.Stat).Number, extents}
	return l.last, nil
}
