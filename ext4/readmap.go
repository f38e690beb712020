package ext4

import "math"

// A run says where blocks of a file lie: count of them from the one that was
// asked for on, from start on the device or, if start is 0, nowhere: they read
// as zeros.
type run struct{ start, count uint64 }

// endless is the count of a hole that reaches to the end of any file.
const endless = math.MaxInt64

// mapRun finds block logical of a file. Neighbours on the device are given as
// one run as far as that costs no further block; count is never 0.
func (fsys *FS) mapRun(v *inodeView, logical uint64) (run, error) {
	if v.Flags&flagExtents != 0 {
		return fsys.mapExtent(v, logical)
	}
	return fsys.mapIndirect(v, logical)
}

// checkRun says whether a file can have these blocks.
func (s *superView) checkRun(start, count uint64) bool {
	return start > s.firstBlock && start < s.blocks && count <= s.blocks-start
}

// eachRun calls fn for each run of the file's blocks up to its size, holes
// too. It fails, rather than loop for long, on a file with more blocks than
// the device.
func (fsys *FS) eachRun(v *inodeView, fn func(logical uint64, r run) error) error {
	blocks := fsys.fileBlocks(v)
	// Every second run is a hole at most, but for a split at each block that
	// describes the file.
	left, budget := fsys.super.blocks, 4*fsys.super.blocks+16
	for logical := uint64(0); logical < blocks; {
		r, err := fsys.mapRun(v, logical)
		if err != nil {
			return err
		}
		r.count = min(r.count, blocks-logical)
		if budget--; budget == 0 || r.start != 0 && r.count > left {
			return v.damaged("has more blocks than the device")
		}
		if r.start != 0 {
			left -= r.count
		}
		if err := fn(logical, r); err != nil {
			return err
		}
		logical += r.count
	}
	return nil
}

// fileBlocks is the size of a file in blocks.
func (fsys *FS) fileBlocks(v *inodeView) uint64 {
	size := uint64(fsys.super.blockSize)
	return (uint64(v.Size) + size - 1) / size
}
