package ext4

import "context"

// claimGroups claims what the format itself takes.
func (fsys *FS) claimGroups(ctx context.Context, c *claims) error {
	s := fsys.super
	super := superOffset / uint64(s.blockSize)
	perBlock := uint64(s.blockSize / s.descSize)
	descs := (s.groups + perBlock - 1) / perBlock // behind each superblock
	if s.incompat&incompatMetaBG != 0 {
		descs = min(descs, s.firstMetaBG)
	}
	inTable := uint32(s.blockSize / s.inodeSize) // inodes of a block
	for n := range s.groups {
		if c.left == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.groupHasSuper(n) {
			first := super + n*s.blocksPerGroup
			c.claim(Owner{Range: Range{first, 1}, Use: Super})
			c.claim(Owner{Range: Range{first + 1, descs}, Use: Descriptors})
		}
		c.claim(Owner{Range: Range{s.descBlock(n), 1}, Use: Descriptors})
		g, err := fsys.group(n)
		if err != nil {
			return err
		}
		c.claim(Owner{Range: Range{g.blockBitmap, 1}, Use: BlockBitmap})
		c.claim(Owner{Range: Range{g.inodeBitmap, 1}, Use: InodeBitmap})
		for i := uint32(0); i < s.inodesPerGroup; i += inTable {
			c.claim(Owner{
				Range: Range{g.table + uint64(i/inTable), 1}, Use: InodeTable,
				Inode: uint32(n)*s.inodesPerGroup + i + 1, Logical: i / inTable,
			})
		}
	}
	return nil
}

// claimInodes claims the blocks of all inodes, until every block has an owner.
func (fsys *FS) claimInodes(ctx context.Context, c *claims) error {
	s := fsys.super
	for n := range s.groups {
		g, err := fsys.group(n)
		if err != nil {
			return err
		}
		for i := range g.inodes {
			if c.left == 0 {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			raw, err := fsys.rawInode(g, i)
			if err != nil {
				return err
			}
			if le.Uint16(raw[inodeMode:]) == 0 || le.Uint16(raw[inodeLinks:]) == 0 {
				continue // not in use
			}
			v := &inodeView{Stat: Stat{Number: uint32(n)*s.inodesPerGroup + i + 1}}
			if err := s.decodeInode(v, raw); err != nil {
				return err
			}
			if err := fsys.claimInode(c, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// resizeInode keeps room for group descriptors. Its file is as large as they
// might become, and has its own blocks as contents.
const resizeInode = 7

// claimInode claims what belongs to one inode.
func (fsys *FS) claimInode(c *claims, v *inodeView) error {
	own := func(u Use, start, count, logical uint64) {
		c.claim(Owner{Range: Range{start, count}, Use: u, Inode: v.Number, Logical: uint32(logical)})
	}
	if v.xattrBlock != 0 {
		own(Attributes, v.xattrBlock, 1, 0)
	}
	if !fsys.hasBlocks(v) || v.Number == resizeInode {
		return nil
	}
	use := v.use(fsys.super.firstInode)
	err := fsys.eachRun(v, func(logical uint64, r run) error {
		if r.start != 0 {
			own(use, r.start, r.count, logical)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fsys.eachMapNode(v, func(block uint64) { own(MapNode, block, 1, 0) })
}

// use says what v's contents are.
func (v *inodeView) use(firstInode uint32) Use {
	switch {
	case v.Number == BootLoaderInode:
		return Slack
	case v.Number == JournalInode:
		return Journal
	case v.isDir():
		return DirectoryData
	case v.Number < firstInode:
		return Reserved
	case v.isSymlink():
		return LinkTarget
	}
	return FileData
}

// eachMapNode calls fn for each block that says where v's blocks lie.
func (fsys *FS) eachMapNode(v *inodeView, fn func(block uint64)) error {
	left := fsys.super.blocks
	node := func(block uint64) error {
		if left--; left == 0 {
			return v.damaged("is described by more blocks than the device has")
		}
		fn(block)
		return nil
	}
	if v.Flags&flagExtents == 0 {
		for level := range indirectLevels {
			if err := fsys.indirectNodes(v, le.Uint32(v.area[4*(directBlocks+level):]), level, node); err != nil {
				return err
			}
		}
		return nil
	}
	root, err := fsys.extentRoot(v)
	if err != nil {
		return err
	}
	return fsys.extentNodes(v, root, extentBlockEnd, node)
}

// extentNodes calls fn for the nodes below n, whose entries end before high.
func (fsys *FS) extentNodes(v *inodeView, n extentView, high uint64, fn func(block uint64) error) error {
	if n.depth == 0 {
		return nil
	}
	for i := range n.count {
		if err := fn(n.child(i)); err != nil {
			return err
		}
		if n.depth == 1 {
			continue
		}
		end := high
		if i+1 < n.count {
			end = n.logical(i + 1)
		}
		child, err := fsys.extentChild(v, n, i, n.logical(i), end)
		if err == nil {
			err = fsys.extentNodes(v, child, end, fn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// indirectNodes calls fn for a block of pointers and those it leads to, which
// are level deep.
func (fsys *FS) indirectNodes(v *inodeView, block uint32, level int, fn func(block uint64) error) error {
	if block == 0 {
		return nil
	}
	if !fsys.super.checkRun(uint64(block), 1) {
		return v.damaged("pointer to block %d of %d", block, fsys.super.blocks)
	}
	if err := fn(uint64(block)); err != nil || level == 0 {
		return err
	}
	p, err := fsys.readBlock(blockKey{block: uint64(block), kind: indirectBlock}, nil)
	if err != nil {
		return err
	}
	for ; len(p) >= 4; p = p[4:] {
		if err := fsys.indirectNodes(v, le.Uint32(p), level-1, fn); err != nil {
			return err
		}
	}
	return nil
}
