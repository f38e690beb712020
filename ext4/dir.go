package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrDirent is wrapped by errors that tell of a name that a directory cannot
// hold, or holds already, or of an entry without a known type or inode.
var ErrDirent = errors.New("invalid directory entry")

// ErrDirTooLarge is wrapped by errors that tell of more names than a hash tree
// of two levels under the root's block holds: some 3.8 million of the longest.
var ErrDirTooLarge = errors.New("directory too large")

// A name in a directory has the place of its hash. In a directory of one block
// the hashes are zero, which leaves the order of the names.
type hashedName struct {
	hash, minor uint32
	entry       int
}

// directory is the layout of a directory in blocks.
//
// Up to one block it is a list. Beyond, its names lie in the order of their
// hashes in leaves, each filled before the next is begun, and a tree finds the
// leaf of a hash: block 0 is the root, then come the nodes of the tree if there
// are any, then the leaves.
type directory struct {
	number  uint32
	parent  uint32
	entries []Dirent
	names   []hashedName
	leaves  []leaf
	nodes   int
	seed    uint32 // of checksums
}

// A leaf holds names[first:end].
type leaf struct{ first, end int }

// newDirectory checks the entries and lays them out.
func newDirectory(number, parent uint32, entries []Dirent, state [4]uint32, seed uint32) (*directory, error) {
	d := &directory{number: number, parent: parent, entries: entries, seed: inodeSeed(seed, number)}
	d.names = make([]hashedName, len(entries))
	space := direntSize(1) + direntSize(2)
	for i := range entries {
		if err := checkDirent(&entries[i]); err != nil {
			return nil, err
		}
		d.names[i].entry = i
		space += direntSize(len(entries[i].Name))
	}
	if space > dirSpace {
		for i := range d.names {
			n := &d.names[i]
			n.hash, n.minor = hashName(entries[n.entry].Name, state)
		}
	}
	if err := d.sort(); err != nil {
		return nil, err
	}
	if space > dirSpace {
		return d, d.cut()
	}
	return d, nil
}

func checkDirent(e *Dirent) error {
	if e.Name == "" || len(e.Name) > MaxNameLen || e.Name == "." || e.Name == ".." ||
		strings.IndexByte(e.Name, 0) >= 0 || strings.IndexByte(e.Name, '/') >= 0 {
		return fmt.Errorf("%w: name %.300q", ErrDirent, e.Name)
	}
	if direntType(e.Type) == 0 {
		return fmt.Errorf("%w: %q of type %#x", ErrDirent, e.Name, e.Type)
	}
	return nil
}

// sort orders the names and finds those that are there twice.
func (d *directory) sort() error {
	order := func(a, b hashedName) int {
		if a.hash != b.hash {
			return cmp.Compare(a.hash, b.hash)
		}
		if a.minor != b.minor {
			return cmp.Compare(a.minor, b.minor)
		}
		return strings.Compare(d.entries[a.entry].Name, d.entries[b.entry].Name)
	}
	slices.SortFunc(d.names, order)
	for i := 1; i < len(d.names); i++ {
		if order(d.names[i-1], d.names[i]) == 0 {
			return fmt.Errorf("%w: name %q twice", ErrDirent, d.entries[d.names[i].entry].Name)
		}
	}
	return nil
}

// blocks is the size of the directory.
func (d *directory) blocks() uint64 {
	return uint64(1 + d.nodes + len(d.leaves))
}

func (d *directory) hashed() bool { return len(d.leaves) > 0 }

// links counts the names of the directory: the one in its parent, its own "."
// and the ".." of each directory in it.
func (d *directory) links() uint32 {
	n := 2
	for i := range d.entries {
		if d.entries[i].Type == ModeDir {
			n++
		}
	}
	if n > MaxLinks {
		return 1
	}
	return uint32(n)
}

// write gives the blocks in their order to put, which gets the same slice each
// time.
func (d *directory) write(put func(p []byte) error) error {
	b := dirBlock{p: make([]byte, BlockSize)}
	if d.hashed() {
		if err := d.writeIndex(b.p, put); err != nil {
			return err
		}
	} else {
		b.add(d.number, ModeDir, ".")
		b.add(d.parent, ModeDir, "..")
		if err := d.writeNames(&b, leaf{0, len(d.names)}, put); err != nil {
			return err
		}
	}
	for _, l := range d.leaves {
		b.reset()
		if err := d.writeNames(&b, l, put); err != nil {
			return err
		}
	}
	return nil
}

// writeNames adds names to a block and finishes it.
func (d *directory) writeNames(b *dirBlock, l leaf, put func(p []byte) error) error {
	for _, n := range d.names[l.first:l.end] {
		e := &d.entries[n.entry]
		b.add(e.Number, e.Type, e.Name)
	}
	b.seal(d.seed)
	return put(b.p)
}

// dirBlock is a block of entries under construction. Each entry says how far
// it is to the next; the last one reaches to the checksum.
type dirBlock struct {
	p    []byte
	last int
	end  int
}

func (b *dirBlock) reset() {
	clear(b.p)
	b.last, b.end = 0, 0
}

func (b *dirBlock) add(number uint32, mode uint16, name string) {
	b.last = b.end
	size := direntSize(len(name))
	putDirent(b.p[b.end:], number, size, mode, name)
	b.end += size
}

func (b *dirBlock) seal(seed uint32) {
	le.PutUint16(b.p[b.last+4:], uint16(dirSpace-b.last))
	tail := b.p[dirSpace:]
	le.PutUint16(tail[4:], dirTailSize)
	tail[7] = dirTailType
	le.PutUint32(tail[8:], crc32c(seed, b.p[:dirSpace]))
}

func putDirent(p []byte, number uint32, size int, mode uint16, name string) {
	le.PutUint32(p[0:], number)
	le.PutUint16(p[4:], uint16(size))
	p[6] = uint8(len(name))
	p[7] = direntType(mode)
	copy(p[direntHeader:], name)
}

// direntSize is the space of an entry, a multiple of four.
func direntSize(nameLen int) int { return (direntHeader + nameLen + 3) &^ 3 }

// direntType gives the number of a file type in directories, 0 if it has none.
func direntType(mode uint16) uint8 {
	switch mode {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFIFO:
		return 5
	case ModeSocket:
		return 6
	case ModeSymlink:
		return 7
	}
	return 0
}
