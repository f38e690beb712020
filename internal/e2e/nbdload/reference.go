package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
)

// How lseek asks for data and holes on Linux.
const (
	seekData = 3
	seekHole = 4
)

// A read is of block << 0 to block << 5 bytes.
const (
	block = 4096
	sizes = 6
)

// An extent is bytes of a disk.
type extent struct{ offset, length int64 }

// A reference is a file with what a disk has to hold.
type reference struct {
	file *os.File
	data []extent // outside of holes
	size int64    // of data together
}

// openReference opens a file and finds its data.
func openReference(path string) (*reference, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := &reference{file: f}
	for off := int64(0); ; {
		begin, err := f.Seek(off, seekData)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: find data: %w", path, err)
		}
		if off, err = f.Seek(begin, seekHole); err != nil {
			return nil, fmt.Errorf("%s: find holes: %w", path, err)
		}
		r.data = append(r.data, extent{begin, off - begin})
		r.size += off - begin
	}
	if r.size == 0 {
		return nil, fmt.Errorf("%s: no data", path)
	}
	return r, nil
}

// ranges picks n ranges of 4 to 128 KiB in data, shorter where data ends. Each
// begins at a block.
func (r *reference) ranges(random *rand.Rand, n int) []extent {
	list := make([]extent, n)
	for i := range list {
		at := random.Int64N(r.size)
		for _, x := range r.data {
			if at >= x.length {
				at -= x.length
				continue
			}
			at &^= block - 1
			list[i] = extent{x.offset + at, min(block<<random.IntN(sizes), x.length-at)}
			break
		}
	}
	return list
}
