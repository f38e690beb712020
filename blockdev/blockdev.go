// Package blockdev is the contract between disks and the frontends that offer
// them: a frontend serves any Device and knows nothing of chunks.
//
// A Device is read-only unless it is a Writer. What else it can do, it says
// through optional interfaces. Those are asked once, at attach, by the function
// of the same name in this package, never per request. blockdevtest has the
// suites for devices and for wrappers.
package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// SectorSize is the unit, in bytes, that every device's size is a multiple of.
const SectorSize = 512

// ErrLeft is returned (wrapped) by reads of a device whose process leaves it to the
// next one. A frontend gives no answer to who asked, who will ask again.
var ErrLeft = errors.New("left to the next process")

// A Device is a disk of fixed size.
//
// ReadAt follows io.ReaderAt, and more: it fills every byte of p that lies
// within the device, holes as zeros (nothing is left from the buffer's last
// use), any number of calls may run at once, and it does not keep p. A read
// that cannot be served returns an error after a bounded time, never wrong
// bytes. It takes no context since no frontend's protocol can cancel one
// request; closing the device ends its reads.
type Device interface {
	io.ReaderAt
	// Size returns the size in bytes. It never changes.
	Size() int64
}

// An Extent is a run of bytes of one kind.
type Extent struct {
	Offset int64 // first byte
	Length int64 // bytes, at least 1
	Hole   bool  // reads as zeros, and takes no storage
	Local  bool  // can be read without going to the origin
}

// An Extenter knows which parts of a device are holes or local.
type Extenter interface {
	// Extents calls fn for runs that together cover [off, off+length) of the
	// device exactly, in order, each different from its neighbour, until fn
	// returns false. It returns an error only for a range outside the device
	// or a failed look-up.
	Extents(ctx context.Context, off, length int64, fn func(Extent) bool) error
}

// A Prefetcher can bring a range closer.
type Prefetcher interface {
	// Prefetch asks for [off, off+length) to be made local, and may return
	// before it is. It is advice: errors show only when the range is read.
	Prefetch(ctx context.Context, off, length int64) error
}

// Extents lists the runs of [off, off+length) of d: by its Extenter, or as one
// local run of data.
func Extents(ctx context.Context, d Device, off, length int64, fn func(Extent) bool) error {
	if e, ok := d.(Extenter); ok {
		return e.Extents(ctx, off, length, fn)
	}
	if err := CheckRange(off, length, d.Size()); err != nil {
		return fmt.Errorf("list extents of device: %w", err)
	}
	if length > 0 {
		fn(Extent{Offset: off, Length: length, Local: true})
	}
	return nil
}

// Prefetch passes the advice on if d can use it, and else does nothing.
func Prefetch(ctx context.Context, d Device, off, length int64) error {
	if p, ok := d.(Prefetcher); ok {
		return p.Prefetch(ctx, off, length)
	}
	return nil
}
