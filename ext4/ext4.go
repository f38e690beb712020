// Package ext4 writes and reads ext4 file systems, in Go alone, without root,
// mount or mke2fs.
//
// The [Writer] puts every file's data where its caller says: it is told the
// extents and writes what describes them (superblock, group descriptors,
// bitmaps, inode tables, directories, extent trees, attribute blocks). It
// never touches the data itself, takes no time or random number from its
// surroundings, and so gives the same bytes for the same calls.
//
// [Open] gives the read side: an [io/fs.FS] over any io.ReaderAt, for images of
// ours and of mke2fs.
//
// Both follow the on-disk format as the kernel documents it
// (Documentation/filesystems/ext4). Blocks are of 4 KiB, inodes of 256 bytes.
package ext4

// Sizes of the format as this package writes it, in bytes.
const (
	BlockSize      = 4096
	InodeSize      = 256
	BlocksPerGroup = 8 * BlockSize // one bitmap block's worth
	MaxExtentLen   = 1 << 15       // blocks of one initialised extent
	MaxNameLen     = 255           // bytes of a name in a directory
	MaxLinks       = 65000         // names of one inode; a directory may pass it and then counts 1
)

// Inode numbers that the format gives away. Numbers below FirstInode are not
// for files; 2 is the root.
const (
	RootInode       = 2
	BootLoaderInode = 5
	JournalInode    = 8
	FirstInode      = 11
)

// File types as they stand in an inode's mode, and the mask that selects them.
const (
	ModeFIFO    = 0x1000
	ModeChar    = 0x2000
	ModeDir     = 0x4000
	ModeBlock   = 0x6000
	ModeRegular = 0x8000
	ModeSymlink = 0xa000
	ModeSocket  = 0xc000
	ModeType    = 0xf000
)

// Time is a point in time as an inode keeps it. The format holds the years 1901
// to 2446; a Writer refuses others.
type Time struct {
	Sec  int64  // since 1970, negative before
	Nsec uint32 // 0 to 999,999,999
}

// An Extent says that Count blocks of a file, from block Logical of the file
// on, lie on the disk from block Start on.
type Extent struct {
	Logical uint32
	Count   uint32 // more than MaxExtentLen is cut by the Writer
	Start   uint64
}

// A Range is Count blocks from block Start on.
type Range struct {
	Start, Count uint64
}

// Xattr is one extended attribute under its whole name, such as "user.comment",
// "security.capability" or "system.posix_acl_access". A POSIX ACL's value is in
// the form in which system calls and archives carry it (version 2); the Writer
// and the reader convert it from and to the shorter form on the disk.
type Xattr struct {
	Name  string
	Value []byte
}

// An Inode describes one file to the Writer.
type Inode struct {
	Number uint32
	Mode   uint16 // type and permissions
	UID    uint32
	GID    uint32
	Links  uint32
	MTime  Time // the change, access and creation times are set to it too
	Size   int64
	// Extents hold the data of a regular file, by rising Logical; what they
	// leave out is a hole.
	Extents []Extent
	Target  string // of a symbolic link, at most 4095 bytes
	// Major and Minor are a device's numbers, below 4096 and 1<<20.
	Major, Minor uint32
	Xattrs       []Xattr // in any order; no name twice
}

// A Dirent is one name in a directory. "." and ".." are not listed.
type Dirent struct {
	Name   string
	Number uint32
	Type   uint16 // the file type part of the mode of the inode it names
}
