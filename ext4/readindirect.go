package ext4

// The older way to describe a file: the numbers of its first twelve blocks,
// then one each of a block of numbers, of a block of those, and of a block of
// those. A zero stands for a hole.
const (
	directBlocks   = 12
	indirectLevels = 3
)

func (fsys *FS) mapIndirect(v *inodeView, logical uint64) (run, error) {
	if logical < directBlocks {
		return fsys.pointerRun(v, v.area[:4*directBlocks], logical)
	}
	per := uint64(fsys.super.blockSize / 4)
	at, span := logical-directBlocks, uint64(1) // span is that of one pointer in the block
	for level := range uint64(indirectLevels) {
		if at >= span*per {
			at -= span * per
			span *= per
			continue
		}
		return fsys.followIndirect(v, v.area[4*(directBlocks+level):][:4], at, span)
	}
	return run{0, endless}, nil
}

// followIndirect finds block at of those below the one pointer in p. Each
// pointer in the block it leads to stands for span blocks.
func (fsys *FS) followIndirect(v *inodeView, p []byte, at, span uint64) (run, error) {
	per := uint64(fsys.super.blockSize / 4)
	i := uint64(0)
	for {
		block := uint64(le.Uint32(p[4*i:]))
		if block == 0 {
			// The hole covers the pointers that are zero too.
			whole := span * per
			count := whole - at
			for i++; i < uint64(len(p)/4) && le.Uint32(p[4*i:]) == 0; i++ {
				count += whole
			}
			return run{0, count}, nil
		}
		if !fsys.super.checkRun(block, 1) {
			return run{}, v.damaged("pointer to block %d of %d", block, fsys.super.blocks)
		}
		var err error
		if p, err = fsys.readBlock(blockKey{block: block, kind: indirectBlock}, nil); err != nil {
			return run{}, err
		}
		if span == 1 {
			return fsys.pointerRun(v, p, at)
		}
		i, at = at/span, at%span
		span /= per
	}
}

// pointerRun is the run that starts with the pointer at of the list p.
func (fsys *FS) pointerRun(v *inodeView, p []byte, at uint64) (run, error) {
	start := uint64(le.Uint32(p[4*at:]))
	r := run{start, 1}
	for i := at + 1; i < uint64(len(p)/4); i++ {
		next := uint64(le.Uint32(p[4*i:]))
		if start == 0 && next != 0 || start != 0 && next != start+r.count {
			break
		}
		r.count++
	}
	if start != 0 && !fsys.super.checkRun(start, r.count) {
		return run{}, v.damaged("pointer to %d blocks from %d of %d", r.count, start, fsys.super.blocks)
	}
	return r, nil
}
