package ext4

import "fmt"

// cut makes leaves of the sorted names and counts the nodes above them.
func (d *directory) cut() error {
	first, used := 0, 0
	for i, n := range d.names {
		size := direntSize(len(d.entries[n.entry].Name))
		if used+size > dirSpace {
			d.leaves = append(d.leaves, leaf{first, i})
			first, used = i, 0
		}
		used += size
	}
	d.leaves = append(d.leaves, leaf{first, len(d.names)})
	if len(d.leaves) > maxIndexLeaves {
		return fmt.Errorf("%w: %d blocks of names, at most %d", ErrDirTooLarge, len(d.leaves), maxIndexLeaves)
	}
	if len(d.leaves) > rootIndexLimit {
		d.nodes = (len(d.leaves) + nodeIndexLimit - 1) / nodeIndexLimit
	}
	return nil
}

// writeIndex gives the root and the nodes to put; p is the block to make them
// in.
func (d *directory) writeIndex(p []byte, put func(p []byte) error) error {
	putDirent(p, d.number, direntSize(1), ModeDir, ".")
	putDirent(p[direntSize(1):], d.parent, BlockSize-direntSize(1), ModeDir, "..")
	info := p[rootIndexStart-8:]
	info[4] = hashHalfMD4
	info[5] = 8 // size of the info
	if d.nodes > 0 {
		info[6] = 1 // levels between the root and the leaves
		d.putIndex(p, rootIndexStart, rootIndexLimit, 1, 0, d.nodes, nodeIndexLimit)
	} else {
		d.putIndex(p, rootIndexStart, rootIndexLimit, 1, 0, len(d.leaves), 1)
	}
	if err := put(p); err != nil {
		return err
	}
	for i := range d.nodes {
		clear(p)
		le.PutUint16(p[4:], BlockSize) // an empty entry over the whole block
		first := i * nodeIndexLimit
		d.putIndex(p, nodeIndexStart, nodeIndexLimit, 1+d.nodes+first, first,
			min(nodeIndexLimit, len(d.leaves)-first), 1)
		if err := put(p); err != nil {
			return err
		}
	}
	return nil
}

// putIndex writes count entries and the checksum into block p from byte start
// on. They lead to the blocks from block on, of which the first begins with
// leaf first and each later one step leaves further.
func (d *directory) putIndex(p []byte, start, limit, block, first, count, step int) {
	for i := range count {
		at := p[start+i*indexEntrySize:]
		le.PutUint32(at[0:], d.leafHash(first+i*step))
		le.PutUint32(at[4:], uint32(block+i))
	}
	// The first entry needs no hash: limit and count stand there.
	le.PutUint16(p[start:], uint16(limit))
	le.PutUint16(p[start+2:], uint16(count))
	sum := crc32c(d.seed, p[:start+count*indexEntrySize])
	var tail [indexTailSize]byte // reserved, and the checksum as zero
	le.PutUint32(p[start+limit*indexEntrySize+4:], crc32c(sum, tail[:]))
}

// leafHash is the least hash in a leaf. Its low bit, which no hash has, says
// that names of the same hash stand in the leaf before too.
func (d *directory) leafHash(i int) uint32 {
	first := d.leaves[i].first
	hash := d.names[first].hash
	if first > 0 && d.names[first-1].hash == hash {
		hash |= 1
	}
	return hash
}
