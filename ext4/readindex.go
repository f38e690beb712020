package ext4

import "sort"

// maxIndexLevels is how many levels of nodes a hash tree has at most between
// its root and its leaves.
const maxIndexLevels = 2

// Offsets in the root's block of what says how names are hashed.
const (
	indexHashVersion = 28
	indexLevels      = 30
)

// isIndexNode says whether a block is a node of a hash tree: to those who do
// not know hash trees it is an unused entry.
func isIndexNode(p []byte) bool {
	return le.Uint32(p) == 0 && direntLength(p) == len(p)
}

// checkIndexBlock compares the checksum of a root or node whose entries begin
// at start.
func checkIndexBlock(p []byte, start int, seed uint32) bool {
	limit, count := int(le.Uint16(p[start:])), int(le.Uint16(p[start+2:]))
	tail := start + limit*indexEntrySize
	if count > limit || tail+indexTailSize > len(p) {
		return false
	}
	sum := crc32c(seed, p[:start+count*indexEntrySize])
	sum = crc32c(sum, p[tail:tail+4])
	return crc32c(sum, make([]byte, 4)) == le.Uint32(p[tail+4:])
}

// An indexLookup is the search for a name in a hash tree.
type indexLookup struct {
	fsys   *FS
	v      *inodeView
	name   string
	hash   uint32
	leaves uint64 // that may still be looked at
}

// lookupIndex finds a name by its hash. It is not ok if there is no hash tree,
// or one of hashes that this package does not compute.
func (fsys *FS) lookupIndex(v *inodeView, name string) (number uint32, ok bool, err error) {
	s := fsys.super
	if v.Flags&flagIndex == 0 || v.Flags&flagInlineData != 0 || s.compat&compatDirIndex == 0 {
		return 0, false, nil
	}
	l := indexLookup{fsys: fsys, v: v, name: name, leaves: fsys.fileBlocks(v)}
	root, err := l.block(0)
	if err != nil {
		return 0, false, err
	}
	levels := int(root[indexLevels])
	if root[indexHashVersion] != hashHalfMD4 || levels > maxIndexLevels {
		return 0, false, nil
	}
	if s.hashSigned {
		l.hash = hashSigned(name, s.hashState)
	} else {
		l.hash, _ = hashName(name, s.hashState)
	}
	number, _, err = l.search(root, rootIndexStart, levels)
	return number, err == nil, err
}

// hashSigned is hashName for file systems made where char is signed: mke2fs
// notes that of the machine it runs on.
func hashSigned(name string, state [4]uint32) uint32 {
	for left := name; len(left) > 0; left = left[min(32, len(left)):] {
		var words [8]uint32
		pad := uint32(len(left))
		pad |= pad << 8
		pad |= pad << 16
		for w := range words {
			words[w] = pad
			for i := 4 * w; i < min(len(left), 4*w+4); i++ {
				words[w] = words[w]<<8 + uint32(int8(left[i]))
			}
		}
		halfMD4(&state, &words)
	}
	hash := state[1] &^ 1
	if hash == hashEnd {
		hash -= 2
	}
	return hash
}

// block reads one of the directory's.
func (l *indexLookup) block(logical uint64) ([]byte, error) {
	if n := l.fsys.fileBlocks(l.v); logical >= n {
		return nil, l.v.damaged("hash tree leads to block %d of %d", logical, n)
	}
	r, err := l.fsys.mapRun(l.v, logical)
	if err != nil {
		return nil, err
	}
	return l.fsys.readDirBlock(l.v, logical, r.start)
}

// search looks below the node p, whose entries begin at start. More says that
// the name may be in the next node too: names of the same hash may.
func (l *indexLookup) search(p []byte, start, levels int) (number uint32, more bool, err error) {
	count := int(le.Uint16(p[start+2:]))
	if count == 0 || start+count*indexEntrySize > len(p) {
		return 0, false, l.v.damaged("hash tree with a node of %d entries", count)
	}
	entry := func(i int) []byte { return p[start+i*indexEntrySize:] }
	i := sort.Search(count-1, func(i int) bool { return le.Uint32(entry(i+1)) > l.hash })
	for {
		child, err := l.block(uint64(le.Uint32(entry(i)[4:]) & 0x0fffffff))
		if err != nil {
			return 0, false, err
		}
		if levels > 0 {
			if number, more, err = l.search(child, nodeIndexStart, levels-1); !more {
				return number, false, err
			}
		} else if number, err = l.searchLeaf(child); number != 0 || err != nil {
			return number, false, err
		}
		if i++; i == count {
			return 0, true, nil
		}
		if le.Uint32(entry(i)) != l.hash|1 {
			return 0, false, nil
		}
	}
}

func (l *indexLookup) searchLeaf(p []byte) (uint32, error) {
	if l.leaves == 0 {
		return 0, l.v.damaged("hash tree with more leaves than blocks")
	}
	l.leaves--
	for len(p) > 0 {
		e, name, size, err := l.fsys.super.decodeDirent(l.v, p)
		if err != nil {
			return 0, err
		}
		if e.number != 0 && string(name) == l.name {
			return e.number, nil
		}
		p = p[size:]
	}
	return 0, nil
}
