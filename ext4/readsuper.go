package ext4

import (
	"fmt"
	"math/bits"
	"strings"
)

// Features that only the reader knows.
const (
	incompatRecover    = 0x4
	incompatMetaBG     = 0x10
	incompatMMP        = 0x100
	incompatEAInode    = 0x400
	incompatLargeDir   = 0x4000
	incompatInlineData = 0x8000

	roCompatSparseSuper = 0x1
	roCompatGDTCsum     = 0x10

	incompatReadable = incompatFiletype | incompatExtents | incompat64Bit | incompatFlexBG | incompatCsumSeed |
		incompatRecover | incompatMetaBG | incompatMMP | incompatEAInode | incompatLargeDir | incompatInlineData
)

// Names of the features that are refused, as mke2fs calls them.
var incompatNames = map[uint32]string{
	0x1:     "compression",
	0x8:     "journal_dev",
	0x1000:  "dirdata",
	0x10000: "encrypt",
	0x20000: "casefold",
}

const (
	maxBlockShift    = 6 // 64 KiB
	oldInodeSize     = 128
	oldFirstInode    = 11
	oldDescSize      = 32
	superSignedHash  = 0x1
	superChecksumEnd = superSize - 4
)

// superView is what the reader keeps of a superblock, checked.
type superView struct {
	compat, incompat, roCompat uint32

	blockSize      int
	blocks         uint64
	firstBlock     uint64 // of group 0
	blocksPerGroup uint64
	groups         uint64
	inodes         uint32
	inodesPerGroup uint32
	inodeSize      int
	firstInode     uint32
	descSize       int
	firstMetaBG    uint64
	backups        [2]uint32 // groups with a superblock under sparse_super2

	uuid         [16]byte
	checksums    bool   // of everything, in CRC-32C
	checksumSeed uint32 // of all but the superblock's
	hashState    [4]uint32
	hashVersion  uint8
	hashSigned   bool
}

func badSuper(format string, args ...any) error {
	return &FormatError{"superblock", fmt.Sprintf(format, args...)}
}

// readSuper decodes the superblock p of a device of size bytes.
func readSuper(p []byte, size int64) (*superView, error) {
	if m := le.Uint16(p[0x38:]); m != superMagic {
		return nil, badSuper("magic number %#x, want %#x", m, superMagic)
	}
	s := &superView{compat: le.Uint32(p[0x5c:]), incompat: le.Uint32(p[0x60:]), roCompat: le.Uint32(p[0x64:])}
	if le.Uint32(p[0x4c:]) == 0 { // revision 0 has no features
		s.compat, s.incompat, s.roCompat = 0, 0, 0
	}
	if err := s.checkFeatures(); err != nil {
		return nil, err
	}
	copy(s.uuid[:], p[0x68:])
	if err := s.readChecksums(p); err != nil {
		return nil, err
	}
	if err := s.readGeometry(p, size); err != nil {
		return nil, err
	}
	if err := s.readInodeGeometry(p); err != nil {
		return nil, err
	}
	s.hashState = hashState([16]byte(p[0xec:]))
	s.hashVersion = p[0xfc]
	s.hashSigned = le.Uint32(p[0x160:])&superUnsignedHash == 0
	return s, nil
}

func (s *superView) checkFeatures() error {
	var names []string
	for left := s.incompat &^ incompatReadable; left != 0; left &= left - 1 {
		bit := uint32(1) << bits.TrailingZeros32(left)
		name, ok := incompatNames[bit]
		if !ok {
			name = fmt.Sprintf("incompatible feature %#x", bit)
		}
		names = append(names, name)
	}
	if names != nil {
		return fmt.Errorf("%w: %s", ErrUnsupported, strings.Join(names, ", "))
	}
	return nil
}

// readChecksums checks that of the superblock.
func (s *superView) readChecksums(p []byte) error {
	s.checksums = s.roCompat&roCompatMetadataCsum != 0
	if !s.checksums {
		return nil
	}
	if p[0x175] != superCRC32C {
		return badSuper("checksums of unknown type %d", p[0x175])
	}
	if le.Uint32(p[superChecksumEnd:]) != crc32c(^uint32(0), p[:superChecksumEnd]) {
		return badSuper("wrong checksum")
	}
	if s.incompat&incompatCsumSeed != 0 {
		s.checksumSeed = le.Uint32(p[0x270:])
	} else {
		s.checksumSeed = crc32c(^uint32(0), s.uuid[:])
	}
	return nil
}

func (s *superView) readGeometry(p []byte, size int64) error {
	shift := le.Uint32(p[0x18:])
	if shift > maxBlockShift {
		return badSuper("blocks of 2^%d KiB", shift)
	}
	s.blockSize = 1024 << shift
	s.blocks = uint64(le.Uint32(p[0x04:]))
	s.descSize = oldDescSize
	if s.incompat&incompat64Bit != 0 {
		s.blocks |= uint64(le.Uint32(p[0x150:])) << 32
		s.descSize = int(le.Uint16(p[0xfe:]))
	}
	s.firstBlock = uint64(le.Uint32(p[0x14:]))
	s.blocksPerGroup = uint64(le.Uint32(p[0x20:]))
	s.firstMetaBG = uint64(le.Uint32(p[0x104:]))
	s.backups = [2]uint32{le.Uint32(p[0x24c:]), le.Uint32(p[0x250:])}
	switch {
	case s.blocks > uint64(size)/uint64(s.blockSize):
		return badSuper("%d blocks of %d bytes on a device of %d bytes", s.blocks, s.blockSize, size)
	case s.firstBlock > 1 || s.firstBlock >= s.blocks:
		return badSuper("first block %d of %d", s.firstBlock, s.blocks)
	case s.blocksPerGroup == 0:
		return badSuper("groups of no blocks")
	case s.descSize < oldDescSize || s.descSize > 1024 || s.descSize&(s.descSize-1) != 0:
		return badSuper("group descriptors of %d bytes", s.descSize)
	case s.incompat&incompat64Bit != 0 && s.descSize < descSize:
		return badSuper("group descriptors of %d bytes for 64-bit block numbers", s.descSize)
	}
	s.groups = (s.blocks - s.firstBlock + s.blocksPerGroup - 1) / s.blocksPerGroup
	return nil
}

func (s *superView) readInodeGeometry(p []byte) error {
	s.inodes = le.Uint32(p[0x00:])
	s.inodesPerGroup = le.Uint32(p[0x28:])
	s.inodeSize, s.firstInode = oldInodeSize, oldFirstInode
	if le.Uint32(p[0x4c:]) > 0 {
		s.inodeSize = int(le.Uint16(p[0x58:]))
		s.firstInode = le.Uint32(p[0x54:])
	}
	switch {
	case s.inodeSize < oldInodeSize || s.inodeSize > s.blockSize || s.inodeSize&(s.inodeSize-1) != 0:
		return badSuper("inodes of %d bytes", s.inodeSize)
	case s.inodesPerGroup == 0 || s.inodesPerGroup > 8*uint32(s.blockSize):
		return badSuper("%d inodes per group", s.inodesPerGroup)
	case s.groups > 1<<32 || s.groups*uint64(s.inodesPerGroup) != uint64(s.inodes):
		return badSuper("%d inodes in %d groups of %d", s.inodes, s.groups, s.inodesPerGroup)
	case s.firstInode < oldFirstInode || s.firstInode > s.inodes:
		return badSuper("first inode %d of %d", s.firstInode, s.inodes)
	}
	return nil
}

// descBlock is the block with the descriptor of a group.
func (s *superView) descBlock(group uint64) uint64 {
	perBlock := uint64(s.blockSize / s.descSize)
	n := group / perBlock
	if s.incompat&incompatMetaBG == 0 || n < s.firstMetaBG {
		return superOffset/uint64(s.blockSize) + 1 + n
	}
	first := n * perBlock
	block := s.firstBlock + first*s.blocksPerGroup
	if s.groupHasSuper(first) {
		block++
	}
	return block
}

// groupHasSuper says whether a group starts with a copy of the superblock.
func (s *superView) groupHasSuper(group uint64) bool {
	switch {
	case group == 0:
		return true
	case s.compat&compatSparseSuper2 != 0:
		return group == uint64(s.backups[0]) || group == uint64(s.backups[1])
	case group == 1 || s.roCompat&roCompatSparseSuper == 0:
		return true
	}
	for _, base := range [...]uint64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}
