package ext4

import (
	"fmt"
	"io/fs"
)

// flagInlineData marks a file whose contents are in its inode.
const flagInlineData = 0x10000000

// Stat is what an inode says of a file. FileInfo.Sys returns a *Stat, which is
// the caller's own.
type Stat struct {
	Number       uint32
	Mode         uint16 // type and permissions
	UID          uint32
	GID          uint32
	Links        uint32 // 1 for a directory with too many to count
	Size         int64  // in bytes
	Major, Minor uint32 // of a device
	ATime        Time
	MTime        Time
	CTime        Time
	CrTime       Time   // when the file was made; zero if that is not kept
	Flags        uint32 // as the format has them
}

// inodeView is an inode, decoded and checked.
type inodeView struct {
	Stat
	seed       uint32 // of the checksums of its blocks
	area       [inodeBlockSize]byte
	attrs      []byte // the space for attributes; shared, not to be changed
	xattrBlock uint64 // 0 without one
}

func (v *inodeView) isDir() bool     { return v.Mode&ModeType == ModeDir }
func (v *inodeView) isRegular() bool { return v.Mode&ModeType == ModeRegular }
func (v *inodeView) isSymlink() bool { return v.Mode&ModeType == ModeSymlink }

// readInode reads an inode that is in use.
func (fsys *FS) readInode(number uint32) (*inodeView, error) {
	s := fsys.super
	if number == 0 || number > s.inodes {
		return nil, &FormatError{fmt.Sprintf("inode %d", number), fmt.Sprintf("there are %d", s.inodes)}
	}
	g, err := fsys.group(uint64((number - 1) / s.inodesPerGroup))
	if err != nil {
		return nil, err
	}
	raw, err := fsys.rawInode(g, (number-1)%s.inodesPerGroup)
	if err != nil {
		return nil, err
	}
	v := &inodeView{Stat: Stat{Number: number}}
	if err := s.decodeInode(v, raw); err != nil {
		return nil, err
	}
	return v, nil
}

// InodeBlock returns the block of the inode tables that holds an inode, in use or
// not. A number that the file system does not have is fs.ErrNotExist.
func (fsys *FS) InodeBlock(number uint32) (uint64, error) {
	s := fsys.super
	if number == 0 || number > s.inodes {
		return 0, fmt.Errorf("ext4: inode %d, of %d: %w", number, s.inodes, fs.ErrNotExist)
	}
	g, err := fsys.group(uint64((number - 1) / s.inodesPerGroup))
	if err != nil {
		return 0, fmt.Errorf("block of inode %d: %w", number, err)
	}
	if g.table > s.blocks {
		return 0, damagedBlock(g.table, "holds inodes, but there are only %d", s.blocks)
	}
	return g.table + uint64((number-1)%s.inodesPerGroup)*uint64(s.inodeSize)/uint64(s.blockSize), nil
}

// rawInode reads an inode of a group, by its place in the table.
func (fsys *FS) rawInode(g groupView, i uint32) ([]byte, error) {
	s := fsys.super
	at, size := uint64(i)*uint64(s.inodeSize), uint64(s.blockSize)
	if g.table > s.blocks {
		return nil, damagedBlock(g.table, "holds inodes, but there are only %d", s.blocks)
	}
	block, err := fsys.readBlock(blockKey{block: g.table + at/size, kind: rawBlock}, nil)
	if err != nil {
		return nil, err
	}
	return block[at%size:][:s.inodeSize], nil
}

// decodeInode fills v, whose number is set, from raw.
func (s *superView) decodeInode(v *inodeView, raw []byte) error {
	extra := 0
	if len(raw) > inodeBase {
		extra = int(le.Uint16(raw[inodeExtra:]))
		if extra > len(raw)-inodeBase || extra%4 != 0 {
			return v.damaged("%d bytes of additional fields", extra)
		}
	}
	if s.checksums {
		if err := s.checkInode(v, raw, extra); err != nil {
			return err
		}
	}
	v.Mode = le.Uint16(raw[inodeMode:])
	if direntType(v.Mode&ModeType) == 0 || le.Uint16(raw[inodeLinks:]) == 0 {
		return v.damaged("not in use: mode %#o with %d links", v.Mode, le.Uint16(raw[inodeLinks:]))
	}
	v.UID = uint32(le.Uint16(raw[inodeUID:])) | uint32(le.Uint16(raw[inodeUIDHi:]))<<16
	v.GID = uint32(le.Uint16(raw[inodeGID:])) | uint32(le.Uint16(raw[inodeGIDHi:]))<<16
	v.Links = uint32(le.Uint16(raw[inodeLinks:]))
	v.Flags = le.Uint32(raw[inodeFlags:])
	size := uint64(le.Uint32(raw[inodeSizeLow:]))
	if v.isRegular() || s.incompat&incompatLargeDir != 0 {
		size |= uint64(le.Uint32(raw[inodeSizeHigh:])) << 32
	}
	if v.Size = int64(size); v.Size < 0 {
		return v.damaged("size of %d bytes", size)
	}
	v.xattrBlock = uint64(le.Uint32(raw[inodeXattr:]))
	if s.incompat&incompat64Bit != 0 {
		v.xattrBlock |= uint64(le.Uint16(raw[inodeXattrHi:])) << 32
	}
	copy(v.area[:], raw[inodeBlock:])
	if t := v.Mode & ModeType; t == ModeChar || t == ModeBlock {
		v.Major, v.Minor = decodeDevice(v.area[:])
	}
	v.decodeTimes(raw[:inodeBase], raw[:min(len(raw), inodeBase+extra)])
	if len(raw) > inodeBase {
		v.attrs = raw[inodeBase+extra:]
	}
	return nil
}

// decodeTimes reads the seconds from base, and the rest from fields as far as
// they reach.
func (v *inodeView) decodeTimes(base, fields []byte) {
	word := func(at int) uint32 {
		if at+4 > len(fields) {
			return 0
		}
		return le.Uint32(fields[at:])
	}
	v.ATime = decodeTime(le.Uint32(base[inodeATime:]), word(inodeATimeX))
	v.MTime = decodeTime(le.Uint32(base[inodeMTime:]), word(inodeMTimeX))
	v.CTime = decodeTime(le.Uint32(base[inodeCTime:]), word(inodeCTimeX))
	v.CrTime = decodeTime(word(inodeCrTime), word(inodeCrTimeX))
}

// decodeTime takes the signed seconds, and a word of two bits that say how
// often 2^32 is to be added to them, and the nanoseconds.
func decodeTime(sec, extra uint32) Time {
	nsec := extra >> 2
	return Time{
		Sec:  int64(int32(sec)) + int64(extra&3)<<32 + int64(nsec/1e9),
		Nsec: nsec % 1e9,
	}
}

// decodeDevice reads a device's numbers, which have an old form of 16 bits.
func decodeDevice(area []byte) (major, minor uint32) {
	if old := le.Uint32(area); old != 0 {
		return old >> 8 & 0xff, old & 0xff
	}
	dev := le.Uint32(area[4:])
	return dev >> 8 & 0xfff, dev&0xff | dev>>12&0xfff00
}

// checkInode compares the checksum, of which a short inode has only the lower
// half, and sets the seed of those of the inode's blocks.
func (s *superView) checkInode(v *inodeView, raw []byte, extra int) error {
	var id [8]byte
	le.PutUint32(id[:], v.Number)
	copy(id[4:], raw[0x64:0x68]) // generation
	v.seed = crc32c(s.checksumSeed, id[:])
	sum := crc32c(v.seed, raw[:inodeChecksum])
	sum = crc32c(sum, []byte{0, 0})
	want, mask := uint32(le.Uint16(raw[inodeChecksum:])), uint32(0xffff)
	if inodeBase+extra >= inodeChecksHi+2 {
		sum = crc32c(sum, raw[inodeChecksum+2:inodeChecksHi])
		sum = crc32c(sum, []byte{0, 0})
		sum = crc32c(sum, raw[inodeChecksHi+2:])
		want |= uint32(le.Uint16(raw[inodeChecksHi:])) << 16
		mask = 1<<32 - 1
	} else {
		sum = crc32c(sum, raw[inodeChecksum+2:])
	}
	if sum&mask != want {
		return v.damaged("wrong checksum")
	}
	return nil
}
