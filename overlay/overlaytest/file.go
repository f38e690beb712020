package overlaytest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/rivuletfs/rivulet/overlay"
)

type file struct {
	m    *Medium
	i    *inode
	life int
	took bool // the lock
}

// lock takes the medium for a call of a file that is open still.
func (f *file) lock() error {
	f.m.mu.Lock()
	if f.m.dead || f.life != f.m.life {
		f.m.mu.Unlock()
		return ErrPower
	}
	return nil
}

func (f *file) edit(op string, e edit) error {
	cut, err := f.m.begin(op, f.i.name)
	if err == nil && e.data != nil {
		err = f.room(e)
	}
	if err != nil {
		if n := len(e.data) / 2; n > 0 && !f.m.dead && !errors.Is(err, syscall.ENOSPC) {
			e.data = slices.Clone(e.data[:n])
			f.i.apply(e)
			f.i.unsafe = append(f.i.unsafe, e)
		}
		return err
	}
	e.data = slices.Clone(e.data)
	f.i.apply(e)
	f.i.unsafe = append(f.i.unsafe, e)
	if cut {
		return ErrPower
	}
	return nil
}

// room returns ENOSPC for a write that takes too much.
func (f *file) room(e edit) error {
	if f.m.capacity == 0 {
		return nil
	}
	more := int64(0)
	for p := e.off / pageSize; p*pageSize < e.off+int64(len(e.data)); p++ {
		if !f.i.pages[p] {
			more += pageSize
		}
	}
	if more > 0 && f.m.taken("")+more > f.m.capacity {
		return fmt.Errorf("write %s: %w", f.i.name, syscall.ENOSPC)
	}
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.lock(); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if off >= int64(len(f.i.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.i.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.lock(); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.edit("WriteAt", edit{off: off, data: p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *file) Truncate(size int64) error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if int64(len(f.i.data)) == size {
		return nil
	}
	return f.edit("Truncate", edit{off: -1, length: size})
}

func (f *file) Punch(off, length int64) error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	return f.edit("Punch", edit{off: off, length: length})
}

func (f *file) Sync() error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	cut, err := f.m.begin("Sync", f.i.name)
	if err != nil {
		return err
	}
	if cut {
		return ErrPower
	}
	f.i.sync()
	return nil
}

func (f *file) Size() (int64, error) {
	if err := f.lock(); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	return int64(len(f.i.data)), nil
}

func (f *file) NextData(off int64) (from, to int64, err error) {
	if err := f.lock(); err != nil {
		return 0, 0, err
	}
	defer f.m.mu.Unlock()
	size := int64(len(f.i.data))
	for from = off; from < size && !f.i.pages[from/pageSize]; {
		from = (from/pageSize + 1) * pageSize
	}
	if from >= size {
		return 0, 0, io.EOF
	}
	for to = from; to < size && f.i.pages[to/pageSize]; {
		to = (to/pageSize + 1) * pageSize
	}
	return from, min(to, size), nil
}

func (f *file) Lock() error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if f.i.locked {
		return fmt.Errorf("%s: %w", f.i.name, overlay.ErrInUse)
	}
	f.i.locked, f.took = true, true
	return nil
}

// Close closes the file, and lets go of its lock.
func (f *file) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.life == f.m.life && f.took {
		f.i.locked = false
	}
	return nil
}
