package blockdevtest

import (
	"fmt"
	"os"

	"github.com/rivuletfs/rivulet/blockdev"
)

// A File is a device that can be written, with its bytes in a file as they are. What
// was written survives the end of the process.
type File struct {
	*blockdev.Flat
	f *os.File
}

var _ blockdev.Writer = (*File)(nil)

// NewFile returns the device of the first size bytes of f, which it does not close.
func NewFile(f *os.File, size int64) *File { return &File{blockdev.NewFlat(f, size), f} }

// WriteAt writes as blockdev.Writer says.
func (d *File) WriteAt(p []byte, off int64) (int, error) {
	if err := blockdev.CheckRange(off, int64(len(p)), d.Size()); err != nil {
		return 0, fmt.Errorf("write device: %w", err)
	}
	return d.f.WriteAt(p, off)
}

// Flush syncs the file.
func (d *File) Flush() error { return d.f.Sync() }

// Discard writes zeros: the file keeps its space.
func (d *File) Discard(off, length int64) error { return d.WriteZeroes(off, length) }

// WriteZeroes writes zeros.
func (d *File) WriteZeroes(off, length int64) error {
	if err := blockdev.CheckRange(off, length, d.Size()); err != nil {
		return fmt.Errorf("write zeroes: %w", err)
	}
	var zeros [64 << 10]byte
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if _, err := d.f.WriteAt(zeros[:n], off); err != nil {
			return err
		}
		off += n
		length -= n
	}
	return nil
}
