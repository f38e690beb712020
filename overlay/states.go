package overlay

import "slices"

// What a block is, a byte each. A layer's number is firstLayer and its slot.
const (
	stateBase  = 0  // as the base has it; zeros behind the base's end
	stateZero  = 1  // zeros
	stateDrop  = 2  // zeros; the top layer's file still has its old data, which the index on disk may count on
	stateReady = 3  // zeros, also by the index on disk; the old data wait for being punched
	firstLayer = 16 // data in the layer of slot 0
)

// maxLayers bounds a stack, and the files that are open for it.
const maxLayers = 64

const (
	blockShift = 12
	blockSize  = 1 << blockShift
	pageShift  = 15
	pageBlocks = 1 << pageShift // blocks in a page of the map: 128 MiB of disk
)

// onTop reports whether a block takes storage in the top layer's file.
func onTop(state, top uint8) bool {
	return state == top || state == stateDrop || state == stateReady
}

// A page is a part of the map. One that is shared never changes again.
type page struct {
	shared bool
	states [pageBlocks]uint8
}

// A stateMap is the merged map of a stack: what each block is, wherever it lies.
// So a look-up costs the same at any depth. Pages that are nil are stateBase.
type stateMap struct{ pages []*page }

func newStateMap(blocks int64) stateMap {
	return stateMap{make([]*page, (blocks+pageBlocks-1)>>pageShift)}
}

func (m *stateMap) get(block int64) uint8 {
	if p := m.pages[block>>pageShift]; p != nil {
		return p.states[block%pageBlocks]
	}
	return stateBase
}

// load copies the states of the blocks from block on, which lie in one page.
func (m *stateMap) load(dst []uint8, block int64) {
	if p := m.pages[block>>pageShift]; p != nil {
		copy(dst, p.states[block%pageBlocks:])
	} else {
		clear(dst)
	}
}

// run returns the state of block, and how many blocks before end are like it
// from there on.
func (m *stateMap) run(block, end int64) (uint8, int64) {
	state, at := m.get(block), block+1
	for at < end {
		p := m.pages[at>>pageShift]
		next := min(end, (at>>pageShift+1)<<pageShift)
		switch {
		case p != nil:
			for at < next && p.states[at%pageBlocks] == state {
				at++
			}
		case state == stateBase:
			at = next
		}
		if at < next {
			break
		}
	}
	return state, at - block
}

// set gives n blocks a state.
func (m *stateMap) set(block, n int64, state uint8) {
	for n > 0 {
		i := block >> pageShift
		from := block % pageBlocks
		k := min(n, pageBlocks-from)
		p := m.pages[i]
		if p == nil && state == stateBase {
			block, n = block+k, n-k
			continue
		}
		if p == nil {
			p = &page{}
			m.pages[i] = p
		} else if p.shared {
			p = &page{states: p.states}
			m.pages[i] = p
		}
		part := p.states[from : from+k]
		for j := range part {
			part[j] = state
		}
		block, n = block+k, n-k
	}
}

// share returns a map that stays as this one is now.
func (m *stateMap) share() stateMap {
	for _, p := range m.pages {
		if p != nil {
			p.shared = true
		}
	}
	return stateMap{slices.Clone(m.pages)}
}

// count returns how many blocks have a state.
func (m *stateMap) count(state uint8) int64 {
	n := int64(0)
	for _, p := range m.pages {
		if p != nil {
			for _, s := range p.states {
				if s == state {
					n++
				}
			}
		}
	}
	return n
}

// grow makes room for more blocks.
func (m *stateMap) grow(blocks int64) {
	m.pages = append(m.pages, make([]*page, len(newStateMap(blocks).pages)-len(m.pages))...)
}
