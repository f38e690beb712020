package ext4

import "fmt"

const (
	descChecksum = 0x1e
	crc16Reverse = 0xa001 // CRC-16 with the polynomial 0x8005, low bits first
)

// A groupView is what the reader knows of a block group.
type groupView struct {
	blockBitmap, inodeBitmap uint64 // blocks
	table                    uint64 // first block of the inode table
	inodes                   uint32 // at the head of the table, which may be in use
}

// group reads a group's descriptor.
func (fsys *FS) group(number uint64) (groupView, error) {
	s := fsys.super
	block, err := fsys.readBlock(blockKey{block: s.descBlock(number), kind: rawBlock}, nil)
	if err != nil {
		return groupView{}, err
	}
	desc := block[int(number%uint64(s.blockSize/s.descSize))*s.descSize:][:s.descSize]
	sum, ok := s.descSum(uint32(number), desc)
	if ok && sum != le.Uint16(desc[descChecksum:]) {
		return groupView{}, &FormatError{fmt.Sprintf("group descriptor %d", number), "wrong checksum"}
	}
	at := func(low, high int) uint64 {
		block := uint64(le.Uint32(desc[low:]))
		if s.incompat&incompat64Bit != 0 {
			block |= uint64(le.Uint32(desc[high:])) << 32
		}
		return block
	}
	g := groupView{at(0x00, 0x20), at(0x04, 0x24), at(0x08, 0x28), s.inodesPerGroup}
	if ok { // without checksums these fields mean nothing
		unused := uint32(le.Uint16(desc[0x1c:]))
		if s.incompat&incompat64Bit != 0 {
			unused |= uint32(le.Uint16(desc[0x32:])) << 16
		}
		g.inodes -= min(unused, g.inodes)
		if le.Uint16(desc[0x12:])&groupInodeUninit != 0 {
			g.inodes = 0
		}
	}
	return g, nil
}

// descSum gives the checksum that a descriptor should have, false if it needs
// none.
func (s *superView) descSum(group uint32, desc []byte) (uint16, bool) {
	var number [4]byte
	le.PutUint32(number[:], group)
	switch {
	case s.checksums:
		sum := crc32c(crc32c(s.checksumSeed, number[:]), desc[:descChecksum])
		sum = crc32c(sum, []byte{0, 0})
		return uint16(crc32c(sum, desc[descChecksum+2:])), true
	case s.roCompat&roCompatGDTCsum != 0:
		sum := crc16(crc16(^uint16(0), s.uuid[:]), number[:])
		sum = crc16(sum, desc[:descChecksum])
		if s.incompat&incompat64Bit != 0 {
			sum = crc16(sum, desc[descChecksum+2:])
		}
		return sum, true
	}
	return 0, false
}

func crc16(crc uint16, p []byte) uint16 {
	for _, b := range p {
		crc ^= uint16(b)
		for range 8 {
			low := crc & 1
			crc >>= 1
			if low != 0 {
				crc ^= crc16Reverse
			}
		}
	}
	return crc
}
