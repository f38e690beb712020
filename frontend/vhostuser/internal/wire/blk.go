package wire

import (
	"encoding/binary"
	"fmt"
)

// SectorSize is the unit of capacity and addresses, in bytes, whatever the block
// size is.
const SectorSize = 512

// Types of requests (Virtio 1.2, 5.2.6).
const (
	BlkIn          = 0
	BlkOut         = 1
	BlkFlush       = 4
	BlkGetID       = 8
	BlkDiscard     = 11
	BlkWriteZeroes = 13
)

// What the last byte of a request says in the end.
const (
	StatusOK          = 0
	StatusIOError     = 1
	StatusUnsupported = 2
)

// Sizes in bytes.
const (
	BlkHeaderSize = 16
	BlkIDSize     = 20
	RangeSize     = 16
	BlkConfigSize = 60
)

// WritebackOffset is where the configuration space has its only byte that a driver
// may write.
const WritebackOffset = 32

// A BlkHeader begins each request.
type BlkHeader struct {
	Type   uint32
	Sector uint64
}

// ParseBlkHeader reads a header. Any bytes are one.
func ParseBlkHeader(b *[BlkHeaderSize]byte) BlkHeader {
	return BlkHeader{binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint64(b[8:])}
}

// Put writes the header to b.
func (h BlkHeader) Put(b []byte) {
	binary.LittleEndian.PutUint32(b, h.Type)
	binary.LittleEndian.PutUint32(b[4:], 0)
	binary.LittleEndian.PutUint64(b[8:BlkHeaderSize], h.Sector)
}

// A Range is one of the ranges of BlkDiscard and BlkWriteZeroes.
type Range struct {
	Sector  uint64
	Sectors uint32
	Flags   uint32
}

// FlagUnmap in a Range lets a device give the space back.
const FlagUnmap = 1

// ParseRange reads a range. Any bytes are one.
func ParseRange(b *[RangeSize]byte) Range {
	u := binary.LittleEndian
	return Range{u.Uint64(b[:]), u.Uint32(b[8:]), u.Uint32(b[12:])}
}

// Put writes the range to b.
func (r Range) Put(b []byte) {
	u := binary.LittleEndian
	u.PutUint64(b, r.Sector)
	u.PutUint32(b[8:], r.Sectors)
	u.PutUint32(b[12:RangeSize], r.Flags)
}

// A BlkConfig is the configuration space, as far as we know it.
type BlkConfig struct {
	Capacity          uint64 // sectors
	SegMax            uint32 // segments of a request
	BlockSize         uint32 // bytes
	PhysicalExponent  uint8  // a physical block is 2^n blocks
	OptimalIO         uint32 // blocks
	Writeback         uint8  // 1: there is a volatile cache
	Queues            uint16
	MaxDiscard        uint32 // sectors
	MaxDiscardSegs    uint32
	DiscardAlign      uint32 // sectors
	MaxWriteZeroes    uint32 // sectors
	MaxWriteZeroesSeg uint32
	MayUnmap          uint8
}

// Append adds the configuration to b, which gets BlkConfigSize bytes longer.
func (c *BlkConfig) Append(b []byte) []byte {
	u := binary.LittleEndian
	b = u.AppendUint64(b, c.Capacity)
	b = u.AppendUint32(b, 0) // size_max
	b = u.AppendUint32(b, c.SegMax)
	b = u.AppendUint32(b, 0) // geometry
	b = u.AppendUint32(b, c.BlockSize)
	b = append(b, c.PhysicalExponent, 0)
	b = u.AppendUint16(b, 1) // min_io_size
	b = u.AppendUint32(b, c.OptimalIO)
	b = append(b, c.Writeback, 0)
	b = u.AppendUint16(b, c.Queues)
	for _, v := range [...]uint32{c.MaxDiscard, c.MaxDiscardSegs, c.DiscardAlign, c.MaxWriteZeroes, c.MaxWriteZeroesSeg} {
		b = u.AppendUint32(b, v)
	}
	return append(b, c.MayUnmap, 0, 0, 0)
}

// ParseBlkConfig reads a configuration space of at least BlkConfigSize bytes.
func ParseBlkConfig(b []byte) (BlkConfig, error) {
	if len(b) < BlkConfigSize {
		return BlkConfig{}, fmt.Errorf("configuration of %d bytes, want %d", len(b), BlkConfigSize)
	}
	u := binary.LittleEndian
	return BlkConfig{
		Capacity: u.Uint64(b), SegMax: u.Uint32(b[12:]), BlockSize: u.Uint32(b[20:]),
		PhysicalExponent: b[24], OptimalIO: u.Uint32(b[28:]), Writeback: b[WritebackOffset], Queues: u.Uint16(b[34:]),
		MaxDiscard: u.Uint32(b[36:]), MaxDiscardSegs: u.Uint32(b[40:]), DiscardAlign: u.Uint32(b[44:]),
		MaxWriteZeroes: u.Uint32(b[48:]), MaxWriteZeroesSeg: u.Uint32(b[52:]), MayUnmap: b[56],
	}, nil
}
