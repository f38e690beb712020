package overlay

import "sync"

const (
	regionBlocks = 64 // blocks whose locks are the bits of one word
	regionSize   = regionBlocks * blockSize
	stripes      = 256
)

// blockLocks are exclusive locks of blocks, taken for a region at a time. Regions
// that are stripes apart share their bits, which costs a wait at worst. A
// goroutine holds one region's at most, but for who only tries.
type blockLocks [stripes]struct {
	mu      sync.Mutex
	freed   sync.Cond
	busy    uint64
	waiters int
	_       [64]byte // keeps neighbours out of one cache line
}

func (l *blockLocks) init() {
	for i := range l {
		l[i].freed.L = &l[i].mu
	}
}

// blockMask returns the bits of n blocks, the first of which is block, all of
// one region.
func blockMask(block, n int64) uint64 {
	return ^uint64(0) >> (regionBlocks - n) << (block % regionBlocks)
}

func (l *blockLocks) lock(block, n int64) {
	s, mask := &l[block/regionBlocks%stripes], blockMask(block, n)
	s.mu.Lock()
	for s.busy&mask != 0 {
		s.waiters++
		s.freed.Wait()
		s.waiters--
	}
	s.busy |= mask
	s.mu.Unlock()
}

func (l *blockLocks) tryLock(block, n int64) bool {
	s, mask := &l[block/regionBlocks%stripes], blockMask(block, n)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy&mask != 0 {
		return false
	}
	s.busy |= mask
	return true
}

func (l *blockLocks) unlock(block, n int64) {
	s, mask := &l[block/regionBlocks%stripes], blockMask(block, n)
	s.mu.Lock()
	s.busy &^= mask
	if s.waiters > 0 {
		s.freed.Broadcast()
	}
	s.mu.Unlock()
}
