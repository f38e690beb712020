package fuse

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/rivuletfs/rivulet/blockdev"
)

// Errors of AddDisk and RemoveDisk.
var (
	ErrExists   = errors.New("a disk of that name is shown already")
	ErrNotFound = errors.New("no disk of that name is shown")
)

// A Disk is one file of the mount.
type Disk struct {
	// Name is the file's name: 1 to MaxName bytes, no slash, no NUL, not "."
	// or "..".
	Name string
	// ID names the content and must not be empty: equal IDs promise equal
	// bytes, but for what is written through this session. The file's inode
	// number comes from Name, ID and size alone, so that a session that is taken
	// over needs no table of inodes, and so that other content under an old name
	// never meets the old pages.
	ID string
	// Device is used from many goroutines at once.
	Device blockdev.Device
}

// A node is a disk that is shown.
type node struct {
	Disk
	id    uint64
	size  int64
	calls sync.WaitGroup // of the device, under way; added to under tree.mu
}

// A tree is the directory of disks. The map and the list hold the same nodes.
type tree struct {
	mu     sync.RWMutex
	byID   map[uint64]*node
	sorted []*node // by id, which is also the cookie of READDIR
}

func newTree() *tree { return &tree{byID: make(map[uint64]*node)} }

// nodeID derives an inode number of 3 to 2^62+2: 1 is the root, 1 and 2 are
// the directory cookies of "." and "..", and cookies must not be negative.
func nodeID(name, id string, size int64) uint64 {
	h := sha256.New()
	var n [8]byte
	for _, s := range []string{name, id} {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	binary.BigEndian.PutUint64(n[:], uint64(size))
	h.Write(n[:])
	return binary.BigEndian.Uint64(h.Sum(nil))>>2 + 3
}

func validName(name string) bool {
	return name != "" && len(name) <= MaxName && name != "." && name != ".." &&
		!strings.ContainsAny(name, "/\x00")
}

func (t *tree) add(d Disk) error {
	if !validName(d.Name) {
		return fmt.Errorf("add disk %q: not a file name", d.Name)
	}
	if d.ID == "" {
		return fmt.Errorf("add disk %q: no ID of its content", d.Name)
	}
	size := d.Device.Size()
	if size < 0 {
		return fmt.Errorf("add disk %q: size %d", d.Name, size)
	}
	n := &node{Disk: d, id: nodeID(d.Name, d.ID, size), size: size}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.named(d.Name) != nil {
		return fmt.Errorf("add disk %q: %w", d.Name, ErrExists)
	}
	if other := t.byID[n.id]; other != nil {
		return fmt.Errorf("add disk %q: inode number %d is that of %q", d.Name, n.id, other.Name)
	}
	t.byID[n.id] = n
	t.sorted = slices.Insert(t.sorted, t.after(n.id), n)
	return nil
}

// remove hides the disk and returns once its device is not used any more.
func (t *tree) remove(name string) (*node, error) {
	t.mu.Lock()
	n := t.named(name)
	if n == nil {
		t.mu.Unlock()
		return nil, fmt.Errorf("remove disk %q: %w", name, ErrNotFound)
	}
	delete(t.byID, n.id)
	t.sorted = slices.DeleteFunc(t.sorted, func(o *node) bool { return o == n })
	t.mu.Unlock()
	n.calls.Wait()
	return n, nil
}

// named finds a disk by name; t.mu is held. A scan will do: the kernel keeps
// names, so there is one look-up a disk.
func (t *tree) named(name string) *node {
	for _, n := range t.sorted {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// after returns the place in t.sorted of the first node above id; t.mu is held.
func (t *tree) after(id uint64) int {
	i, _ := slices.BinarySearchFunc(t.sorted, id, func(n *node, id uint64) int {
		if n.id <= id {
			return -1
		}
		return 1
	})
	return i
}

// begin returns the node with a call of its device counted on it, or nil; the
// caller ends it with calls.Done.
func (t *tree) begin(id uint64) *node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := t.byID[id]
	if n != nil {
		n.calls.Add(1)
	}
	return n
}

// get returns the node of id, or nil.
func (t *tree) get(id uint64) *node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}
