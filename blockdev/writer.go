package blockdev

import (
	"errors"
	"fmt"
	"io"
)

// ErrNoSpace is what a Writer's calls return, wrapped, when there is no room for
// what they write: by a quota, or on the medium. What was there before still is.
var ErrNoSpace = errors.New("no space left on device")

// A Writer is a device that can be written. Any number of calls may run at
// once; of those that overlap while they run, every sector reads afterwards as
// one of them left it. A call that fails may have changed any part of its range
// and nothing outside it. All ranges lie within the device, or the call fails
// and changes nothing.
//
// It is a disk with a volatile cache: what a call wrote is read back at once,
// and is on the medium after a Flush that began when the call had returned.
// After a crash, each sector written since then has its old bytes or its new
// ones.
type Writer interface {
	Device
	// WriteAt follows io.WriterAt, for any offset and length.
	io.WriterAt
	// Flush returns when everything that was written before it is on the medium.
	// Once it has failed, no later one succeeds: what was lost is not known.
	Flush() error
	// Discard makes the range read as zeros and gives its space back. Unlike a
	// disk's, it never leaves old bytes.
	Discard(off, length int64) error
	// WriteZeroes makes the range read as zeros, and keeps its space for later
	// writes if it can.
	WriteZeroes(off, length int64) error
}

// CheckRange returns an error unless [off, off+length) lies within size bytes.
func CheckRange(off, length, size int64) error {
	if off < 0 || length < 0 || off > size || length > size-off {
		return fmt.Errorf("%d bytes at %d are not within %d", length, off, size)
	}
	return nil
}
