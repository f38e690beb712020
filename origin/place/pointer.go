package place

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// How a pointer's name becomes a path. Lower-case letters, digits and . _ - :
// @ stand for themselves, every other byte is % and two lower-case hexadecimal
// digits; so names that differ in case stay apart on file systems that ignore
// it. A part of the name is a directory; one longer than maxPart is several,
// all but the last of them ending in ~. The file ends in =, so that a and a/b
// can both be.
const (
	plainBytes = "abcdefghijklmnopqrstuvwxyz0123456789._-:@"
	maxPart    = 200 // bytes of an encoded part in one path element
	moreMark   = "~"
	fileMark   = "="
)

// PointerFolder returns the folder that the pointers lie in whose names begin
// with the parts of name, which may be empty, and a slash.
func PointerFolder(name string) string {
	var path strings.Builder
	path.WriteString(Pointers)
	if name == "" {
		return path.String()
	}
	for part := range strings.SplitSeq(name, "/") {
		path.WriteByte('/')
		element := 0
		for i := range len(part) {
			if element >= maxPart {
				path.WriteString(moreMark + "/")
				element = 0
			}
			if strings.IndexByte(plainBytes, part[i]) >= 0 {
				path.WriteByte(part[i])
				element++
			} else {
				fmt.Fprintf(&path, "%%%02x", part[i])
				element += 3
			}
		}
	}
	return path.String()
}

// PrefixFolder returns the folder below which all pointers lie whose names begin
// with prefix, or false if no name can begin so.
func PrefixFolder(prefix string) (string, bool) {
	parts := prefix[:max(0, strings.LastIndexByte(prefix, '/'))] // complete ones
	if parts != "" && origin.ValidName(parts) != nil || strings.HasPrefix(prefix, "/") {
		return "", false
	}
	return PointerFolder(parts), true
}

// Pointer returns the place of the pointer of that name, which must be valid.
func Pointer(name string) string { return PointerFolder(name) + fileMark }

// ParsePointer is the inverse of [Pointer]. It is false for every other path.
func ParsePointer(path string) (name string, ok bool) {
	coded, ok := strings.CutPrefix(path, Pointers+"/")
	if !ok {
		return "", false
	}
	if coded, ok = strings.CutSuffix(coded, fileMark); !ok {
		return "", false
	}
	coded = strings.ReplaceAll(coded, moreMark+"/", "")
	var plain []byte
	for i := 0; i < len(coded); i++ {
		c := coded[i]
		if c == '%' {
			if i+2 >= len(coded) {
				return "", false
			}
			v, err := strconv.ParseUint(coded[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			c = byte(v)
			i += 2
		}
		plain = append(plain, c)
	}
	name = string(plain)
	if Pointer(name) != path {
		return "", false
	}
	return name, origin.ValidName(name) == nil
}

// TombstoneBytes is the size of a tombstone as it is stored, a cell: one more
// than that of any pointer.
const TombstoneBytes = origin.MaxPointerBytes + 1 + CellBytes

// Tombstone returns the value that stands in the place of a pointer that was
// removed, in stores that can replace under a condition but not remove under one.
func Tombstone() []byte {
	return append([]byte(tombstoneText), make([]byte, TombstoneBytes-CellBytes-len(tombstoneText))...)
}

const tombstoneText = "removed\n"

// IsTombstone reports whether the value of a pointer says that there is none.
func IsTombstone(value []byte) bool {
	return len(value) == TombstoneBytes-CellBytes && string(value) == string(Tombstone())
}

// PointerValue returns v, the value of a pointer's cell, if it is one that a
// pointer can have. For a tombstone it returns chunk.ErrNotFound.
func PointerValue(v []byte) ([]byte, error) {
	switch {
	case IsTombstone(v):
		return nil, chunk.ErrNotFound
	case len(v) > origin.MaxPointerBytes:
		return nil, fmt.Errorf("value of more than %d bytes", origin.MaxPointerBytes)
	}
	return v, nil
}
