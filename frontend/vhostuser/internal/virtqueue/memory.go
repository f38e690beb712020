// Package virtqueue has both ends of a split virtqueue (Virtio 1.2, section 2.7)
// in memory that they share: Queue is the device's end, Driver the guest's.
//
// The device does not trust the other end, which may write anywhere in the memory
// at any time. So each field is read once and checked then, addresses become
// slices of mapped memory or errors, what can be counted is counted, and nothing
// that was written to the memory is believed when it is read back, but for the
// record of requests in flight, which Queue reads when it is made, and checks.
//
// An access can still fault, if whoever owns the memory has taken it away. The
// package holds no lock over such an access without a defer, so a panic of the
// runtime's (debug.SetPanicOnFault) leaves it usable.
//
// Rings are little-endian, and so must be the host.
package virtqueue

import (
	"errors"
	"fmt"
	"sort"
)

// A Region is a part of the guest's memory.
type Region struct {
	Guest uint64 // guest-physical address of the first byte
	User  uint64 // the same in the front end's addresses
	Data  []byte // mapped; no longer than its capacity
}

// Memory is what of the guest's memory can be reached. It does not change.
type Memory struct {
	regions []Region // by Guest
}

// NewMemory returns the memory of regions, none of which may overlap.
func NewMemory(regions []Region) (*Memory, error) {
	m := &Memory{append([]Region(nil), regions...)}
	for _, key := range []func(Region) uint64{func(r Region) uint64 { return r.User }, func(r Region) uint64 { return r.Guest }} {
		sort.Slice(m.regions, func(i, j int) bool { return key(m.regions[i]) < key(m.regions[j]) })
		for i, r := range m.regions {
			if len(r.Data) == 0 || key(r)+uint64(len(r.Data)) < key(r) {
				return nil, errors.New("guest memory: a region is empty, or too long for its address")
			}
			if i > 0 && key(r)-key(m.regions[i-1]) < uint64(len(m.regions[i-1].Data)) {
				return nil, errors.New("guest memory: regions overlap")
			}
		}
	}
	return m, nil
}

// Guest returns the memory from a guest-physical address on: n bytes, or as many
// as the region has, or nil if the address is in none. Its capacity is what the
// region has from there on.
func (m *Memory) Guest(addr, n uint64) []byte {
	i := 0
	if len(m.regions) > 4 {
		i = max(0, sort.Search(len(m.regions), func(i int) bool { return m.regions[i].Guest > addr })-1)
	}
	for ; i < len(m.regions); i++ {
		r := &m.regions[i]
		if addr >= r.Guest && addr-r.Guest < uint64(len(r.Data)) {
			at := addr - r.Guest
			return r.Data[at : at+min(n, uint64(len(r.Data))-at)]
		}
		if r.Guest > addr {
			return nil
		}
	}
	return nil
}

// User returns the n bytes at one of the front end's addresses, which must lie in
// one region, at a multiple of align.
func (m *Memory) User(addr, n uint64, align uint64) ([]byte, error) {
	if addr%align != 0 {
		return nil, fmt.Errorf("address %#x is no multiple of %d", addr, align)
	}
	for i := range m.regions {
		r := &m.regions[i]
		if at := addr - r.User; addr >= r.User && at < uint64(len(r.Data)) && n <= uint64(len(r.Data))-at {
			return r.Data[at : at+n : at+n], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at address %#x: not in guest memory", n, addr)
}
