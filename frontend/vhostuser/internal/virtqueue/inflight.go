package virtqueue

import (
	"fmt"
	"sort"
	"sync/atomic"
	"unsafe"
)

// The record of what a queue has taken and not completed, by which the next
// process goes on, has the layout of the vhost-user protocol's section "Inflight
// I/O tracking" for split rings:
//
//	 0  features u64, 0
//	 8  version u16, 1; 0 in a record that nobody has used
//	10  number of entries u16
//	12  head that was completed last u16
//	14  used index u16
//	16  entries of 16 bytes: in flight u8, 5 of padding, next u16, counter u64
//
// A process may be killed between any two stores. So a head is in flight before
// anything else knows that it was taken, and stays so until the driver has seen
// that it was used: the heads of the last batch, linked by next, are those whose
// flags may be wrong if the ring's used index and the record's differ.
const (
	recordVersion = 1
	recordHeader  = 16
	recordEntry   = 16
	recordAlign   = 64

	atVersion = 8
	atCount   = 10
	atLast    = 12
	atUsed    = 14

	entryNext    = 6
	entryCounter = 8
)

// InflightBytes is how much memory the record of a queue of n descriptors takes.
func InflightBytes(n int) uint64 {
	return (recordHeader + recordEntry*uint64(n) + recordAlign - 1) &^ (recordAlign - 1)
}

// A record is in memory that outlives the process. The order of its stores is that
// of the program.
type record struct {
	b       []byte
	counter uint64
}

// openRecord reads a record, with the index of the used ring, and returns the
// heads that are in flight, in the order in which they were taken.
func openRecord(b []byte, size int, used uint16) (*record, []uint16, error) {
	if uint64(len(b)) < InflightBytes(size) || uintptr(unsafe.Pointer(&b[0]))%8 != 0 {
		return nil, nil, fmt.Errorf("inflight record of %d bytes for %d descriptors, or not aligned", len(b), size)
	}
	r := &record{b: b}
	v, n := load16(b, atVersion), load16(b, atCount)
	if v == recordVersion && int(n) != size && r.idle() {
		v = 0 // of a driver before this one, whose rings were of another size
	}
	switch {
	case v == 0:
		clear(b[:recordHeader])
		store16(b, atCount, uint16(size))
		store16(b, atUsed, used)
		store16(b, atVersion, recordVersion)
	case v != recordVersion || int(n) != size:
		return nil, nil, fmt.Errorf("inflight record of version %d for %d descriptors, want %d for %d", v, n, recordVersion, size)
	}
	if batch := used - load16(b, atUsed); batch != 0 {
		head := load16(b, atLast)
		for range min(int(batch), size) {
			if int(head) >= size {
				return nil, nil, fmt.Errorf("inflight record: descriptor %d of %d", head, size)
			}
			*r.flag(head) = 0
			head = load16(b, r.entry(head)+entryNext)
		}
		store16(b, atUsed, used)
	}
	var heads []uint16
	counters := make([]uint64, size)
	for i := range uint16(size) {
		if *r.flag(i) == 0 {
			continue
		}
		counters[i] = *r.counterOf(i)
		r.counter = max(r.counter, counters[i]+1)
		heads = append(heads, i)
	}
	sort.Slice(heads, func(i, j int) bool { return counters[heads[i]] < counters[heads[j]] })
	return r, heads, nil
}

// idle reports whether nothing is in flight.
func (r *record) idle() bool {
	for at := recordHeader; at+recordEntry <= len(r.b); at += recordEntry {
		if r.b[at] != 0 {
			return false
		}
	}
	return true
}

func (r *record) entry(head uint16) int { return recordHeader + recordEntry*int(head) }

// flag is 1 while head is in flight.
func (r *record) flag(head uint16) *uint8 { return &r.b[r.entry(head)] }

func (r *record) counterOf(head uint16) *uint64 {
	return (*uint64)(unsafe.Pointer(&r.b[r.entry(head)+entryCounter]))
}

// begin notes that head was taken.
func (r *record) begin(head uint16) {
	atomic.StoreUint64(r.counterOf(head), r.counter)
	r.counter++
	*r.flag(head) = 1
}

// end notes that head is used, and will be in the next batch that is published.
func (r *record) end(head uint16) {
	store16(r.b, r.entry(head)+entryNext, load16(r.b, atLast))
	store16(r.b, atLast, head)
}

// publish notes that the batch was published, up to the used index.
func (r *record) publish(batch []uint16, used uint16) {
	for _, head := range batch {
		*r.flag(head) = 0
	}
	store16(r.b, atUsed, used)
}
