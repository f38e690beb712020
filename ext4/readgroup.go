package ext4

import "fmt"

const (
	descChecksum = 0x1e
	crc16Reverse = 0xa001 // CRC-16 with the polynomial 0x8005, low bits first
)

// inodeTable is the first block of a group's inode table.
func (fsys *FS) inodeTable(group uint64) (uint64, error) {
	s := fsys.super
	block, err := fsys.readBlock(blockKey{block: s.descBlock(group), kind: rawBlock}, nil)
	if err != nil {
		return 0, err
	}
	desc := block[int(group%uint64(s.blockSize/s.descSize))*s.descSize:][:s.descSize]
	if sum, ok := s.descSum(uint32(group), desc); ok && sum != le.Uint16(desc[descChecksum:]) {
		return 0, &FormatError{fmt.Sprintf("group descriptor %d", group), "wrong checksum"}
	}
	table := uint64(le.Uint32(desc[0x08:]))
	if s.incompat&incompat64Bit != 0 {
		table |= uint64(le.Uint32(desc[0x28:])) << 32
	}
	return table, nil
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
