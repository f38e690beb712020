package blockmap

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// A Map is a checked block map. It answers out of the bytes it was parsed
// from, without allocating, and may be used by any number of goroutines.
type Map struct {
	bytes  []byte
	keys   []byte // the key table: of bytes, or the one Unlocked was given
	locked bool   // keys are ciphertext, and info has no configuration
	plan   plan
	info   Info
	digest origin.Digest
}

// Bytes returns the bytes that the map was parsed from. They must not be
// changed.
func (m *Map) Bytes() []byte { return m.bytes }

// Digest returns the map's name: the SHA-256 of its bytes.
func (m *Map) Digest() origin.Digest { return m.digest }

// DiskDigest returns the digest of the disk, or of one that has none, such as one
// that was committed, the map's own: either can be asked for.
func (m *Map) DiskDigest() origin.Digest {
	if m.info.Disk == (origin.Digest{}) {
		return m.digest
	}
	return m.info.Disk
}

// Info returns what the map says of its disk. Config, which is nil while the map
// is locked, and Layers are shared with the map and must not be changed.
func (m *Map) Info() Info { return m.info }

// Layers returns the image's layers, lowest first. The slice is shared with
// the map and must not be changed.
func (m *Map) Layers() []Layer { return m.info.Layers }

// Size returns the bytes of the disk.
func (m *Map) Size() int64 { return m.info.Size }

// Locked reports whether the keys of the map's chunks and its configuration are
// ciphertext.
func (m *Map) Locked() bool { return m.locked }

// String names the map by its digest, and shows none of its keys.
func (m *Map) String() string { return "block map " + m.digest.String() }

// Format implements fmt.Formatter as String, whatever the verb.
func (m *Map) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, m.String()) }

// Unlocked returns a view of a locked map that has the keys and the
// configuration in secret, the decrypted second of Parts without its tag, which
// must not be changed afterwards. Bytes, Digest, Parts and the rest of Info stay
// those of the stored object, so that what is named after the digest, or
// signed, is what it was; Locked turns false. The map itself stays as it is.
func (m *Map) Unlocked(secret []byte) (*Map, error) {
	keys := m.plan.nChunks * keyBytes
	if !m.locked || len(secret) != keys+m.plan.nConfig {
		return nil, fmt.Errorf("unlock %v by %d bytes: want a locked one, and the keys of %d chunks with %d bytes of configuration",
			m, len(secret), m.plan.nChunks, m.plan.nConfig)
	}
	view := *m
	view.keys, view.info.Config = secret[:keys:keys], secret[keys:len(secret):len(secret)]
	view.locked = false
	return &view, nil
}

// Parts returns the map in two pieces: all that locking authenticates, and
// what it encrypts, key table and configuration, with the tag after them. Both
// are parts of Bytes.
func (m *Map) Parts() (additional, locked []byte) {
	k := m.plan.keys
	return m.bytes[:k:k], m.bytes[k:]
}

// Len returns how many chunks the disk stores.
func (m *Map) Len() int { return m.plan.nChunks }

// Chunk returns the i-th chunk by index, 0 <= i < Len.
func (m *Map) Chunk(i int) Chunk {
	e := m.entry(i)
	c := Chunk{Index: entryIndex(e), Stored: entryStored(e), Size: entrySize(e)}
	c.ID = chunk.ID(e[12:])
	c.Key = Key(m.keys[i*keyBytes:][:keyBytes])
	return c
}

// Search returns the position of the first chunk whose index is at least
// index, or Len, and whether that chunk is the one asked for.
func (m *Map) Search(index uint32) (i int, found bool) {
	lo, hi := 0, m.plan.nChunks
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if entryIndex(m.entry(mid)) < index {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < m.plan.nChunks && entryIndex(m.entry(lo)) == index
}

// Lookup returns the chunk at index, or false for a hole.
func (m *Map) Lookup(index uint32) (Chunk, bool) {
	i, found := m.Search(index)
	if !found {
		return Chunk{}, false
	}
	return m.Chunk(i), true
}

func (m *Map) entry(i int) []byte {
	return m.bytes[m.plan.chunks+int64(i)*chunkBytes:][:chunkBytes]
}

func entryIndex(e []byte) uint32  { return binary.LittleEndian.Uint32(e[0:]) }
func entryStored(e []byte) uint32 { return binary.LittleEndian.Uint32(e[4:]) }
func entrySize(e []byte) uint32   { return binary.LittleEndian.Uint32(e[8:]) }
