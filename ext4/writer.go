package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ErrInode is wrapped by errors that tell of an Inode whose fields do not make
// a file.
var ErrInode = errors.New("invalid inode")

var errClosed = errors.New("ext4: writer is closed")

// A Writer writes everything of a file system but the files' data. Every block
// that it does not write has to read as zeros: it leaves out the unused parts
// of inode tables, bitmaps and the journal.
//
// An error of Add, AddDir or Reserve that wraps ErrTime, ErrXattr,
// ErrXattrTooLarge, ErrDirent, ErrDirTooLarge, ErrInode or ErrExtents leaves
// the Writer as it was. After any other error, such as one that wraps ErrInUse
// or ErrNoSpace or comes from the io.WriterAt, each method returns that error.
//
// The Writer checks each call by itself. That every name leads to an inode
// that is added, of that type, with as many links as it has names, is up to
// the caller.
//
// A Writer is not safe for use by several goroutines. Besides a bitmap for each
// group with used blocks or inodes it keeps some 10 MiB, and the ranges given
// to Reserve.
type Writer struct {
	config    Config
	alloc     *allocation
	out       output // the metadata area, and on Close everything but inodes
	table     *inodeTable
	hashState [4]uint32
	next      uint64 // block of the metadata area
	reserved  []Range
	err       error
}

// NewWriter starts a file system on w. It writes nothing yet.
func NewWriter(w io.WriterAt, c Config) (*Writer, error) {
	g, err := newGeometry(&c)
	if err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	fs := &Writer{
		config:    c,
		alloc:     newAllocation(g),
		out:       output{w: w},
		table:     newInodeTable(w, g.itable),
		hashState: hashState(c.HashSeed),
		next:      c.Meta,
	}
	for number := uint32(1); number < FirstInode; number++ {
		if number != RootInode {
			fs.alloc.claimInode(number, false)
		}
	}
	tables := g.groups * uint64(g.tableBlocks())
	for _, r := range []Range{{0, g.bitmaps}, {g.journal, uint64(g.journalBlocks)}, {g.itable, tables}} {
		if err := fs.alloc.claim(r); err != nil {
			return nil, fmt.Errorf("ext4: %w", err)
		}
	}
	return fs, nil
}

// Add writes an inode of any type but a directory, and what describes it. The
// blocks of its Extents become its own; nobody else may have them. Size and
// Extents are for regular files, Target is for symbolic links, Major and Minor
// are for devices; for other types they have to be zero, but for the Size of a
// symbolic link, which may also be the length of Target.
//
// From the metadata area it takes, in this order, the block of a long target,
// the nodes of the extent tree, the attribute block. The Inode is not kept.
func (w *Writer) Add(ino *Inode) error {
	if w.err != nil {
		return w.err
	}
	f, err := w.newFile(ino)
	if err != nil {
		return fmt.Errorf("ext4: inode %d: %w", ino.Number, err)
	}
	return w.store(f)
}

// AddDir writes a directory that is named in parent, which for the root is the
// root. Entries may come in any order; names are of 1 to 255 bytes without NUL
// and slash, none twice. The number of links is counted from the entries;
// ino.Links is not looked at, Size and Extents have to be zero.
//
// From the metadata area it takes, in this order, the blocks of the directory,
// the nodes of its extent tree, the attribute block. Nothing is kept.
func (w *Writer) AddDir(ino *Inode, parent uint32, entries []Dirent) error {
	if w.err != nil {
		return w.err
	}
	f, err := w.newDir(ino, parent, entries)
	if err != nil {
		return fmt.Errorf("ext4: directory inode %d: %w", ino.Number, err)
	}
	return w.store(f)
}

// AlignMeta makes the next allocation from the metadata area start at a
// multiple of the given number of blocks. What is skipped belongs to the
// boot-loader inode.
func (w *Writer) AlignMeta(blocks uint64) error {
	if w.err != nil || blocks == 0 || w.next%blocks == 0 {
		return w.err
	}
	skip := Range{w.next, blocks - w.next%blocks}
	if err := w.checkMeta(skip.Count); err != nil {
		return w.fail(err)
	}
	if err := w.Reserve(skip); err != nil {
		return err
	}
	w.next += skip.Count
	return nil
}

// Reserve gives blocks to the boot-loader inode, so that no file ever gets
// them.
func (w *Writer) Reserve(r Range) error {
	if w.err != nil || r.Count == 0 {
		return w.err
	}
	if low, high := w.alloc.low, w.alloc.high; r.Start < low || r.Start >= high || r.Count > high-r.Start {
		return fmt.Errorf("ext4: reserve %d blocks from %d: %w: outside of [%d,%d)", r.Count, r.Start, ErrExtents, low, high)
	}
	if err := w.alloc.claim(r); err != nil {
		return w.fail(fmt.Errorf("ext4: reserve %d blocks from %d: %w", r.Count, r.Start, err))
	}
	if n := len(w.reserved); n > 0 && w.reserved[n-1].Start+w.reserved[n-1].Count == r.Start {
		w.reserved[n-1].Count += r.Count
	} else {
		w.reserved = append(w.reserved, r)
	}
	return nil
}

// MetaEnd is the block behind the last one taken or skipped in the metadata
// area.
func (w *Writer) MetaEnd() uint64 { return w.next }

// Close writes the journal's and the boot-loader inode, what is left of the
// inode tables, the bitmaps, the group descriptors and the superblock. It does
// not close the io.WriterAt.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if err := w.finish(); err != nil {
		return w.fail(fmt.Errorf("ext4: close: %w", err))
	}
	w.err = errClosed
	return nil
}

func (w *Writer) finish() error {
	if !w.alloc.inodeUsed(RootInode) {
		return fmt.Errorf("%w: there is no root", ErrInode)
	}
	boot, err := newBootLoader(w.reserved)
	if err != nil {
		return err
	}
	places, err := w.alloc.placeBitmaps(uint64(boot.tree.nodes()))
	if err != nil {
		return err
	}
	if err := w.writeJournal(); err != nil {
		return err
	}
	if err := w.writeBootLoader(boot, places.node); err != nil {
		return err
	}
	if err := w.table.flush(); err != nil {
		return err
	}
	if err := w.writeGroups(places); err != nil {
		return err
	}
	if err := w.out.writeAt(w.superblock(), superOffset); err != nil {
		return err
	}
	return w.out.flush()
}

// fail makes an error the last word of the Writer.
func (w *Writer) fail(err error) error {
	w.err = err
	return err
}

// checkMeta says whether the metadata area has n more blocks.
func (w *Writer) checkMeta(n uint64) error {
	if high := w.alloc.high; w.next > high || n > high-w.next {
		return fmt.Errorf("ext4: %d blocks of metadata at %d, which ends at %d: %w", n, w.next, high, ErrNoSpace)
	}
	return nil
}

// checkTarget says whether a symbolic link can lead to target.
func checkTarget(target string) error {
	if target == "" || len(target) >= BlockSize || strings.IndexByte(target, 0) >= 0 {
		return fmt.Errorf("%w: symbolic link to %.100q of %d bytes", ErrInode, target, len(target))
	}
	return nil
}

// mergeRanges sorts ranges that do not overlap and joins adjacent ones, both in
// place.
func mergeRanges(list []Range) []Range {
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	out := list[:0]
	for _, r := range list {
		if n := len(out); n > 0 && out[n-1].Start+out[n-1].Count == r.Start {
			out[n-1].Count += r.Count
		} else {
			out = append(out, r)
		}
	}
	return out
}
