package flatten

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// The times that an ext4 inode of 256 bytes can keep, in seconds since 1970:
// December 1901 to May 2446.
const (
	MinTime = math.MinInt32
	MaxTime = 1<<34 + math.MinInt32 - 1
)

const (
	paxXattr  = "SCHILY.xattr."
	paxSparse = "GNU.sparse."

	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// attrOf returns what a header says of an inode, except for links, whose
// targets and owners the caller looks after.
func attrOf(h *tar.Header) (Attr, error) {
	a := Attr{Mode: uint16(h.Mode & 0o7777), MTime: TimeOf(h.ModTime)}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		a.Kind, a.Size = File, h.Size
	case tar.TypeDir:
		a.Kind = Dir
	case tar.TypeSymlink:
		a.Kind, a.Target = Symlink, h.Linkname
	case tar.TypeChar:
		a.Kind = Char
	case tar.TypeBlock:
		a.Kind = Block
	case tar.TypeFifo:
		a.Kind = FIFO
	default:
		return a, fmt.Errorf("type %q is not supported", h.Typeflag)
	}
	if a.Kind == Symlink {
		if a.Target == "" || len(a.Target) > MaxPathBytes || strings.IndexByte(a.Target, 0) >= 0 {
			return a, fmt.Errorf("symbolic link: target of %d bytes: want 1 to %d without NUL", len(a.Target), MaxPathBytes)
		}
		a.Mode = 0o777 // Linux keeps no other
	}
	if a.Kind == Char || a.Kind == Block {
		if h.Devmajor < 0 || h.Devmajor > MaxMajor || h.Devminor < 0 || h.Devminor > MaxMinor {
			return a, fmt.Errorf("device %d:%d: at most %d:%d is supported", h.Devmajor, h.Devminor, MaxMajor, MaxMinor)
		}
		a.Major, a.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	if uint64(h.Uid) > math.MaxUint32 || uint64(h.Gid) > math.MaxUint32 {
		return a, fmt.Errorf("owner %d:%d: want 0 to %d", h.Uid, h.Gid, uint32(math.MaxUint32))
	}
	a.UID, a.GID = uint32(h.Uid), uint32(h.Gid)
	var err error
	a.Xattrs, err = xattrsOf(h, a.Kind)
	return a, err
}

// TimeOf moves a time into what an inode can keep. At either end the kernel
// keeps no part of a second, and neither do we.
func TimeOf(t time.Time) Time {
	switch sec := t.Unix(); {
	case sec <= MinTime:
		return Time{Sec: MinTime}
	case sec >= MaxTime:
		return Time{Sec: MaxTime}
	default:
		return Time{Sec: sec, Nsec: uint32(t.Nanosecond())}
	}
}

func xattrsOf(h *tar.Header, kind Kind) ([]Xattr, error) {
	var out []Xattr
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !StorableXattr(name, kind) {
			continue
		}
		if len(name) > MaxNameBytes || len(value) > MaxXattrBytes {
			return nil, fmt.Errorf("attribute %q of %d bytes: names have at most %d bytes, values %d",
				name[:min(len(name), MaxNameBytes)], len(value), MaxNameBytes, MaxXattrBytes)
		}
		out = append(out, Xattr{Name: name, Value: strings.Clone(value)})
	}
	slices.SortFunc(out, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// StorableXattr reports whether Linux lets a file of that kind have an
// attribute of that name. Others are no part of a Layer.
func StorableXattr(name string, kind Kind) bool {
	switch name {
	case aclAccess:
		return kind != Symlink
	case aclDefault:
		return kind == Dir
	}
	namespace, rest, _ := strings.Cut(name, ".")
	switch namespace {
	case "user":
		return rest != "" && (kind == File || kind == Dir)
	case "security", "trusted":
		return rest != ""
	}
	return false
}

// isSparse reports whether the data of an entry are expanded while reading.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, paxSparse) {
			return true
		}
	}
	return false
}

// Names with these prefixes are not files but say something of other names.
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

type role uint8

const (
	plain    role = iota
	whiteout      // hides a path of lower layers
	opaque        // hides all that lower layers have in a directory
	ignored
)

// roleOf says what the name of an entry means, and for whiteouts and opaque
// directories which path is hidden.
func roleOf(path string) (role, string, error) {
	if !strings.Contains(path, whiteoutPrefix) {
		return plain, path, nil
	}
	dir, name := splitPath(path)
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, metaPrefix) {
			return ignored, "", nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return plain, "", errors.New("path leads through the name of a whiteout")
		}
	}
	switch hidden, ok := strings.CutPrefix(name, whiteoutPrefix); {
	case !ok:
		return plain, path, nil
	case name == opaqueName:
		return opaque, dir, nil
	case strings.HasPrefix(name, metaPrefix):
		return ignored, "", nil
	case hidden == "" || hidden == "." || hidden == "..":
		return plain, "", errors.New("whiteout of no name")
	case dir == ".":
		return whiteout, hidden, nil
	default:
		return whiteout, dir + "/" + hidden, nil
	}
}
