package ext4

import "fmt"

// file is an inode that passed all checks, ready to be stored.
type file struct {
	number  uint32
	dir     bool
	inode   *rawInode
	xattrs  *xattrs
	mapped  bool     // the block area is an extent tree
	extents []Extent // of a regular file
	// blocks is how many blocks of the metadata area the contents take, and
	// write gives them to put in their order.
	blocks uint64
	write  func(put func(p []byte) error) error
}

// newFile makes an inode of any type but a directory.
func (w *Writer) newFile(ino *Inode) (*file, error) {
	kind := ino.Mode & ModeType
	if ino.Number < FirstInode || kind == ModeDir || direntType(kind) == 0 {
		return nil, fmt.Errorf("%w: number %d with mode %#o", ErrInode, ino.Number, ino.Mode)
	}
	if ino.Links == 0 || ino.Links > MaxLinks {
		return nil, fmt.Errorf("%w: %d links", ErrInode, ino.Links)
	}
	f, err := w.newInode(ino, ino.Links)
	if err != nil {
		return nil, err
	}
	if kind != ModeChar && kind != ModeBlock && ino.Major|ino.Minor != 0 || kind != ModeSymlink && ino.Target != "" {
		return nil, fmt.Errorf("%w: mode %#o with a device number or target", ErrInode, ino.Mode)
	}
	switch kind {
	case ModeRegular:
		err = w.setData(f, ino)
	case ModeSymlink:
		err = setTarget(f, ino)
	default:
		if ino.Size != 0 || len(ino.Extents) != 0 || ino.Major >= 1<<12 || ino.Minor >= 1<<20 {
			err = fmt.Errorf("%w: special file of %d bytes with device number %d, %d", ErrInode, ino.Size, ino.Major, ino.Minor)
		}
		f.inode.setDevice(ino.Major, ino.Minor)
	}
	return f, err
}

// newDir makes a directory.
func (w *Writer) newDir(ino *Inode, parent uint32, entries []Dirent) (*file, error) {
	if ino.Mode&ModeType != ModeDir || ino.Number < FirstInode && ino.Number != RootInode {
		return nil, fmt.Errorf("%w: number %d with mode %#o", ErrInode, ino.Number, ino.Mode)
	}
	if root := ino.Number == RootInode; parent < FirstInode && parent != RootInode || parent > w.alloc.inodes() ||
		root != (parent == ino.Number) {
		return nil, fmt.Errorf("%w: parent %d", ErrInode, parent)
	}
	if ino.Size != 0 || len(ino.Extents) != 0 || ino.Major|ino.Minor != 0 || ino.Target != "" {
		return nil, fmt.Errorf("%w: directory with data", ErrInode)
	}
	for i := range entries {
		if n := entries[i].Number; n < FirstInode || n > w.alloc.inodes() {
			return nil, fmt.Errorf("%w: %.300q is inode %d", ErrDirent, entries[i].Name, n)
		}
	}
	d, err := newDirectory(ino.Number, parent, entries, w.hashState, w.config.ChecksumSeed)
	if err != nil {
		return nil, err
	}
	f, err := w.newInode(ino, d.links())
	if err != nil {
		return nil, err
	}
	f.dir, f.mapped, f.blocks, f.write = true, true, d.blocks(), d.write
	f.inode.setSize(int64(f.blocks) * BlockSize)
	if d.hashed() {
		f.inode.addFlags(flagIndex)
	}
	return f, nil
}

// newInode makes what inodes of all types have.
func (w *Writer) newInode(ino *Inode, links uint32) (*file, error) {
	if ino.Number > w.alloc.inodes() {
		return nil, fmt.Errorf("%w: number %d of %d", ErrInode, ino.Number, w.alloc.inodes())
	}
	if w.alloc.inodeUsed(ino.Number) {
		return nil, fmt.Errorf("%w: number %d is in use already", ErrInode, ino.Number)
	}
	if err := checkTime(ino.MTime); err != nil {
		return nil, err
	}
	x, err := encodeXattrs(ino.Xattrs)
	if err != nil {
		return nil, err
	}
	f := &file{number: ino.Number, inode: newRawInode(ino, links), xattrs: x}
	copy(f.inode[bodyAttrs:], x.body[:])
	return f, nil
}

// setData gives a regular file its extents.
func (w *Writer) setData(f *file, ino *Inode) error {
	if ino.Size < 0 || ino.Size > maxFileBlocks*BlockSize {
		return fmt.Errorf("%w: size %d", ErrInode, ino.Size)
	}
	blocks := (uint64(ino.Size) + BlockSize - 1) / BlockSize
	var err error
	f.extents, err = cutExtents(ino.Extents, blocks, w.alloc.low, w.alloc.high)
	f.mapped = true
	f.inode.setSize(ino.Size)
	return err
}

// setTarget puts a short target into the inode, a long one into a block.
func setTarget(f *file, ino *Inode) error {
	size := int64(len(ino.Target))
	if ino.Size != 0 && ino.Size != size || len(ino.Extents) != 0 {
		return fmt.Errorf("%w: symbolic link with data", ErrInode)
	}
	if err := checkTarget(ino.Target); err != nil {
		return err
	}
	f.inode.setSize(size)
	if size < inodeBlockSize { // a NUL has to follow
		copy(f.inode.blockArea(), ino.Target)
		return nil
	}
	f.mapped, f.blocks = true, 1
	f.write = func(put func(p []byte) error) error {
		p := make([]byte, BlockSize)
		copy(p, ino.Target)
		return put(p)
	}
	return nil
}

// store takes all blocks of a file and writes it.
func (w *Writer) store(f *file) error {
	start, extents := w.next, f.extents
	if f.blocks > 0 {
		extents = appendExtent(nil, Extent{0, uint32(f.blocks), start})
	}
	tree := newExtentTree(extents)
	meta := f.blocks + uint64(tree.nodes())
	if f.xattrs.block != nil {
		meta++
	}
	if err := w.claim(f, meta); err != nil {
		return w.fail(fmt.Errorf("ext4: inode %d: %w", f.number, err))
	}
	put := func(p []byte) error {
		w.next++
		return w.out.writeBlock(p, w.next-1)
	}
	var err error
	if f.blocks > 0 {
		err = f.write(put)
	}
	if err == nil && f.mapped {
		err = w.putTree(f, &tree, w.next, put)
	}
	if err == nil && f.xattrs.block != nil {
		f.inode.setXattrBlock(w.next)
		sealXattrs(f.xattrs.block, w.config.ChecksumSeed, w.next)
		err = put(f.xattrs.block)
	}
	if err == nil {
		f.inode.setBlocks(meta + dataBlocks(f.extents))
		err = w.putInode(f.number, f.inode)
	}
	if err != nil {
		return w.fail(fmt.Errorf("ext4: inode %d: %w", f.number, err))
	}
	return nil
}

// claim takes the inode, the blocks of its data and a number of blocks from the
// metadata area.
func (w *Writer) claim(f *file, meta uint64) error {
	if meta > 0 {
		if err := w.checkMeta(meta); err != nil {
			return err
		}
		if err := w.alloc.claim(Range{w.next, meta}); err != nil {
			return err
		}
	}
	for _, e := range f.extents {
		if err := w.alloc.claim(Range{e.Start, uint64(e.Count)}); err != nil {
			return err
		}
	}
	w.alloc.claimInode(f.number, f.dir)
	return nil
}

// putTree writes an extent tree whose nodes lie from block first on.
func (w *Writer) putTree(f *file, t *extentTree, first uint64, put func(p []byte) error) error {
	f.inode.addFlags(flagExtents)
	return t.encode(f.inode.blockArea(), inodeSeed(w.config.ChecksumSeed, f.number),
		func(node int) uint64 { return first + uint64(node) },
		func(p []byte, _ uint64) error { return put(p) })
}

// putInode finishes an inode and stores it.
func (w *Writer) putInode(number uint32, inode *rawInode) error {
	inode.seal(inodeSeed(w.config.ChecksumSeed, number))
	return w.table.put(number, inode)
}

func dataBlocks(extents []Extent) uint64 {
	var n uint64
	for _, e := range extents {
		n += uint64(e.Count)
	}
	return n
}
