package virtqueue

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// MaxSize bounds the size of a queue, in descriptors.
const MaxSize = 1024

// Flags of a descriptor.
const (
	FlagNext     = 1 // another one follows
	FlagWrite    = 2 // the device writes this one
	FlagIndirect = 4 // it is a table of descriptors
)

// flagQuiet, in either ring, asks the other end not to signal. It is not used with
// the event index.
const flagQuiet = 1

// Sizes and offsets in bytes.
const (
	DescriptorSize = 16
	ringHeader     = 4 // flags and index of either ring
	atIndex        = 2
	usedSize       = 8 // an element of the used ring
)

// DescBytes is the size of a descriptor table for a queue of n.
func DescBytes(n int) uint64 { return DescriptorSize * uint64(n) }

// AvailBytes is the size of an available ring, with the event index.
func AvailBytes(n int) uint64 { return ringHeader + 2*uint64(n) + 2 }

// UsedBytes is the size of a used ring, with the event index.
func UsedBytes(n int) uint64 { return ringHeader + usedSize*uint64(n) + 2 }

// A descriptor is one that was read: a copy.
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// loadDescriptor reads a descriptor once.
func loadDescriptor(table []byte, i uint32) descriptor {
	var b [DescriptorSize]byte
	copy(b[:], table[DescriptorSize*int(i):][:DescriptorSize])
	u := binary.LittleEndian
	return descriptor{u.Uint64(b[:]), u.Uint32(b[8:]), u.Uint16(b[12:]), u.Uint16(b[14:])}
}

func (d descriptor) store(table []byte, i int) {
	b := table[DescriptorSize*i:][:DescriptorSize]
	u := binary.LittleEndian
	u.PutUint64(b, d.addr)
	u.PutUint32(b[8:], d.len)
	u.PutUint16(b[12:], d.flags)
	u.PutUint16(b[14:], d.next)
}

// load16 and store16 access two bytes, once, in no order with others.
func load16(b []byte, off int) uint16 {
	return *(*uint16)(unsafe.Pointer(&b[off : off+2][0]))
}

func store16(b []byte, off int, v uint16) {
	*(*uint16)(unsafe.Pointer(&b[off : off+2][0])) = v
}

// indexWord is the aligned word that has the index of a ring, and the place of the
// index in it. The ring has two bytes before the index and two after it, so either
// neighbour is the ring's own.
func indexWord(ring []byte) (word *uint32, shift uint) {
	p := unsafe.Pointer(&ring[0])
	if uintptr(p)%4 == 0 {
		return (*uint32)(p), 16
	}
	return (*uint32)(unsafe.Pointer(&ring[2:6][0])), 0
}

// loadIndex reads a ring's index. What the other end wrote before it can be read
// after it.
func loadIndex(ring []byte) uint16 {
	word, shift := indexWord(ring)
	return uint16(atomic.LoadUint32(word) >> shift)
}

// needsEvent tells whether an index that moved from old to now has passed event
// (Virtio 1.2, 2.7.10.1).
func needsEvent(event, now, old uint16) bool {
	return now-event-1 < now-old
}
