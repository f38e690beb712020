// Package place has the names of what lies in an origin, for every store that
// keeps things under paths or keys: doc/format/origin.md as code. All names are
// relative and have slashes on every system.
package place

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rivuletfs/rivulet/chunk"
	"github.com/rivuletfs/rivulet/origin"
)

// Places of an origin.
const (
	Version     = "version"           // says that this is an origin, and of which format
	Probe       = "probe"             // is there while a server is asked what it can do
	VersionText = "rivulet store 3\n" // the content of Version
	Generations = "generations"       // has a folder for each generation
	Pointers    = "pointers"          // those of the origin, and in a generation its own
)

// Places of a generation.
const (
	Chunks      = "chunks"
	Objects     = "objects/sha256"
	Attachments = "attachments"
)

// Index is the file beside attachments of a kind that lists them, for readers
// that cannot list. It is a cell, whose value AppendIndex makes.
const Index = "index"

// MaxIndexBytes is the size of the largest index as it is stored, a cell.
const MaxIndexBytes = origin.MaxAttachments*indexLine + CellBytes

const indexLine = 2*sha256.Size + 1

// CheckVersion returns a nil error if content is that of Version, and else
// origin.ErrVersion, wrapped.
func CheckVersion(content []byte) error {
	if string(content) != VersionText {
		return fmt.Errorf("%w: %.64q, this program knows %q", origin.ErrVersion, content, VersionText)
	}
	return nil
}

// Generation returns the folder of a generation.
func Generation(id origin.GenerationID) string { return Generations + "/" + id.String() }

// Hashed returns the place of what is named by a SHA-256, below folder: Chunks
// or Objects.
func Hashed(folder string, id [32]byte) string {
	name := hex.EncodeToString(id[:])
	return folder + "/" + name[:2] + "/" + name
}

// Attached returns the folder for the attachments of a kind that subject has.
func Attached(subject origin.Digest, kind string) string {
	return Attachments + "/" + hex.EncodeToString(subject[:]) + "/" + kind
}

// ParseHashed returns the SHA-256 that the last element of a path is, in 64
// lower-case hexadecimal digits.
func ParseHashed(name string) (id [32]byte, ok bool) {
	c, err := chunk.ParseID(path.Base(name))
	return c, err == nil
}

// AppendIndex appends the index that lists the attachments with these digests,
// in the order given.
func AppendIndex(dst []byte, list []origin.Digest) []byte {
	for _, d := range list {
		dst = append(hex.AppendEncode(dst, d[:]), '\n')
	}
	return dst
}

// ParseIndex is the inverse of AppendIndex. It refuses more than
// origin.MaxAttachments digests.
func ParseIndex(data []byte) ([]origin.Digest, error) {
	if len(data)%indexLine != 0 || len(data)/indexLine > origin.MaxAttachments {
		return nil, fmt.Errorf("index of attachments: %d bytes, want lines of %d, at most %d", len(data), indexLine, origin.MaxAttachments)
	}
	list := make([]origin.Digest, 0, len(data)/indexLine)
	for line := range slices.Chunk(data, indexLine) {
		hex, ok := strings.CutSuffix(string(line), "\n")
		id, err := chunk.ParseID(hex)
		if !ok || err != nil {
			return nil, fmt.Errorf("index of attachments: line %q is no digest", line)
		}
		list = append(list, origin.Digest(id))
	}
	return list, nil
}

// AddToIndex returns the index data with d added, and whether it was not in it.
// An index that cannot be read is begun anew.
func AddToIndex(data []byte, d origin.Digest) (index []byte, added bool, err error) {
	list, err := ParseIndex(data)
	if err != nil {
		list = nil
	}
	if slices.Contains(list, d) {
		return data, false, nil
	}
	if len(list) >= origin.MaxAttachments {
		return nil, false, fmt.Errorf("already %d of this kind", len(list))
	}
	return AppendIndex(nil, append(list, d)), true, nil
}
