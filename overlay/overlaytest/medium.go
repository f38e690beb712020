// Package overlaytest has a file system in memory for overlay.FS that loses power,
// is killed, runs full and fails, when and how a test says.
package overlaytest

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rivuletfs/rivulet/overlay"
)

const (
	sectorSize = 512  // bytes that are written whole or not at all
	pageSize   = 4096 // bytes that take space together
)

// ErrPower is what every call returns from the power cut until Crash or Kill.
var ErrPower = errors.New("no power")

// A Call is what a Medium is asked to do: the method's name of overlay.FS or
// overlay.File, and the file's name without its folder.
type Call struct {
	Op, Name string
}

// A Medium is a file system that keeps apart what a power cut may lose and what
// it may not. What was written to a file is safe by its Sync, names are by
// SyncDir. Its methods may be called at once.
type Medium struct {
	mu       sync.Mutex
	names    map[string]*inode // as they are seen
	safe     map[string]*inode // after a power cut, but for a beginning of unsafe
	unsafe   []func(map[string]*inode)
	life     int // number of crashes and kills; files of an earlier life are dead
	boot     uint64
	calls    int
	cut      int
	dead     bool
	fail     func(Call) error
	capacity int64
}

type inode struct {
	name    string
	content // as it is seen
	safe    content
	unsafe  []edit
	locked  bool
}

type content struct {
	data  []byte
	pages map[int64]bool // that take space
}

func (c *content) clone() content {
	pages := make(map[int64]bool, len(c.pages))
	for p := range c.pages {
		pages[p] = true
	}
	return content{slices.Clone(c.data), pages}
}

// An edit is a write, or with nil data a hole of a length, or with a negative
// offset a new length.
type edit struct {
	off, length int64
	data        []byte
}

// NewMedium returns an empty file system.
func NewMedium() *Medium {
	return &Medium{names: map[string]*inode{}, safe: map[string]*inode{}}
}

// Cut makes the power fail in the n-th call from now that changes or syncs
// anything: it may have had its effect, and returns ErrPower, as all later ones
// do. 0: never.
func (m *Medium) Cut(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = 0
	if n > 0 {
		m.cut = m.calls + n
	}
}

// Calls returns how many calls there were that change or sync anything.
func (m *Medium) Calls() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

// Fail has fn asked before each call that changes or syncs anything; nil: never.
// If it returns an error, the call fails with it. A write has written a part by
// then.
func (m *Medium) Fail(fn func(Call) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fn
}

// Limit bounds the bytes that files take together; writes beyond fail with
// ENOSPC. 0: no bound.
func (m *Medium) Limit(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Taken returns the bytes that the files take whose names begin with prefix.
func (m *Medium) Taken(prefix string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.taken(prefix)
}

func (m *Medium) taken(prefix string) int64 {
	n := int64(0)
	for name, i := range m.names {
		if strings.HasPrefix(filepath.Base(name), prefix) {
			n += int64(len(i.pages)) * pageSize
		}
	}
	return n
}

// Bytes returns a copy of a file.
func (m *Medium) Bytes(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.names[name].data)
}

// Replace gives a file other bytes, safely.
func (m *Medium) Replace(name string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.names[name]
	i.data, i.unsafe = slices.Clone(data), nil
	i.safe = i.clone()
}

// Kill ends all that is open, as kill -9 does: nothing is lost, and what was not
// synced is not safe yet.
func (m *Medium) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revive()
}

func (m *Medium) revive() {
	m.life++
	m.dead, m.cut = false, 0
	for _, i := range m.names {
		i.locked = false
	}
}

// Crash loses power: of what was not synced a part is left, drawn from r. Writes are
// lost by the sector and in any order, new lengths and holes as a whole; of names
// a first part of the changes is left.
func (m *Medium) Crash(r *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, change := range m.unsafe[:r.IntN(len(m.unsafe)+1)] {
		change(m.safe)
	}
	m.unsafe = nil
	m.boot++
	m.names = map[string]*inode{}
	keep := r.IntN(5) // of 4
	seen := map[*inode]bool{}
	for name, i := range m.safe {
		m.names[name] = i
		if !seen[i] {
			seen[i] = true
			i.crash(func() bool { return r.IntN(4) < keep })
		}
	}
	m.revive()
}

// crash goes back to what is safe, with what survives of the rest.
func (i *inode) crash(survives func() bool) {
	for _, e := range i.unsafe {
		if e.data == nil {
			if survives() {
				i.safe.apply(e)
			}
			continue
		}
		for len(e.data) > 0 {
			n := min(int64(len(e.data)), sectorSize-e.off%sectorSize)
			if survives() {
				i.safe.apply(edit{off: e.off, data: e.data[:n]})
			}
			e.off, e.data = e.off+n, e.data[n:]
		}
	}
	i.unsafe = nil
	i.content = i.safe.clone()
}

func (i *inode) sync() {
	for _, e := range i.unsafe {
		i.safe.apply(e)
	}
	i.unsafe = nil
}

func (c *content) resize(size int64) {
	if size <= int64(len(c.data)) {
		c.data = c.data[:size]
		for p := range c.pages {
			if p*pageSize >= size {
				delete(c.pages, p)
			}
		}
		return
	}
	c.data = append(c.data, make([]byte, size-int64(len(c.data)))...)
}

func (c *content) apply(e edit) {
	switch {
	case e.off < 0:
		c.resize(e.length)
	case e.data == nil:
		end := min(e.off+e.length, int64(len(c.data)))
		if e.off < end {
			clear(c.data[e.off:end])
		}
		for p := (e.off + pageSize - 1) / pageSize; (p+1)*pageSize <= e.off+e.length; p++ {
			delete(c.pages, p)
		}
	default:
		end := e.off + int64(len(e.data))
		if end > int64(len(c.data)) {
			c.resize(end)
		}
		copy(c.data[e.off:], e.data)
		for p := e.off / pageSize; p*pageSize < end; p++ {
			c.pages[p] = true
		}
	}
}

// begin counts a call. The caller has mu. A call whose cut is true has its effect
// and returns ErrPower.
func (m *Medium) begin(op, name string) (cut bool, err error) {
	if m.dead {
		return false, ErrPower
	}
	m.calls++
	if m.fail != nil {
		if err := m.fail(Call{op, filepath.Base(name)}); err != nil {
			return false, err
		}
	}
	if m.calls == m.cut {
		m.dead = true
		return true, nil
	}
	return false, nil
}

// change changes names, unsafely.
func (m *Medium) change(op, name string, fn func(map[string]*inode)) error {
	cut, err := m.begin(op, name)
	if err != nil {
		return err
	}
	fn(m.names)
	m.unsafe = append(m.unsafe, fn)
	if cut {
		return ErrPower
	}
	return nil
}

// OpenFile opens a file.
func (m *Medium) OpenFile(name string, flag int) (overlay.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, ErrPower
	}
	i := m.names[name]
	if i == nil {
		if flag&os.O_CREATE == 0 {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		i = &inode{name: name, content: content{pages: map[int64]bool{}}, safe: content{pages: map[int64]bool{}}}
		if err := m.change("OpenFile", name, func(names map[string]*inode) { names[name] = i }); err != nil {
			return nil, err
		}
	}
	f := &file{m: m, i: i, life: m.life}
	if flag&os.O_TRUNC != 0 && len(i.data) > 0 {
		if err := f.edit("Truncate", edit{off: -1}); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// MkdirAll does nothing: a folder is there if a file is in it.
func (m *Medium) MkdirAll(string) error { return nil }

// ReadDir returns the names in a folder.
func (m *Medium) ReadDir(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, ErrPower
	}
	var names []string
	for path := range m.names {
		if filepath.Dir(path) == name {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	if names == nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	return names, nil
}

// Rename renames a file.
func (m *Medium) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.names[from]
	if i == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	return m.change("Rename", from, func(names map[string]*inode) {
		delete(names, from)
		names[to] = i
	})
}

// Remove removes a file, or an empty folder.
func (m *Medium) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.change("Remove", name, func(names map[string]*inode) { delete(names, name) })
}

// SyncDir makes all names safe.
func (m *Medium) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	cut, err := m.begin("SyncDir", name)
	if err != nil {
		return err
	}
	if cut {
		return ErrPower
	}
	for _, change := range m.unsafe {
		change(m.safe)
	}
	m.unsafe = nil
	return nil
}

// BootID is another one after each Crash.
func (m *Medium) BootID() (id [16]byte, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	binary.BigEndian.PutUint64(id[8:], m.boot)
	return id, true
}
