package place

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"github.com/rivuletfs/rivulet/origin"
)

// A cell is what changes in place: a pointer, or an index. Nothing names its
// bytes, so it ends in a line that proves them: the SHA-256 of its own place, a
// zero byte and the value. Other bytes, or those of another cell, do not pass
// for it. Those that it had before do.
const cellMark = "sha256 "

// CellBytes is how much longer a cell is than its value: cellMark, hexadecimal
// digits, a newline.
const CellBytes = 7 + 2*sha256.Size + 1

// AppendCell appends to dst the cell with that value, for the place at, which is
// relative to the origin: generations/1/pointers/a=.
func AppendCell(dst []byte, at string, value []byte) []byte {
	dst = append(dst, value...)
	dst = append(dst, cellMark...)
	dst = hex.AppendEncode(dst, cellSum(at, value))
	return append(dst, '\n')
}

// ParseCell returns the value of a cell that was read from the place at, as a
// part of content. It is origin.ErrCorrupt if content is not what AppendCell
// makes.
func ParseCell(at string, content []byte) ([]byte, error) {
	n := len(content) - CellBytes
	if n < 0 || !bytes.Equal(content, AppendCell(make([]byte, 0, len(content)), at, content[:n])) {
		return nil, origin.ErrCorrupt
	}
	return content[:n:n], nil
}

func cellSum(at string, value []byte) []byte {
	h := sha256.New()
	h.Write([]byte(at))
	h.Write([]byte{0})
	h.Write(value)
	return h.Sum(nil)
}
