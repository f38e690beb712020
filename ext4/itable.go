package ext4

import (
	"io"
	"math/bits"
)

const (
	pageInodes = 512 // 128 KiB of inode table
	pageSize   = pageInodes * InodeSize
	maxPages   = 64 // 8 MiB in memory
)

// inodeTable collects inodes in pages, so that those that come in any order of
// ranges leave in large writes. It never writes an inode that it was not given.
type inodeTable struct {
	w     io.WriterAt
	start int64 // of the first group's table on the device, in bytes
	pages map[uint32]*tablePage
	order []uint32     // of pages, the one longest in memory first
	spare []*tablePage // emptied ones to be used again
}

type tablePage struct {
	dirty [pageInodes / 64]uint64
	data  [pageSize]byte
}

func newInodeTable(w io.WriterAt, start uint64) *inodeTable {
	return &inodeTable{w: w, start: int64(start) * BlockSize, pages: make(map[uint32]*tablePage)}
}

// put stores an inode. The tables of all groups follow one another on the
// device, so that a number alone gives the place.
func (t *inodeTable) put(number uint32, inode *rawInode) error {
	n, i := (number-1)/pageInodes, (number-1)%pageInodes
	p := t.pages[n]
	if p == nil {
		if len(t.order) == maxPages {
			if err := t.evict(); err != nil {
				return err
			}
		}
		if k := len(t.spare); k > 0 {
			p, t.spare = t.spare[k-1], t.spare[:k-1]
		} else {
			p = new(tablePage)
		}
		t.pages[n] = p
		t.order = append(t.order, n)
	}
	p.dirty[i/64] |= 1 << (i % 64)
	copy(p.data[i*InodeSize:], inode[:])
	return nil
}

// evict writes the page that has been in memory longest.
func (t *inodeTable) evict() error {
	n := t.order[0]
	t.order = t.order[1:]
	p := t.pages[n]
	delete(t.pages, n)
	base := t.start + int64(n)*pageSize
	for i := p.next(0, 0); i < pageInodes; {
		end := p.next(i, ^uint64(0))
		if _, err := t.w.WriteAt(p.data[i*InodeSize:end*InodeSize], base+int64(i)*InodeSize); err != nil {
			return err
		}
		i = p.next(end, 0)
	}
	p.dirty = [pageInodes / 64]uint64{}
	t.spare = append(t.spare, p)
	return nil
}

// next is the first inode from i on that is in the page, or with flip all ones
// the first that is not.
func (p *tablePage) next(i int, flip uint64) int {
	for ; i < pageInodes; i = (i/64 + 1) * 64 {
		if word := (p.dirty[i/64] ^ flip) >> (i % 64); word != 0 {
			return i + bits.TrailingZeros64(word)
		}
	}
	return pageInodes
}

func (t *inodeTable) flush() error {
	for len(t.order) > 0 {
		if err := t.evict(); err != nil {
			return err
		}
	}
	return nil
}
