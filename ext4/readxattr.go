package ext4

import (
	"fmt"
	"slices"
	"strings"
)

// readXattrs gives the attributes of a file, sorted.
func (fsys *FS) readXattrs(v *inodeView) ([]Xattr, error) {
	list, err := v.bodyXattrs()
	if err != nil {
		return nil, err
	}
	if v.xattrBlock != 0 {
		p, err := fsys.readXattrBlock(v)
		if err != nil {
			return nil, err
		}
		if list, err = v.decodeXattrs(list, p, p[xattrBlockHeader:]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(list); i++ {
		if list[i].Name == list[i-1].Name {
			return nil, v.damaged("attribute %q twice", list[i].Name)
		}
	}
	return list, nil
}

// bodyXattrs gives the attributes in the inode itself, in its order.
func (v *inodeView) bodyXattrs() ([]Xattr, error) {
	if len(v.attrs) < 4 || le.Uint32(v.attrs) != xattrMagic {
		return nil, nil
	}
	return v.decodeXattrs(nil, v.attrs[4:], v.attrs[4:])
}

// inlineRest gives the part of a file in its inode that is kept as attribute.
func (v *inodeView) inlineRest() ([]byte, error) {
	if len(v.attrs) < 4 || le.Uint32(v.attrs) != xattrMagic {
		return nil, nil
	}
	var rest []byte
	err := v.eachXattr(v.attrs[4:], v.attrs[4:], func(index uint8, name string, value []byte) error {
		if index == xattrSystem && name == inlineData {
			rest = value
		}
		return nil
	})
	return rest, err
}

func (fsys *FS) readXattrBlock(v *inodeView) ([]byte, error) {
	if !fsys.super.checkRun(v.xattrBlock, 1) {
		return nil, v.damaged("attributes in block %d of %d", v.xattrBlock, fsys.super.blocks)
	}
	return fsys.readBlock(blockKey{block: v.xattrBlock, kind: xattrBlockView}, func(p []byte) error {
		if le.Uint32(p) != xattrMagic || le.Uint32(p[0x08:]) != 1 {
			return damagedBlock(v.xattrBlock, "no attributes")
		}
		if !fsys.super.checksums {
			return nil
		}
		var number [8]byte
		le.PutUint64(number[:], v.xattrBlock)
		sum := crc32c(crc32c(fsys.super.checksumSeed, number[:]), p[:0x10])
		sum = crc32c(sum, make([]byte, 4))
		if crc32c(sum, p[0x14:]) != le.Uint32(p[0x10:]) {
			return damagedBlock(v.xattrBlock, "wrong checksum of attributes")
		}
		return nil
	})
}

// decodeXattrs adds the attributes of an area to list.
func (v *inodeView) decodeXattrs(list []Xattr, area, entries []byte) ([]Xattr, error) {
	left := len(area) // sound values do not overlap
	err := v.eachXattr(area, entries, func(index uint8, name string, value []byte) error {
		if index == xattrSystem && name == inlineData {
			return nil
		}
		if left -= len(value); left < 0 {
			return v.damaged("attributes overlap")
		}
		x, err := v.newXattr(index, name, value)
		list = append(list, x)
		return err
	})
	return list, err
}

// eachXattr calls fn for each attribute in entries. Their values are part of
// area, and not fn's own.
func (v *inodeView) eachXattr(area, entries []byte, fn func(index uint8, name string, value []byte) error) error {
	for len(entries) >= 4 && le.Uint32(entries) != 0 {
		if len(entries) < xattrEntrySize || len(entries) < xattrEntrySize+int(entries[0]) {
			return v.damaged("attribute without an end")
		}
		at, size := uint64(le.Uint16(entries[2:])), uint64(le.Uint32(entries[8:]))
		name := string(entries[xattrEntrySize:][:entries[0]])
		if le.Uint32(entries[4:]) != 0 {
			return v.unsupported(fmt.Sprintf("attribute %q has an inode of its own", name))
		}
		if size > 0 && at+size > uint64(len(area)) {
			return v.damaged("attribute %q of %d bytes at %d of %d", name, size, at, len(area))
		}
		var value []byte
		if size > 0 {
			value = area[at : at+size]
		}
		if err := fn(entries[1], name, value); err != nil {
			return err
		}
		entries = entries[min(padXattr(xattrEntrySize+len(name)), len(entries)):]
	}
	return nil
}

// newXattr gives an attribute its whole name, and a value of its own.
func (v *inodeView) newXattr(index uint8, name string, value []byte) (Xattr, error) {
	switch index {
	case xattrACLAccess, xattrACLDefault:
		x := Xattr{Name: "system.posix_acl_access"}
		if index == xattrACLDefault {
			x.Name = "system.posix_acl_default"
		}
		acl, ok := aclFromDisk(value)
		if !ok || name != "" {
			return x, v.damaged("invalid ACL of %d bytes", len(value))
		}
		x.Value = acl
		return x, nil
	}
	for _, p := range xattrPrefixes {
		if p.index == index && name != "" && strings.IndexByte(name, 0) < 0 {
			return Xattr{p.prefix + name, slices.Clone(value)}, nil
		}
	}
	return Xattr{}, v.damaged("attribute %q of kind %d", name, index)
}

// aclFromDisk gives the form for system calls of an ACL.
func aclFromDisk(p []byte) ([]byte, bool) {
	if len(p) < aclHeader || le.Uint32(p) != aclDiskVersion {
		return nil, false
	}
	out := le.AppendUint32(nil, aclVersion)
	for p = p[aclHeader:]; len(p) >= aclShortEntry; {
		size := aclShortEntry
		switch le.Uint16(p) {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			out = append(out, p[:aclShortEntry]...)
			out = le.AppendUint32(out, aclNoID)
		case aclUser, aclGroup:
			if size = aclEntry; len(p) < size {
				return nil, false
			}
			out = append(out, p[:aclEntry]...)
		default:
			return nil, false
		}
		p = p[size:]
	}
	return out, len(p) == 0
}

// aclNoID stands for the ID of an entry that has none.
const aclNoID = 1<<32 - 1
