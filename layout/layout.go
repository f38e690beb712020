// Package layout decides where everything of an image lies on its disk, and so
// how well images deduplicate.
//
// Chunks are cut at fixed places, so equal files share storage only if they
// land at equal places inside their chunks. Every layer therefore gets a
// segment that starts on a chunk boundary and is a pure function of that
// layer: what lies below or above it changes nothing. Within a segment a large
// file has chunks of its own, and small files are packed in path order into
// bins of at most one chunk. When a bin is full it ends after that file, of its
// second half, whose name has the lowest hash. So two runs of files that differ
// in one place end their bins alike from the first low hash behind it on: an
// added, changed or removed file disturbs its own bin and hardly ever more.
//
// Address space costs nothing, storage does. So segments lie in slots that are
// larger than they need to be, and a segment may grow without moving the
// next one. File system metadata lies apart. An inode's number depends only on
// the layer that first named the path and on the layers below that, and numbers
// are given to runs that are cut as bins are.
//
// The rules are a format: doc/format/ext4-layout.md has them to the byte, and
// any change of them is a new Version.
package layout

import (
	"fmt"

	"github.com/rivuletfs/rivulet/ext4"
)

// Version is the version of the rules in this package and in ext4.Writer. It
// enters disk digests and the keys under which segments are remembered.
//
// Version 1 had large files from 256 KiB on, ended a bin at once after a file
// from 256 KiB on whose hash was a multiple of 8, and numbered the entries of a
// layer one after the other. Nothing makes it any more; its disks are read like
// all others, by their block maps.
const Version = 2

// Constants of the layout, in the unit that their names say.
const (
	lowBlocks      = 2048    // superblock, descriptors, bitmaps; the first slot follows
	journalBlocks  = 8192    // 32 MiB, of which one block is stored
	inodesPerGroup = 1 << 14 // a table of 4 MiB
	inodeUnit      = 2048    // inodes of one chunk of inode table
	inodeRun       = 128     // inode numbers that a run of entries has for itself
	minSlotChunks  = 16      // the smallest slot
	freeBytes      = 1 << 30 // room for later writing, by default
	checksumSeed   = 0x72697631
	// MaxDiskBytes is the largest disk: what the group descriptors that fit
	// below the first slot can describe.
	MaxDiskBytes = int64(8) << 40
	// MaxLayers is the number of layers of one image.
	MaxLayers = 1024
)

// hashSeed seeds the hashes of directory names.
var hashSeed = [16]byte{'r', 'i', 'v', 'u', 'l', 'e', 't', ' ', 'l', 'a', 'y', 'o', 'u', 't', ' ', '1'}

// Params are the measures of a segment, in bytes. Default holds what Version
// stands for; others are for experiments and give disks that no published one
// shares chunks with.
type Params struct {
	Chunk  int // chunk size, a power of two
	Large  int // files of at least this size start on a chunk boundary
	MinBin int // a full bin ends after a file that leaves at least so much in it
}

// Default is the layout that Version stands for; doc/benchmarks-layout.md has
// the measurements behind the choice.
var Default = Params{Chunk: 512 << 10, Large: 128 << 10, MinBin: 256 << 10}

func (p Params) chunkBlocks() uint32 { return uint32(p.Chunk / ext4.BlockSize) }

// Check reports parameters that no layout can be made with.
func (p Params) Check() error {
	switch {
	case p.Chunk < 64<<10 || p.Chunk > 4<<20 || p.Chunk&(p.Chunk-1) != 0:
		return fmt.Errorf("chunk size %d: want a power of two from 64 KiB to 4 MiB", p.Chunk)
	case p.Large < ext4.BlockSize || p.Large > p.Chunk:
		return fmt.Errorf("large file size %d: want 4096 to the chunk size", p.Large)
	case p.MinBin < 0 || p.MinBin > p.Chunk:
		return fmt.Errorf("smallest bin %d: want 0 to the chunk size", p.MinBin)
	}
	return nil
}

// quantum rounds n up, with an eighth to spare, to a power of two of at least
// least: the size of what may grow without moving what follows.
func quantum(n, least uint64) uint64 {
	n += n / 8
	q := least
	for q < n {
		q *= 2
	}
	return q
}

func ceilDiv[T ~int | ~int64 | ~uint32 | ~uint64](a, b T) T { return (a + b - 1) / b }
