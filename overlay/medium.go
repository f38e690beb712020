package overlay

import (
	"errors"
	"fmt"
	"os"
)

// A medium is the overlay's index and journal. Whoever has the flusher has it.
type medium struct {
	journal File
	epoch   uint64 // of the index; sectors of the journal that have another one are old
	batch   uint64 // number of the last one in the journal
	at      int    // sectors of the journal that are in use
	buf     []byte
}

// resetJournal gives the journal its length, in zeros that take space: a write
// to it needs no allocation, and cannot fail for want of space.
func (m *medium) resetJournal() error {
	err := m.journal.Truncate(0)
	if err == nil {
		_, err = m.journal.WriteAt(make([]byte, journalSize), 0)
	}
	if err == nil {
		err = m.journal.Sync()
	}
	if err != nil {
		return fmt.Errorf("make journal: %w", err)
	}
	return nil
}

// fits reports whether the journal has room for a batch.
func (m *medium) fits(changes int) bool { return m.at+batchSectors(changes) <= journalUnits }

// append writes a batch, which fits, and syncs it.
func (m *medium) append(batch []change) error {
	m.buf = appendBatch(m.buf[:0], m.epoch, m.batch+1, batch)
	if _, err := m.journal.WriteAt(m.buf, int64(m.at)*sectorSize); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := m.journal.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	m.batch++
	m.at += batchSectors(len(batch))
	return nil
}

// replaceIndex puts a new index into the place of the old one, which has all that
// the journal has. From then on the journal is empty.
func (o *Overlay) replaceIndex(b []byte, epoch uint64) error {
	f, err := o.fs.OpenFile(o.path(newIndexName), os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	if err := o.fs.Rename(o.path(newIndexName), o.path(indexName)); err != nil {
		return fmt.Errorf("replace index: %w", err)
	}
	if err := o.fs.SyncDir(o.dir); err != nil {
		return fmt.Errorf("replace index: %w", err)
	}
	o.medium.epoch, o.medium.batch, o.medium.at = epoch, 0, 0
	return nil
}
