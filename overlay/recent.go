package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
)

// The file of recent changes, doc/format/overlay.md.
const (
	recentMagic  = "rvr1"
	recentFixed  = 28
	recentHead   = 4096 // bytes before the records
	recentRecord = 32   // divides a page, so that no record is ever half copied into two
	minRecent    = 16   // records
	maxRecent    = 1 << 15

	// recentSpare are records that changes leave free, for what begins a layer and
	// for marks.
	recentSpare = 4
)

// recentRecords is how many records a new file has. Tests have less.
var recentRecords = uint64(maxRecent)

// errRecentFull is what a change meets that has to wait for a flush.
var errRecentFull = errors.New("the recent changes are too many")

// Kinds of records; any other is the state that blocks get.
const (
	recentMark  = 0 // what came before is in an index, or in a batch of its journal
	recentLayer = 2 // a layer is put on top
)

// A recentChange is a record: of blocks, a and b are the first one and their
// number; of a mark, the index's epoch and the number of its batch; of a layer,
// its ID and slot.
type recentChange struct {
	number uint64
	a, b   uint64
	kind   uint8
}

func appendRecent(b []byte, c recentChange) []byte {
	le := binary.LittleEndian
	begin := len(b)
	b = le.AppendUint64(b, c.number)
	b = le.AppendUint64(b, c.a)
	b = le.AppendUint64(b, c.b)
	b = append(b, c.kind, 0, 0, 0)
	return le.AppendUint32(b, crc32.Checksum(b[begin:], castagnoli))
}

// parseRecent reads a record. It reports false for what is none: zeros, or what was
// not written to its end.
func parseRecent(b []byte) (recentChange, bool) {
	le := binary.LittleEndian
	c := recentChange{number: le.Uint64(b), a: le.Uint64(b[8:]), b: le.Uint64(b[16:]), kind: b[24]}
	whole := le.Uint32(b[28:]) == crc32.Checksum(b[:28], castagnoli)
	return c, whole && c.number > 0 && c.number < 1<<62 && b[25]|b[26]|b[27] == 0
}

// appendRecentHead appends the head of a file.
func appendRecentHead(b []byte, records uint64, boot [16]byte) []byte {
	le := binary.LittleEndian
	begin := len(b)
	b = append(b, recentMagic...)
	b = le.AppendUint32(b, uint32(records))
	b = append(b, boot[:]...)
	b = le.AppendUint32(b, crc32.Checksum(b[begin:], castagnoli))
	return append(b, make([]byte, recentHead-recentFixed)...)
}

// parseRecentHead returns how many records a file has that was written since the
// system's start, 0 if it is another's, or none.
func parseRecentHead(b []byte, boot [16]byte) uint64 {
	le := binary.LittleEndian
	records := uint64(le.Uint32(b[4:]))
	switch {
	case string(b[:4]) != recentMagic, [16]byte(b[8:24]) != boot, le.Uint32(b[24:]) != crc32.Checksum(b[:24], castagnoli):
		return 0
	case records < minRecent || records > maxRecent || records&(records-1) != 0:
		return 0
	}
	return records
}

// replayRecent returns the changes that came after the last mark which holds: of this
// epoch, and of no later batch. Marks are left out. next is the number of the next
// record. Without a mark that holds, the file belongs to another state of the
// folder, and nothing in it counts.
func replayRecent(ring []byte, epoch, batch uint64) (changes []recentChange, next uint64, err error) {
	records := uint64(len(ring) / recentRecord)
	at := func(number uint64) (recentChange, bool) {
		c, ok := parseRecent(ring[number%records*recentRecord:][:recentRecord])
		return c, ok && c.number%records == number%records
	}
	mark, last := uint64(0), uint64(0)
	for i := range records {
		c, ok := at(i)
		if !ok {
			continue
		}
		last = max(last, c.number)
		if c.kind == recentMark && c.a == epoch && c.b <= batch {
			mark = max(mark, c.number)
		}
	}
	if mark == 0 {
		return nil, last + 1, nil
	}
	// A mark that does not hold and has nothing behind it is written over: so openings
	// that are killed, however many, fill nothing.
	next = mark + 1
	for number := mark + 1; number <= last; number++ {
		c, ok := at(number)
		if !ok || c.number != number {
			return nil, 0, corrupt("recent changes: record %d of %d to %d", number, mark, last)
		}
		if c.kind != recentMark {
			changes = append(changes, c)
			next = number + 1
		}
	}
	return changes, next, nil
}

// recent keeps the changes that no flush has written down, for the process that
// comes after this one if it is killed. Nothing of it is synced: the system's cache
// outlives a process, and after a power cut it does not count.
type recent struct {
	file    File // nil where the system does not tell its starts apart: then a kill is as a power cut
	records uint64

	// Guarded by Overlay.mu.
	next     uint64 // number of the next record
	kept     uint64 // number of the last mark that holds
	promised uint64 // records that calls which run may need
	noted    []byte // records that are not written

	writing sync.Mutex // taken before mu; guards what follows
	written uint64     // number of the first record that is not written
	spare   []byte     // to be the next noted
	err     error      // of the first write that failed
}

// used returns how many records are needed still.
func (r *recent) used() uint64 { return r.next - r.kept + r.promised }

// promise sees to it that a change finds room.
func (r *recent) promise() error {
	if r.file == nil {
		return nil
	}
	if r.used() >= r.records-recentSpare {
		return errRecentFull
	}
	r.promised++
	return nil
}

// release takes back a promise, before the change is noted or as there is none.
func (r *recent) release() {
	if r.file != nil {
		r.promised--
	}
}

// crowded reports whether it is time to flush.
func (r *recent) crowded() bool { return r.file != nil && r.used() > r.records/4*3 }

// note adds a record, and returns its number.
func (r *recent) note(kind uint8, a, b uint64) uint64 {
	if r.file == nil {
		return 0
	}
	r.noted = appendRecent(r.noted, recentChange{number: r.next, a: a, b: b, kind: kind})
	r.next++
	return r.next - 1
}

// keepRecent writes what was noted, up to a record at least. Who waits for another's
// write mostly finds its own done. It fails as the medium does, for good.
func (o *Overlay) keepRecent(number uint64) error {
	r := &o.recent
	if r.file == nil {
		return nil
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	if number < r.written || r.err != nil {
		return r.err
	}
	o.mu.Lock()
	b, next := r.noted, r.next
	r.noted = r.spare[:0]
	o.mu.Unlock()
	r.spare = b
	for at := r.written; len(b) > 0 && r.err == nil; {
		slot := at % r.records
		n := min(uint64(len(b)), (r.records-slot)*recentRecord)
		if _, err := r.file.WriteAt(b[:n], int64(recentHead+slot*recentRecord)); err != nil {
			r.err = fmt.Errorf("write recent changes: %w", err)
			o.flusher.fail(r.err)
		}
		at, b = at+n/recentRecord, b[n:]
	}
	r.written = next
	return r.err
}

// held says that a mark holds: what came before is not needed any more.
func (o *Overlay) held(mark uint64) {
	o.mu.Lock()
	o.recent.kept = mark
	o.mu.Unlock()
}

// openRecent opens the file of recent changes, and returns those that the index of
// an epoch and its batches lack. It is made, or made anew, if it is missing or of an
// earlier start of the system.
func (o *Overlay) openRecent(epoch, batch uint64) ([]recentChange, error) {
	boot, ok := o.fs.BootID()
	if !ok {
		return nil, nil
	}
	r := &o.recent
	var err error
	if r.file, err = o.fs.OpenFile(o.path(recentName), os.O_CREATE); err != nil {
		return nil, err
	}
	ring, err := r.load(boot)
	if err != nil {
		return nil, fmt.Errorf("read recent changes: %w", err)
	}
	var changes []recentChange
	r.next = 1
	if ring == nil {
		err = r.reset(boot)
	} else {
		changes, r.next, err = replayRecent(ring, epoch, batch)
	}
	r.kept, r.written = r.next, r.next
	return changes, err
}

// load reads the records, nil if there are none of this start of the system.
func (r *recent) load(boot [16]byte) ([]byte, error) {
	size, err := r.file.Size()
	if err != nil || size < recentHead {
		return nil, err
	}
	var head [recentFixed]byte
	if err := readFull(r.file, head[:], 0); err != nil {
		return nil, err
	}
	r.records = parseRecentHead(head[:], boot)
	if r.records == 0 || size != recentHead+int64(r.records)*recentRecord {
		return nil, nil
	}
	ring := make([]byte, r.records*recentRecord)
	return ring, readFull(r.file, ring, recentHead)
}

// reset makes the file empty. Its head is written last, so that a kill leaves none;
// and whole, so that later writes allocate nothing.
func (r *recent) reset(boot [16]byte) error {
	r.records = recentRecords
	err := r.file.Truncate(0)
	if err == nil {
		_, err = r.file.WriteAt(make([]byte, r.records*recentRecord), recentHead)
	}
	if err == nil {
		_, err = r.file.WriteAt(appendRecentHead(nil, r.records, boot), 0)
	}
	if err != nil {
		return fmt.Errorf("make file of recent changes: %w", err)
	}
	return nil
}

// applyRecent brings map and layers to what they were when the process was killed.
func (o *Overlay) applyRecent(changes []recentChange) error {
	blocks := uint64(o.head.blocks())
	for _, c := range changes {
		switch {
		case c.kind == recentLayer:
			if c.b >= maxLayers || o.table.slots[c.b] != nil {
				return corrupt("recent changes: layer %016x in slot %d", c.a, c.b)
			}
			o.top = o.layer(layerInfo{id: c.a, slot: int(c.b)})
			if err := o.top.need(); err != nil {
				return err
			}
			o.table = o.table.with(o.top)
		case c.kind != stateZero && c.kind != o.top.state() || c.b == 0 || c.b > blocks || c.a > blocks-c.b:
			return corrupt("recent changes: %d blocks at %d get state %d", c.b, c.a, c.kind)
		default:
			o.states.set(int64(c.a), int64(c.b), c.kind)
		}
	}
	return nil
}
