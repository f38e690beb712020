package ext4

import (
	"container/list"
	"fmt"
	"sync"
)

// cacheBytes bounds what an FS keeps of metadata.
const cacheBytes = 4 << 20

// A blockKind is what a block is taken for. A block is kept, and was checked,
// once for each kind and owner that it is read as.
type blockKind uint8

const (
	rawBlock      blockKind = iota // group descriptors, inodes: parts have their own checks
	extentBlock                    // of the owner's extent tree
	indirectBlock                  // of pointers
	dirBlockView                   // of a directory, not the first of one with a hash tree
	dirRootBlock                   // the first of a directory with a hash tree
	xattrBlockView
)

type blockKey struct {
	block uint64
	owner uint32 // inode whose number is in the checksum, else 0
	kind  blockKind
}

type cachedBlock struct {
	key blockKey
	p   []byte // never changed
}

// A blockCache keeps the blocks used last.
type blockCache struct {
	limit int

	mu     sync.Mutex // guards what follows
	recent *list.List // of *cachedBlock, the last used first
	blocks map[blockKey]*list.Element
}

func (c *blockCache) init(limit int) {
	c.limit = limit
	c.recent = list.New()
	c.blocks = make(map[blockKey]*list.Element)
}

func (c *blockCache) get(key blockKey) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.blocks[key]
	if e == nil {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(*cachedBlock).p
}

func (c *blockCache) put(key blockKey, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocks[key] != nil {
		return // another goroutine read it too
	}
	if c.recent.Len() >= c.limit {
		last := c.recent.Back()
		c.recent.Remove(last)
		delete(c.blocks, last.Value.(*cachedBlock).key)
	}
	c.blocks[key] = c.recent.PushFront(&cachedBlock{key, p})
}

// readBlock returns a block that check has accepted, now or earlier. The slice
// is shared and must not be changed.
func (fsys *FS) readBlock(key blockKey, check func(p []byte) error) ([]byte, error) {
	if p := fsys.cache.get(key); p != nil {
		return p, nil
	}
	if key.block >= fsys.super.blocks {
		return nil, damagedBlock(key.block, "there are only %d", fsys.super.blocks)
	}
	p := make([]byte, fsys.super.blockSize)
	if err := readFull(fsys.r, p, int64(key.block)*int64(len(p))); err != nil {
		return nil, fmt.Errorf("ext4: read block %d: %w", key.block, err)
	}
	if check != nil {
		if err := check(p); err != nil {
			return nil, err
		}
	}
	fsys.cache.put(key, p)
	return p, nil
}
