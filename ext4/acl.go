package ext4

import "fmt"

// POSIX ACLs. System calls carry an ACL as a version word and entries of eight
// bytes: tag, permissions, ID. The disk has another version word and leaves
// out the ID where the tag has none.
const (
	aclVersion     = 2
	aclDiskVersion = 1
	aclHeader      = 4
	aclEntry       = 8
	aclShortEntry  = 4

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// aclToDisk gives the form on the disk of an ACL.
func aclToDisk(value []byte) ([]byte, error) {
	if len(value) < aclHeader || (len(value)-aclHeader)%aclEntry != 0 {
		return nil, fmt.Errorf("%w: ACL of %d bytes", ErrXattr, len(value))
	}
	if v := le.Uint32(value); v != aclVersion {
		return nil, fmt.Errorf("%w: ACL of version %d, want %d", ErrXattr, v, aclVersion)
	}
	out := le.AppendUint32(make([]byte, 0, len(value)), aclDiskVersion)
	for e := value[aclHeader:]; len(e) > 0; e = e[aclEntry:] {
		switch tag := le.Uint16(e); tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			out = append(out, e[:aclShortEntry]...)
		case aclUser, aclGroup:
			out = append(out, e[:aclEntry]...)
		default:
			return nil, fmt.Errorf("%w: ACL entry with tag %#x", ErrXattr, tag)
		}
	}
	return out, nil
}
