package virtqueue

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// A Driver is the guest's end of a virtqueue. It does not check what the device
// does beyond what memory safety needs. One goroutine at a time may make chains
// available (Offer, Publish), one may take them back (Used, Arm).
type Driver struct {
	size              uint32
	desc, avail, used []byte
	events            bool

	next      uint16 // the available index with what was offered
	published uint16 // as the device sees it
	kicked    uint16 // when it was last decided whether to kick
	offers    uint32 // makes stores and loads of that end keep their order
	taken     uint16 // the used index up to which all was taken back
	takes     uint32 // likewise
}

// NewDriver returns the driver of a queue of size descriptors, a power of two, in
// memory of DescBytes, AvailBytes and UsedBytes. A ring in use is continued.
func NewDriver(desc, avail, used []byte, size int, events bool) (*Driver, error) {
	if uint64(len(desc)) < DescBytes(size) || uint64(len(avail)) < AvailBytes(size) || uint64(len(used)) < UsedBytes(size) {
		return nil, fmt.Errorf("virtqueue of %d descriptors: too little memory", size)
	}
	d := &Driver{size: uint32(size), desc: desc, avail: avail, used: used, events: events}
	d.next = loadIndex(avail)
	d.published, d.kicked, d.taken = d.next, d.next, loadIndex(used)
	return d, nil
}

// Set writes a descriptor: n bytes at a guest-physical address.
func (d *Driver) Set(i int, addr uint64, n uint32, flags, next uint16) {
	descriptor{addr, n, flags, next}.store(d.desc, i)
}

// PutDescriptor writes a descriptor of an indirect table.
func PutDescriptor(table []byte, i int, addr uint64, n uint32, flags, next uint16) {
	descriptor{addr, n, flags, next}.store(table, i)
}

// Offer makes the chain from head available with the next Publish.
func (d *Driver) Offer(head uint16) {
	store16(d.avail, ringHeader+2*int(uint32(d.next)&(d.size-1)), head)
	d.next++
}

// Publish shows the device what was offered, and reports whether it wants to be
// kicked.
func (d *Driver) Publish() (kick bool) {
	if d.published == d.next {
		return false
	}
	d.published = d.next
	// The chains must be seen before the index, and the index before what is read
	// below. A store of two bytes leaves the flags, which are Quiet's, alone.
	atomic.AddUint32(&d.offers, 1)
	store16(d.avail, atIndex, d.published)
	atomic.AddUint32(&d.offers, 1)
	old := d.kicked
	d.kicked = d.published
	if d.events {
		event := load16(d.used, ringHeader+usedSize*int(d.size))
		return needsEvent(event, d.published, old)
	}
	return load16(d.used, 0)&flagQuiet == 0
}

// Used takes back one chain, of which n bytes were written.
func (d *Driver) Used() (head uint16, n uint32, ok bool) {
	if loadIndex(d.used) == d.taken {
		return 0, 0, false
	}
	at := ringHeader + usedSize*int(uint32(d.taken)&(d.size-1))
	e := d.used[at : at+usedSize]
	h := *(*uint32)(unsafe.Pointer(&e[0]))
	n = *(*uint32)(unsafe.Pointer(&e[4]))
	d.taken++
	return uint16(h % d.size), n, true
}

// Arm asks the device to signal when it uses a chain, and reports whether it has
// already.
func (d *Driver) Arm() bool {
	if d.events {
		store16(d.avail, ringHeader+2*int(d.size), d.taken)
	} else {
		d.setQuiet(0)
	}
	atomic.AddUint32(&d.takes, 1)
	return loadIndex(d.used) != d.taken
}

// Quiet asks the device not to signal. With the event index it does not anyway,
// once it has.
func (d *Driver) Quiet() {
	if !d.events {
		d.setQuiet(flagQuiet)
	}
}

func (d *Driver) setQuiet(flag uint16) {
	if load16(d.avail, 0) != flag {
		store16(d.avail, 0, flag)
	}
}

// UsedIndex is the device's index: how much it has used.
func (d *Driver) UsedIndex() uint16 { return loadIndex(d.used) }
