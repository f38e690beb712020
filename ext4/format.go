package ext4

import "hash/crc32"

// Names of the on-disk format follow the kernel's, without its prefixes.
// All numbers on the disk are little-endian, those of the journal big-endian.

const (
	superOffset  = 1024 // of the superblock in block 0
	superSize    = 1024
	superMagic   = 0xef53
	descSize     = 64  // of a group descriptor under incompat64Bit
	extraSize    = 32  // of the inode behind its first 128 bytes
	inodeBase    = 128 // bytes of an inode that every ext file system has
	bodyAttrs    = inodeBase + extraSize
	sectorBlocks = BlockSize / 512
)

// Feature bits. A kernel that does not know a bit of the second kind refuses
// to mount, of the third kind refuses to write.
const (
	compatHasJournal   = 0x4
	compatExtAttr      = 0x8
	compatDirIndex     = 0x20
	compatSparseSuper2 = 0x200

	incompatFiletype = 0x2
	incompatExtents  = 0x40
	incompat64Bit    = 0x80
	incompatFlexBG   = 0x200
	incompatCsumSeed = 0x2000

	roCompatLargeFile    = 0x2
	roCompatHugeFile     = 0x8
	roCompatDirNlink     = 0x20
	roCompatExtraIsize   = 0x40
	roCompatMetadataCsum = 0x400
)

// Flags of a group descriptor.
const (
	groupInodeUninit = 0x1 // the inode bitmap is not stored: none is used
	groupBlockUninit = 0x2 // the block bitmap is not stored: none is used
	groupInodeZeroed = 0x4 // the inode table needs no clearing
)

// Flags of an inode.
const (
	flagIndex   = 0x1000  // a directory with a hash tree
	flagExtents = 0x80000 // the block area is an extent tree
)

// Extent trees.
const (
	extentMagic      = 0xf30a
	extentHeaderSize = 12
	extentEntrySize  = 12
	extentsInInode   = 4   // entries of the root
	extentsInNode    = 340 // entries of a block; its last 4 bytes are a checksum
	extentTailOffset = extentHeaderSize + extentsInNode*extentEntrySize
	maxFileBlocks    = 1<<32 - 1
)

// Directories.
const (
	direntHeader   = 8    // bytes before the name
	dirTailSize    = 12   // the entry-shaped checksum at the end of a block
	dirTailType    = 0xde // its file type
	dirSpace       = BlockSize - dirTailSize
	indexEntrySize = 8
	indexTailSize  = 8
	rootIndexStart = 32  // of the entries of a hash tree's root in its block
	nodeIndexStart = 8   // of those of a node
	rootIndexLimit = 507 // entries of the root
	nodeIndexLimit = 510 // entries of a node
	maxIndexLeaves = rootIndexLimit * nodeIndexLimit
	hashHalfMD4    = 1
)

// Extended attributes.
const (
	xattrMagic       = 0xea020000
	xattrEntrySize   = 16
	xattrBlockHeader = 32
	xattrBodySize    = InodeSize - bodyAttrs
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c continues crc over p as the kernel does: without the inversions that
// Go's package makes at both ends.
func crc32c(crc uint32, p []byte) uint32 {
	return ^crc32.Update(^crc, castagnoli, p)
}
