package ext4

import "encoding/binary"

// The journal is empty: of its blocks only the first is stored, the journal's
// superblock. A kernel that mounts the file system for writing turns on the
// journal's checksums itself.
const (
	journalMagic       = 0xc03b3998
	journalSuperV2     = 4
	journalSuperSize   = 1024
	journalBackupBlock = 1 // the superblock's copy of the inode is of its block area
)

func (w *Writer) journalInode() *rawInode {
	g := &w.alloc.geometry
	size := int64(g.journalBlocks) * BlockSize
	r := newRawInode(&Inode{Mode: ModeRegular | 0o600, MTime: w.config.Created}, 1)
	r.setSize(size)
	r.setBlocks(uint64(g.journalBlocks))
	r.addFlags(flagExtents)
	tree := newExtentTree(appendExtent(nil, Extent{0, g.journalBlocks, g.journal}))
	tree.encodeNode(r.blockArea(), 0, 0, extentsInInode, 0, nil) // no nodes: see MaxJournalBlocks
	return r
}

func (w *Writer) writeJournal() error {
	be := binary.BigEndian
	p := make([]byte, journalSuperSize)
	be.PutUint32(p[0x00:], journalMagic)
	be.PutUint32(p[0x04:], journalSuperV2)
	be.PutUint32(p[0x0c:], BlockSize)
	be.PutUint32(p[0x10:], w.alloc.journalBlocks)
	be.PutUint32(p[0x14:], 1) // first block of the log
	be.PutUint32(p[0x18:], 1) // first transaction to be expected
	be.PutUint32(p[0x40:], 1) // file systems that use it
	if err := w.out.writeBlock(p, w.alloc.journal); err != nil {
		return err
	}
	return w.putInode(JournalInode, w.journalInode())
}
