package ext4

import (
	"bytes"
	"fmt"
)

// readData fills p with the contents of v from off on, which has to lie below
// its size together with p.
func (fsys *FS) readData(v *inodeView, p []byte, off int64) error {
	if v.Flags&flagInlineData != 0 {
		data, err := v.inline()
		if err != nil {
			return err
		}
		copy(p, data[off:])
		return nil
	}
	size := int64(fsys.super.blockSize)
	for len(p) > 0 {
		r, err := fsys.mapRun(v, uint64(off/size))
		if err != nil {
			return err
		}
		n := int(min(int64(len(p)), int64(min(r.count, extentBlockEnd))*size-off%size))
		if r.start == 0 {
			clear(p[:n])
		} else if err := readFull(fsys.r, p[:n], int64(r.start)*size+off%size); err != nil {
			return fmt.Errorf("ext4: read inode %d at %d: %w", v.Number, off, err)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// inline gives the contents of a file that is kept in its inode: what fits in
// place of the extents, then an attribute.
func (v *inodeView) inline() ([]byte, error) {
	rest, err := v.inlineRest()
	if err != nil {
		return nil, err
	}
	data := append(v.area[:len(v.area):len(v.area)], rest...)
	if v.Size > int64(len(data)) {
		return nil, v.damaged("%d of %d bytes are in the inode", len(data), v.Size)
	}
	return data[:v.Size], nil
}

// readTarget gives where a symbolic link leads to.
func (fsys *FS) readTarget(v *inodeView) (string, error) {
	if v.Size == 0 || v.Size >= maxTarget {
		return "", v.damaged("symbolic link of %d bytes", v.Size)
	}
	target := make([]byte, v.Size)
	if v.Size < inodeBlockSize && v.Flags&flagInlineData == 0 {
		copy(target, v.area[:])
	} else if err := fsys.readData(v, target, 0); err != nil {
		return "", err
	}
	if bytes.IndexByte(target, 0) >= 0 {
		return "", v.damaged("symbolic link with a zero byte")
	}
	return string(target), nil
}

// maxTarget is a bound for the length of a symbolic link's target in bytes,
// the kernel's for any path.
const maxTarget = 4096
