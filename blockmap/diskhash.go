package blockmap

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/rivuletfs/rivulet/origin"
)

// A DiskHash computes the digest of a disk: a name for what the disk reads as,
// the same for every salt, codec and publisher. It is the SHA-256 of
//
//	layout version u32 ‖ disk size u64 ‖ { offset u64 ‖ SHA-256 of the plaintext }…
//
// in little endian, with one entry a stored chunk, by rising offset in bytes.
// A DiskHash is for one goroutine.
type DiskHash struct {
	hash hash.Hash
	size int64
	next int64 // lowest offset allowed
}

// NewDiskHash begins the digest of a disk of size bytes.
func NewDiskHash(layout uint32, size int64) *DiskHash {
	h := &DiskHash{hash: sha256.New(), size: size}
	var b [12]byte
	binary.LittleEndian.PutUint32(b[0:], layout)
	binary.LittleEndian.PutUint64(b[4:], uint64(size))
	h.hash.Write(b[:])
	return h
}

// Add appends a chunk at a byte offset, by the SHA-256 of its plaintext with
// trailing zeros cut off. An offset that does not rise or lies past the disk's
// end is refused, and changes nothing.
func (h *DiskHash) Add(offset int64, sum [sha256.Size]byte) error {
	if offset < h.next || offset >= h.size {
		return fmt.Errorf("disk digest: chunk at offset %d: want %d to %d", offset, h.next, h.size-1)
	}
	h.next = offset + 1
	var b [8 + sha256.Size]byte
	binary.LittleEndian.PutUint64(b[0:], uint64(offset))
	copy(b[8:], sum[:])
	h.hash.Write(b[:])
	return nil
}

// Sum returns the digest of what was added so far.
func (h *DiskHash) Sum() origin.Digest { return origin.Digest(h.hash.Sum(nil)) }
