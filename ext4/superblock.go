package ext4

const (
	superStateClean   = 1
	superErrorsGoOn   = 1
	superUnsignedHash = 2
	superMountOpts    = 0xc // extended attributes and ACLs
	superFlexShift    = 4   // 16 groups; the layout needs no more than the feature
	superCRC32C       = 1
)

// superblock gives the finished file system's superblock.
func (w *Writer) superblock() []byte {
	c, a := &w.config, w.alloc
	p := make([]byte, superSize)
	freeBlocks, freeInodes := a.free()
	put32 := func(v uint32, at ...int) {
		for _, i := range at {
			le.PutUint32(p[i:], v)
		}
	}
	put32(a.inodes(), 0x00)
	put32(uint32(a.blocks), 0x04)
	put32(uint32(a.blocks>>32), 0x150)
	put32(uint32(freeBlocks), 0x0c)
	put32(uint32(freeBlocks>>32), 0x158)
	put32(freeInodes, 0x10)
	put32(2, 0x18, 0x1c) // logarithm of the block and the cluster size, less 10
	put32(BlocksPerGroup, 0x20, 0x24)
	put32(a.inodesPerGroup, 0x28)
	put32(uint32(c.Created.Sec), 0x30, 0x40, 0x108) // written, checked, made
	for _, i := range [...]int{0x274, 0x276, 0x277} {
		p[i] = uint8(c.Created.Sec >> 32)
	}
	le.PutUint16(p[0x36:], 0xffff) // mounts until a check: no limit
	le.PutUint16(p[0x38:], superMagic)
	le.PutUint16(p[0x3a:], superStateClean)
	le.PutUint16(p[0x3c:], superErrorsGoOn)
	put32(1, 0x4c) // revision
	put32(FirstInode, 0x54)
	le.PutUint16(p[0x58:], InodeSize)
	put32(compatHasJournal|compatExtAttr|compatDirIndex|compatSparseSuper2, 0x5c)
	put32(incompatFiletype|incompatExtents|incompat64Bit|incompatFlexBG|incompatCsumSeed, 0x60)
	put32(roCompatLargeFile|roCompatHugeFile|roCompatDirNlink|roCompatExtraIsize|roCompatMetadataCsum, 0x64)
	copy(p[0x68:0x78], c.UUID[:])
	copy(p[0x78:0x88], c.Label)
	put32(JournalInode, 0xe0)
	copy(p[0xec:0xfc], c.HashSeed[:])
	p[0xfc] = hashHalfMD4
	p[0xfd] = journalBackupBlock
	le.PutUint16(p[0xfe:], descSize)
	put32(superMountOpts, 0x100)
	journal := w.journalInode()
	copy(p[0x10c:0x10c+inodeBlockSize], journal.blockArea())
	put32(le.Uint32(journal[inodeSizeHigh:]), 0x148)
	put32(le.Uint32(journal[inodeSizeLow:]), 0x14c)
	le.PutUint16(p[0x15c:], extraSize)
	le.PutUint16(p[0x15e:], extraSize)
	put32(superUnsignedHash, 0x160)
	p[0x174] = superFlexShift
	p[0x175] = superCRC32C
	put32(uint32(min(a.overhead(), 1<<32-1)), 0x248)
	put32(c.ChecksumSeed, 0x270)
	put32(crc32c(^uint32(0), p[:superSize-4]), superSize-4)
	return p
}
