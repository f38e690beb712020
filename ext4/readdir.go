package ext4

import (
	"bytes"
	"io"
)

// minDirent is the space of the shortest entry.
const minDirent = 12

// inlineParent is the length of the parent's number, with which a directory
// in an inode begins in place of "." and "..".
const inlineParent = 4

// direntView is an entry of a directory; its mode is 0 if the directory does
// not tell the type.
type direntView struct {
	number uint32
	mode   uint16
	name   string
}

// direntModes has the file type of each number for one in directories.
var direntModes = func() (modes [8]uint16) {
	for m := uint16(ModeFIFO); m <= ModeSocket; m += ModeFIFO {
		modes[direntType(m)] = m
	}
	modes[0] = 0
	return modes
}()

// dirScan reads a directory from its start to its end.
type dirScan struct {
	fsys *FS
	v    *inodeView
	next uint64 // block to read
	r    run    // what is known of where it and those behind it lie
	p    []byte // what is left of the block before
}

func (fsys *FS) scanDir(v *inodeView) (*dirScan, error) {
	if s := fsys.super; fsys.fileBlocks(v) > s.blocks {
		return nil, v.damaged("directory of %d bytes on a device of %d blocks", v.Size, s.blocks)
	}
	return &dirScan{fsys: fsys, v: v}, nil
}

// entry gives the next one but "." and "..", and io.EOF at the end.
func (d *dirScan) entry() (direntView, error) {
	e, name, err := d.unnamed()
	e.name = string(name)
	return e, err
}

// unnamed is entry with the name beside it, which is shared and must not be changed: who
// looks for one name need not copy all.
func (d *dirScan) unnamed() (direntView, []byte, error) {
	for {
		for len(d.p) == 0 {
			if err := d.load(); err != nil {
				return direntView{}, nil, err
			}
		}
		e, name, size, err := d.fsys.super.decodeDirent(d.v, d.p)
		if err != nil {
			return direntView{}, nil, err
		}
		d.p = d.p[size:]
		if e.number != 0 {
			return e, name, nil
		}
	}
}

// load reads the next block.
func (d *dirScan) load() error {
	if d.v.Flags&flagInlineData != 0 {
		return d.loadInline()
	}
	if d.next >= d.fsys.fileBlocks(d.v) {
		return io.EOF
	}
	if d.r.count == 0 {
		var err error
		if d.r, err = d.fsys.mapRun(d.v, d.next); err != nil {
			return err
		}
	}
	p, err := d.fsys.readDirBlock(d.v, d.next, d.r.start)
	if err != nil {
		return err
	}
	d.p = p
	d.next++
	d.r.start++
	d.r.count--
	return nil
}

// loadInline takes the part in place of the extents for the first block, the
// attribute for the second.
func (d *dirScan) loadInline() error {
	first := d.next
	d.next++
	switch first {
	case 0:
		d.p = d.v.area[inlineParent:]
	case 1:
		rest, err := d.v.inlineRest()
		if err != nil {
			return err
		}
		d.p = rest
	default:
		return io.EOF
	}
	return nil
}

// decodeDirent reads the entry at the start of p. Its number is 0 if it is
// unused, "." or "..". Its name is left beside it, a part of p.
func (s *superView) decodeDirent(v *inodeView, p []byte) (e direntView, name []byte, size int, err error) {
	if len(p) < minDirent {
		return e, nil, 0, v.damaged("%d bytes behind the last directory entry", len(p))
	}
	size = direntLength(p)
	length, kind := int(p[6]), p[7]
	if s.incompat&incompatFiletype == 0 {
		kind = 0
	}
	if size < minDirent || size%4 != 0 || size > len(p) || direntSize(length) > size {
		return e, nil, 0, v.damaged("directory entry of %d bytes with a name of %d, %d bytes before the end of the block", size, length, len(p))
	}
	e.number = le.Uint32(p)
	if e.number == 0 {
		return e, nil, size, nil
	}
	name = p[direntHeader : direntHeader+length]
	if string(name) == "." || string(name) == ".." {
		e.number = 0
		return e, nil, size, nil
	}
	if length == 0 || bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0 {
		return e, nil, 0, v.damaged("name %q in a directory", name)
	}
	if e.number < s.firstInode || e.number > s.inodes {
		return e, nil, 0, v.damaged("directory entry %q for inode %d of %d", name, e.number, s.inodes)
	}
	if int(kind) < len(direntModes) {
		e.mode = direntModes[kind]
	}
	return e, name, size, nil
}

// direntLength is how far it is to the next entry. Numbers that are no
// multiple of four stand for those that 16 bits do not hold.
func direntLength(p []byte) int {
	n := int(le.Uint16(p[4:]))
	if n == 0 || n == 1<<16-1 {
		return 1 << 16
	}
	return n&^3 | n&3<<16
}

// readDirBlock reads block logical of a directory, which lies at start.
func (fsys *FS) readDirBlock(v *inodeView, logical, start uint64) ([]byte, error) {
	if start == 0 {
		return nil, v.damaged("block %d of the directory is a hole", logical)
	}
	indexed := v.Flags&flagIndex != 0 && fsys.super.compat&compatDirIndex != 0
	key := blockKey{start, v.Number, dirBlockView}
	if indexed && logical == 0 {
		key.kind = dirRootBlock
	}
	return fsys.readBlock(key, func(p []byte) error {
		if !fsys.super.checksums {
			return nil
		}
		ok := false
		switch {
		case key.kind == dirRootBlock:
			ok = checkIndexBlock(p, rootIndexStart, v.seed)
		case indexed && isIndexNode(p):
			ok = checkIndexBlock(p, nodeIndexStart, v.seed)
		default:
			tail := p[len(p)-dirTailSize:]
			ok = le.Uint32(tail) == 0 && le.Uint16(tail[4:]) == dirTailSize && tail[7] == dirTailType &&
				crc32c(v.seed, p[:len(p)-dirTailSize]) == le.Uint32(tail[8:])
		}
		if !ok {
			return damagedBlock(start, "wrong checksum of block %d of directory inode %d", logical, v.Number)
		}
		return nil
	})
}

// lookup finds a name in a directory. The number is 0 if it is not there.
func (fsys *FS) lookup(v *inodeView, name string) (uint32, error) {
	if len(name) > MaxNameLen {
		return 0, nil
	}
	if number, ok, err := fsys.lookupIndex(v, name); ok || err != nil {
		return number, err
	}
	d, err := fsys.scanDir(v)
	if err != nil {
		return 0, err
	}
	for {
		e, found, err := d.unnamed()
		if err == io.EOF {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		if string(found) == name {
			return e.number, nil
		}
	}
}
