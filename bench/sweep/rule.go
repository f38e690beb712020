package main

import (
	"encoding/binary"
	"hash/crc32"
	"path"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/layout"
)

// A rule says whether a bin may end after file i. The zero rule is layout's own.
type rule struct {
	name string
	ends func(files []file, i int, oneIn int) bool
}

// rules are what was tried beside the rule that layout has, which comes first.
var rules = []rule{
	{name: "last two parts of the path"},
	{"name only", func(f []file, i, n int) bool { return hits([]byte(path.Base(f[i].path)), n) }},
	{"whole path", func(f []file, i, n int) bool { return hits([]byte(f[i].path), n) }},
	{"content", func(f []file, i, n int) bool { return hits(f[i].blocks[0][:], n) }},
	{"content, next file", func(f []file, i, n int) bool { return i+1 < len(f) && hits(f[i+1].blocks[0][:], n) }},
	{"end of a folder", func(f []file, i, _ int) bool { return i+1 < len(f) && path.Dir(f[i].path) != path.Dir(f[i+1].path) }},
	{"last two parts, chance by size", func(f []file, i, n int) bool {
		const usual = 8 << 10 // bytes of a file that has the chance of one in n
		tail := path.Join(path.Base(path.Dir(f[i].path)), path.Base(f[i].path))
		blocks := (f[i].size + ext4.BlockSize - 1) / ext4.BlockSize
		return uint64(crc32.ChecksumIEEE([]byte(tail)))*uint64(n)*usual < uint64(blocks)*ext4.BlockSize<<32
	}},
	{"never (full bins only)", func([]file, int, int) bool { return false }},
}

func hits(b []byte, oneIn int) bool { return crc32.ChecksumIEEE(b)%uint32(oneIn) == 0 }

// plan places the files. layout knows only its own rule, which looks at paths;
// another rule is put to it as a path that does, or does not, end a bin.
func plan(files []file, p point) (*layout.Segment, error) {
	entries := make([]flatten.Entry, len(files))
	for i := range files {
		entries[i] = flatten.Entry{Path: files[i].path, Attr: flatten.Attr{Kind: flatten.File, Size: files[i].size}}
	}
	params := p.Params
	if p.rule.ends != nil {
		params.CutOneIn = 2
		for i := range entries {
			entries[i].Path = endPath[p.rule.ends(files, i, p.CutOneIn)]
		}
	}
	return layout.PlanSegment(entries, params)
}

// endPath has a path that ends a bin where one in two does, and one that does not.
var endPath = findPaths()

func findPaths() map[bool]string {
	out := make(map[bool]string)
	for i := uint32(0); len(out) < 2; i++ {
		name := string(binary.BigEndian.AppendUint32([]byte("x"), i))
		out[hits([]byte(name), 2)] = name
	}
	return out
}
