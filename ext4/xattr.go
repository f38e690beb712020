package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// ErrXattrTooLarge is wrapped by errors that tell of attributes that do not
// fit into an inode and one block.
var ErrXattrTooLarge = errors.New("extended attributes too large")

// ErrXattr is wrapped by errors that tell of an attribute that the format
// cannot hold: a name without a known prefix, a name twice, a malformed ACL.
var ErrXattr = errors.New("invalid extended attribute")

// Whole names that have an index of their own, and prefixes, which have the
// others. Both are left out of the name that is stored.
const (
	xattrUser       = 1
	xattrACLAccess  = 2
	xattrACLDefault = 3
	xattrTrusted    = 4
	xattrSecurity   = 6
	xattrSystem     = 7
)

var xattrPrefixes = [...]struct {
	prefix string
	index  uint8
}{
	{"user.", xattrUser},
	{"trusted.", xattrTrusted},
	{"security.", xattrSecurity},
	{"system.", xattrSystem},
}

// inlineData is the name, under xattrSystem, that the kernel gives to the rest
// of a file that is kept in its inode.
const inlineData = "data"

// xattrEntry is one attribute as it goes to the disk.
type xattrEntry struct {
	index uint8
	name  string
	value []byte
}

// xattrs are the attributes of an inode, encoded.
type xattrs struct {
	body  [xattrBodySize]byte // behind the inode's fields; zero without any
	block []byte              // nil if the inode holds all
}

// encodeXattrs lays attributes out. In the order of index, length of name and
// name, which the kernel wants in a block, each goes into the inode if it
// still fits there, else into the block.
func encodeXattrs(list []Xattr) (*xattrs, error) {
	x := new(xattrs)
	if len(list) == 0 {
		return x, nil
	}
	entries, err := xattrEntries(list)
	if err != nil {
		return nil, err
	}
	body := xattrArea{p: x.body[4:], head: 0, tail: xattrBodySize - 4}
	block := xattrArea{head: xattrBlockHeader, tail: BlockSize}
	hash, shared := uint32(0), true
	for i := range entries {
		e := &entries[i]
		if body.fits(e) {
			body.add(e)
			le.PutUint32(x.body[:], xattrMagic)
			continue
		}
		if block.p == nil {
			block.p = make([]byte, BlockSize)
		}
		if !block.fits(e) {
			return nil, fmt.Errorf("%w: %q with a value of %d bytes", ErrXattrTooLarge, e.name, len(e.value))
		}
		h := block.add(e)
		hash = bits.RotateLeft32(hash, 16) ^ h
		shared = shared && h != 0
	}
	if !shared {
		hash = 0 // the kernel's sign that one of the entries' hashes is zero
	}
	if block.p != nil {
		x.block = block.p
		le.PutUint32(x.block[0x00:], xattrMagic)
		le.PutUint32(x.block[0x04:], 1) // references
		le.PutUint32(x.block[0x08:], 1) // blocks
		le.PutUint32(x.block[0x0c:], hash)
	}
	return x, nil
}

// sealXattrs puts the checksum of an attribute block into it.
func sealXattrs(p []byte, seed uint32, block uint64) {
	var number [8]byte
	le.PutUint64(number[:], block)
	le.PutUint32(p[0x10:], crc32c(crc32c(seed, number[:]), p))
}

// xattrEntries gives the sorted, stored form of attributes.
func xattrEntries(list []Xattr) ([]xattrEntry, error) {
	entries := make([]xattrEntry, 0, len(list))
	for i := range list {
		e, err := newXattrEntry(&list[i])
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	order := func(a, b xattrEntry) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), strings.Compare(a.name, b.name))
	}
	slices.SortFunc(entries, order)
	for i := 1; i < len(entries); i++ {
		if order(entries[i-1], entries[i]) == 0 {
			return nil, fmt.Errorf("%w: %q of index %d twice", ErrXattr, entries[i].name, entries[i].index)
		}
	}
	return entries, nil
}

func newXattrEntry(x *Xattr) (xattrEntry, error) {
	if len(x.Value) > BlockSize {
		return xattrEntry{}, fmt.Errorf("%w: %q with a value of %d bytes", ErrXattrTooLarge, x.Name, len(x.Value))
	}
	switch x.Name {
	case "system.posix_acl_access":
		return aclXattr(xattrACLAccess, x.Value)
	case "system.posix_acl_default":
		return aclXattr(xattrACLDefault, x.Value)
	}
	for _, p := range xattrPrefixes {
		name, ok := strings.CutPrefix(x.Name, p.prefix)
		if !ok {
			continue
		}
		if name == "" || len(name) > MaxNameLen || strings.IndexByte(name, 0) >= 0 ||
			p.index == xattrSystem && name == inlineData {
			break
		}
		return xattrEntry{p.index, name, x.Value}, nil
	}
	return xattrEntry{}, fmt.Errorf("%w: name %.300q", ErrXattr, x.Name)
}

func aclXattr(index uint8, value []byte) (xattrEntry, error) {
	disk, err := aclToDisk(value)
	return xattrEntry{index: index, value: disk}, err
}

// hash is what the kernel keeps of an entry; padded is the value with zeros up
// to a multiple of four bytes. The bytes of a name count as unsigned.
func (e *xattrEntry) hash(padded []byte) uint32 {
	var h uint32
	for i := range len(e.name) {
		h = bits.RotateLeft32(h, 5) ^ uint32(e.name[i])
	}
	for ; len(padded) > 0; padded = padded[4:] {
		h = bits.RotateLeft32(h, 16) ^ le.Uint32(padded)
	}
	return h
}

// xattrArea is a place for attributes: entries grow up from head, values down
// from tail, and four zero bytes behind the entries end them.
type xattrArea struct {
	p          []byte
	head, tail int
}

func padXattr(n int) int { return (n + 3) &^ 3 }

func (a *xattrArea) fits(e *xattrEntry) bool {
	return padXattr(xattrEntrySize+len(e.name))+padXattr(len(e.value))+4 <= a.tail-a.head
}

// add appends an entry and returns its hash.
func (a *xattrArea) add(e *xattrEntry) uint32 {
	size := padXattr(len(e.value))
	a.tail -= size
	value := a.p[a.tail : a.tail+size]
	copy(value, e.value)
	at := a.p[a.head:]
	at[0] = uint8(len(e.name))
	at[1] = e.index
	if size > 0 {
		le.PutUint16(at[2:], uint16(a.tail))
	}
	le.PutUint32(at[8:], uint32(len(e.value)))
	h := e.hash(value)
	le.PutUint32(at[12:], h)
	copy(at[xattrEntrySize:], e.name)
	a.head += padXattr(xattrEntrySize + len(e.name))
	return h
}
