package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrTime is wrapped by errors that tell of a time outside of what an inode
// can hold. Of what it can hold, e2fsck does not believe the years from 2310
// on: it takes them for ones before 1970 that an old kernel wrote wrongly.
var ErrTime = errors.New("time is not between the years 1901 and 2446")

// The times an inode can hold: 34 bits that begin where 32 signed ones do.
const (
	minTime = -1 << 31
	maxTime = 1<<34 - 1<<31 - 1
)

var le = binary.LittleEndian

// rawInode is an inode as it stands in the table.
type rawInode [InodeSize]byte

// Offsets in an inode.
const (
	inodeMode      = 0x00
	inodeUID       = 0x02
	inodeSizeLow   = 0x04
	inodeATime     = 0x08
	inodeCTime     = 0x0c
	inodeMTime     = 0x10
	inodeGID       = 0x18
	inodeLinks     = 0x1a
	inodeBlocks    = 0x1c
	inodeFlags     = 0x20
	inodeBlock     = 0x28 // 60 bytes: extent tree, device number or symbolic link
	inodeBlockSize = 60
	inodeXattr     = 0x68
	inodeSizeHigh  = 0x6c
	inodeBlocksHi  = 0x74
	inodeXattrHi   = 0x76
	inodeUIDHi     = 0x78
	inodeGIDHi     = 0x7a
	inodeChecksum  = 0x7c
	inodeExtra     = 0x80
	inodeChecksHi  = 0x82
	inodeCTimeX    = 0x84
	inodeMTimeX    = 0x88
	inodeATimeX    = 0x8c
	inodeCrTime    = 0x90
	inodeCrTimeX   = 0x94
)

func checkTime(t Time) error {
	if t.Sec < minTime || t.Sec > maxTime || t.Nsec > 999_999_999 {
		return fmt.Errorf("%d.%09d seconds since 1970: %w", t.Sec, t.Nsec, ErrTime)
	}
	return nil
}

// newRawInode begins an inode with everything but its contents.
func newRawInode(ino *Inode, links uint32) *rawInode {
	r := new(rawInode)
	le.PutUint16(r[inodeMode:], ino.Mode)
	le.PutUint16(r[inodeUID:], uint16(ino.UID))
	le.PutUint16(r[inodeUIDHi:], uint16(ino.UID>>16))
	le.PutUint16(r[inodeGID:], uint16(ino.GID))
	le.PutUint16(r[inodeGIDHi:], uint16(ino.GID>>16))
	le.PutUint16(r[inodeLinks:], uint16(links))
	le.PutUint16(r[inodeExtra:], extraSize)
	sec := uint32(ino.MTime.Sec)
	// Two bits say how often 2^32 is to be added to the signed seconds.
	epoch := uint32((ino.MTime.Sec-int64(int32(sec)))>>32) & 3
	for _, at := range [...]int{inodeATime, inodeCTime, inodeMTime, inodeCrTime} {
		le.PutUint32(r[at:], sec)
	}
	for _, at := range [...]int{inodeATimeX, inodeCTimeX, inodeMTimeX, inodeCrTimeX} {
		le.PutUint32(r[at:], epoch|ino.MTime.Nsec<<2)
	}
	return r
}

func (r *rawInode) setSize(size int64) {
	le.PutUint32(r[inodeSizeLow:], uint32(size))
	le.PutUint32(r[inodeSizeHigh:], uint32(size>>32))
}

// setBlocks tells how many blocks the file has, those that describe it
// included.
func (r *rawInode) setBlocks(blocks uint64) {
	sectors := blocks * sectorBlocks
	le.PutUint32(r[inodeBlocks:], uint32(sectors))
	le.PutUint16(r[inodeBlocksHi:], uint16(sectors>>32))
}

func (r *rawInode) setXattrBlock(block uint64) {
	le.PutUint32(r[inodeXattr:], uint32(block))
	le.PutUint16(r[inodeXattrHi:], uint16(block>>32))
}

func (r *rawInode) addFlags(flags uint32) {
	le.PutUint32(r[inodeFlags:], le.Uint32(r[inodeFlags:])|flags)
}

// blockArea is the part that holds the root of the extent tree, a device's
// number or a short symbolic link.
func (r *rawInode) blockArea() []byte {
	return r[inodeBlock : inodeBlock+inodeBlockSize]
}

// setDevice stores a device's numbers, in the old 16-bit form where they fit.
func (r *rawInode) setDevice(major, minor uint32) {
	if major < 256 && minor < 256 {
		le.PutUint32(r[inodeBlock:], major<<8|minor)
		return
	}
	le.PutUint32(r[inodeBlock+4:], minor&0xff|major<<8|minor&^0xff<<12)
}

// seal puts the checksum into a finished inode.
func (r *rawInode) seal(seed uint32) {
	sum := crc32c(seed, r[:])
	le.PutUint16(r[inodeChecksum:], uint16(sum))
	le.PutUint16(r[inodeChecksHi:], uint16(sum>>16))
}

// inodeSeed is what the checksums of an inode and of the blocks that describe
// it begin with. The second word is the inode's generation.
func inodeSeed(seed, number uint32) uint32 {
	var b [8]byte
	le.PutUint32(b[:], number)
	return crc32c(seed, b[:])
}
