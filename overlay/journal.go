package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// The journal, doc/format/overlay.md.
const (
	journalMagic  = "rvj1"
	journalFixed  = 28
	changeRecord  = 16
	sectorChanges = (sectorSize - journalFixed - 4) / changeRecord // 30
	journalSize   = journalUnits * sectorSize
	maxChange     = 1 << 32 // blocks
)

// A change gives a run of blocks a state: stateZero, or the top layer's.
type change struct {
	block int64
	n     int64
	state uint8
	drop  bool // of a zeroed run: the top layer's file has data of it. Not stored.
}

// batchSectors returns how many sectors a batch takes.
func batchSectors(changes int) int { return (changes + sectorChanges - 1) / sectorChanges }

// appendBatch appends the sectors of a batch, which takes at most journalUnits.
func appendBatch(b []byte, epoch, number uint64, batch []change) []byte {
	le := binary.LittleEndian
	sectors := batchSectors(len(batch))
	for i := range sectors {
		part := batch[:min(sectorChanges, len(batch))]
		batch = batch[len(part):]
		begin := len(b)
		b = append(b, journalMagic...)
		b = le.AppendUint64(b, epoch)
		b = le.AppendUint64(b, number)
		b = le.AppendUint16(b, uint16(i))
		b = le.AppendUint16(b, uint16(sectors))
		b = le.AppendUint16(b, uint16(len(part)))
		b = append(b, 0, 0)
		for _, c := range part {
			b = le.AppendUint64(b, uint64(c.block))
			b = le.AppendUint32(b, uint32(c.n-1))
			b = append(b, c.state, 0, 0, 0)
		}
		b = append(b, make([]byte, sectorSize-4-(len(b)-begin))...)
		b = le.AppendUint32(b, crc32.Checksum(b[begin:], castagnoli))
	}
	return b
}

// A journalSector is the head of one sector.
type journalSector struct {
	number  uint64
	index   int
	sectors int
	changes int
}

// parseSector reads a sector. live is false for one of zeros, or of another
// epoch.
func parseSector(b []byte, epoch uint64) (s journalSector, live bool, err error) {
	le := binary.LittleEndian
	if string(b[:4]) != journalMagic || le.Uint32(b[sectorSize-4:]) != crc32.Checksum(b[:sectorSize-4], castagnoli) {
		if !bytes.Equal(b, zeros[:sectorSize]) {
			return s, false, corrupt("journal: checksum of a sector")
		}
		return s, false, nil
	}
	if le.Uint64(b[4:]) != epoch {
		return s, false, nil
	}
	s = journalSector{
		number:  le.Uint64(b[12:]),
		index:   int(le.Uint16(b[20:])),
		sectors: int(le.Uint16(b[22:])),
		changes: int(le.Uint16(b[24:])),
	}
	full := s.index < s.sectors-1
	if s.number == 0 || s.index >= s.sectors || s.changes < 1 || s.changes > sectorChanges || full && s.changes != sectorChanges || b[26] != 0 || b[27] != 0 {
		return s, false, corrupt("journal: sector %d of batch %d", s.index, s.number)
	}
	rest := b[journalFixed+s.changes*changeRecord : sectorSize-4]
	if !bytes.Equal(rest, zeros[:len(rest)]) {
		return s, false, corrupt("journal: sector %d of batch %d has more than it says", s.index, s.number)
	}
	return s, true, nil
}

// replayJournal calls apply for the changes of all whole batches of an epoch, in
// order, and returns the last one's number. The last batch may have been cut off by a crash, in the middle and by
// the sector: then it counts as not written. Anything else that is not as it was
// written is damage.
func replayJournal(b []byte, epoch uint64, blocks int64, top uint8, apply func(change)) (last uint64, err error) {
	at := 0 // sectors
	total := len(b) / sectorSize
	sector := func(i int) []byte { return b[i*sectorSize : (i+1)*sectorSize] }
	for number := uint64(1); at < total; number++ {
		whole, err := wholeBatch(sector, at, total, epoch, number)
		if err != nil {
			return last, err
		}
		if whole == 0 {
			return last, checkTail(sector, at, total, epoch, number)
		}
		for i := at; i < at+whole; i++ {
			if err := applySector(sector(i), blocks, top, apply); err != nil {
				return last, err
			}
		}
		last, at = number, at+whole
	}
	return last, nil
}

// wholeBatch returns how many sectors the batch at a sector has, 0 if it is not
// there whole.
func wholeBatch(sector func(int) []byte, at, total int, epoch, number uint64) (int, error) {
	first, live, err := parseSector(sector(at), epoch)
	if err != nil || !live {
		return 0, err
	}
	if first.number != number || first.index != 0 || at+first.sectors > total {
		return 0, corrupt("journal: sector %d has batch %d, want %d", at, first.number, number)
	}
	for i := 1; i < first.sectors; i++ {
		s, live, err := parseSector(sector(at+i), epoch)
		if err != nil || !live {
			return 0, err
		}
		if s.number != number || s.index != i || s.sectors != first.sectors {
			return 0, corrupt("journal: sector %d has batch %d, want %d", at+i, s.number, number)
		}
	}
	return first.sectors, nil
}

// checkTail checks that nothing lies behind the last whole batch but sectors of
// one more, whose place is that at which it begins.
func checkTail(sector func(int) []byte, at, total int, epoch, number uint64) error {
	for i := at; i < total; i++ {
		s, live, err := parseSector(sector(i), epoch)
		if err != nil {
			return err
		}
		if live && (s.number != number || s.index != i-at) {
			return corrupt("journal: sector %d has batch %d, and %d is not whole", i, s.number, number)
		}
	}
	return nil
}

func applySector(b []byte, blocks int64, top uint8, apply func(change)) error {
	le := binary.LittleEndian
	for i := range int(le.Uint16(b[24:])) {
		r := b[journalFixed+i*changeRecord:][:changeRecord]
		c := change{block: int64(le.Uint64(r)), n: int64(le.Uint32(r[8:])) + 1, state: r[12]}
		if c.block < 0 || c.n > blocks || c.block > blocks-c.n || c.state != stateZero && c.state != top || r[13]|r[14]|r[15] != 0 {
			return corrupt("journal: %d blocks at %d get state %d", c.n, c.block, c.state)
		}
		apply(c)
	}
	return nil
}

// readJournal reads the journal whole, and checks its length.
func readJournal(f File) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	if size != journalSize {
		return nil, corrupt("journal has %d bytes, want %d", size, journalSize)
	}
	b := make([]byte, journalSize)
	if err := readFull(f, b, 0); err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return b, nil
}
