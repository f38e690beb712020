package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

	"github.com/rivuletfs/rivulet/blockdev"
	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/host"
)

// maxExplained is how much of a long read is looked up, in bytes; of all reads
// together, ext4.MaxOwned blocks at most.
const maxExplained = 1 << 20

// nameReads finds what reads of an attached disk are of. It opens the disk as the
// agent has: from the same store, the very image, with the same identities.
func (a *app) nameReads(ctx context.Context, i *host.Info, reads []explainedRead) error {
	a.hostCache(ctx) // before the copy: it is closed with a
	as := *a
	as.storeURL, as.required = i.Spec.Store, i.Spec.Required
	if len(i.Spec.Identities) > 0 {
		as.identities = i.Spec.Identities
	}
	view, err := as.openView(ctx)
	if err != nil {
		return err
	}
	image, err := as.open(ctx, view, i.Digest)
	if err != nil {
		return err
	}
	d, err := as.openDisk(ctx, image, i.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	ahead := &readAhead{ReaderAt: d, device: d, ctx: ctx}
	fsys, err := ext4.Open(ahead, d.Size())
	if err != nil {
		return err
	}
	owners, err := fsys.Owners(ctx, blocksOf(reads, fsys.BlockSize()))
	if err != nil {
		return err
	}
	for n := range reads {
		reads[n].Parts = partsOf(&reads[n].SlowRead, owners, int64(fsys.BlockSize()))
	}
	return nil
}

// looked is the part of a read that is looked up.
func looked(r *host.SlowRead) (off, end int64) {
	return max(0, r.Offset), max(0, r.Offset) + int64(min(r.Length, maxExplained))
}

// blocksOf returns the blocks that are looked up.
func blocksOf(reads []explainedRead, blockSize int) []ext4.Range {
	size := int64(blockSize)
	list := make([]ext4.Range, 0, len(reads))
	for i := range reads {
		off, end := looked(&reads[i].SlowRead)
		first := off / size
		list = append(list, ext4.Range{Start: uint64(first), Count: uint64((end+size-1)/size - first)})
	}
	return list
}

// partsOf says what a read was of, the most bytes first. owners are by rising Start.
func partsOf(r *host.SlowRead, owners []ext4.Owner, blockSize int64) []readPart {
	off, end := looked(r)
	parts := []readPart{}
	i := sort.Search(len(owners), func(i int) bool { return int64(owners[i].Start+owners[i].Count)*blockSize > off })
	for ; i < len(owners); i++ {
		o := &owners[i]
		start := int64(o.Start) * blockSize
		from, to := max(off, start), min(end, start+int64(o.Count)*blockSize)
		if from >= to {
			break
		}
		p := readPart{Use: o.Use.String(), Inode: o.Inode, Offset: int64(o.Logical)*blockSize + from - start, Length: to - from}
		if o.Use == ext4.InodeTable {
			p.Inode += uint32((from - start) / ext4.InodeSize)
		}
		if o.Path != "" {
			p.Path = "/" + o.Path
			if o.Path == "." {
				p.Path = "/"
			}
		}
		parts = append(parts, p)
	}
	slices.SortStableFunc(parts, func(a, b readPart) int { return cmp.Compare(b.Length, a.Length) })
	return parts
}

// How a readAhead reads, in bytes.
const (
	aheadUnit  = 512 << 10
	aheadUnits = 8
)

// readAhead has a device fetch what follows while its blocks are read one after the
// other, as those of inode tables are, so that a far store answers several requests
// at a time.
type readAhead struct {
	io.ReaderAt
	device blockdev.Prefetcher // nil: nothing is fetched before it is read
	ctx    context.Context

	mu   sync.Mutex
	unit int64 // that was read last
	next int64 // first unit that was not asked for in this run
}

// ReadAt implements [io.ReaderAt].
func (r *readAhead) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("read disk: %w", err)
	}
	unit := off / aheadUnit
	r.mu.Lock()
	last := r.unit
	r.unit = unit
	from, to := max(r.next, unit+1), unit+1+aheadUnits
	if unit == last+1 && from < to {
		r.next = to
	} else {
		to = from
	}
	if unit != last && unit != last+1 {
		r.next = 0
	}
	r.mu.Unlock()
	if from < to && r.device != nil {
		_ = r.device.Prefetch(r.ctx, from*aheadUnit, (to-from)*aheadUnit) // reading tells what fails
	}
	return r.ReaderAt.ReadAt(p, off)
}
