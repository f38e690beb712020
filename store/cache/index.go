package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"slices"
	"time"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/store/cache/evict"
)

// The index is a hint: what the policy knew, and where the scrubber was.
// doc/format/cache.md has its bytes.
const (
	indexMagic   = "rvi1"
	indexHead    = 4 + 4 + 8 + 32
	recordLen    = 32 + 4 + 1 + 1 + 1 + 1 + 8*(evict.MaxK+1)
	maxRecords   = 1 << 23
	maxIndexSize = indexHead + maxRecords*recordLen + 4
)

// saveIndex writes the index if it would tell something new.
func (c *Cache) saveIndex() error {
	c.mu.Lock()
	if c.changes == 0 {
		c.mu.Unlock()
		return nil
	}
	c.changes = 0
	b := c.appendIndex(make([]byte, 0, indexHead+(c.policy.Len()+c.policy.History())*recordLen+4))
	c.mu.Unlock()
	err := c.replace(indexFile, b, false)
	if err != nil {
		c.mu.Lock()
		c.changes++
		c.mu.Unlock()
	}
	return err
}

// appendIndex encodes the index. mu is held.
func (c *Cache) appendIndex(b []byte) []byte {
	b = append(b, indexMagic...)
	b = append(b, 0, 0, 0, 0) // count
	b = binary.LittleEndian.AppendUint64(b, uint64(c.now()))
	b = append(b, c.cursor[:]...)
	n := uint32(0)
	c.policy.Snapshot(func(r evict.Record) {
		if n < maxRecords {
			b = appendRecord(b, r)
			n++
		}
	})
	binary.LittleEndian.PutUint32(b[4:], n)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func appendRecord(b []byte, r evict.Record) []byte {
	b = append(b, r.ID[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Size))
	held := byte(0)
	if r.Held {
		held = 1
	}
	b = append(b, held, r.Queue, r.Refs, 0)
	for _, t := range r.Times {
		b = binary.LittleEndian.AppendUint64(b, uint64(t))
	}
	return b
}

func parseRecord(b []byte) (r evict.Record) {
	r.ID = chunk.ID(b)
	r.Size = int64(binary.LittleEndian.Uint32(b[32:]))
	r.Held, r.Queue, r.Refs = b[36] == 1, b[37], b[38]
	for i := range r.Times {
		r.Times[i] = time.Duration(binary.LittleEndian.Uint64(b[40+8*i:]))
	}
	return r
}

// checkIndex returns the records of an index.
func checkIndex(b []byte) ([]byte, error) {
	if len(b) < indexHead+4 || string(b[:4]) != indexMagic {
		return nil, errors.New("no index")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errors.New("damaged")
	}
	if int64(binary.LittleEndian.Uint32(b[4:]))*recordLen != int64(len(body)-indexHead) {
		return nil, errors.New("another length than it tells")
	}
	return body[indexHead:], nil
}

// readIndex returns the records of the index, none if there is no good one.
func (c *Cache) readIndex() []byte {
	b, err := c.readFile(c.path(indexFile), maxIndexSize)
	var records []byte
	if err == nil {
		records, err = checkIndex(b)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.logger.Warn("cache: index not used", "error", err)
		}
		return nil
	}
	c.base = time.Duration(max(0, int64(binary.LittleEndian.Uint64(b[8:]))))
	c.cursor = chunk.ID(b[16:])
	return records
}

// restore gives the policy what was saved. Chunks that the index does not know
// came after it was saved, and are inserted last, by name; without an index, all
// are.
func (c *Cache) restore(records []byte) {
	for ; len(records) > 0; records = records[recordLen:] {
		r := parseRecord(records)
		e := c.entries[r.ID]
		if (e != nil) != r.Held || e != nil && (e.pinned || e.known) {
			continue
		}
		if e != nil {
			r.Size = e.cost()
			e.known = true
		}
		c.policy.Restore(r)
	}
	var rest []*entry
	for _, e := range c.entries {
		if !e.known && !e.pinned {
			rest = append(rest, e)
		}
	}
	slices.SortFunc(rest, func(a, b *entry) int { return bytes.Compare(a.id[:], b.id[:]) })
	for _, e := range rest {
		c.policy.Insert(e.id, e.cost(), c.base)
	}
}
