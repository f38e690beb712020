package main

import (
	"encoding/binary"
	"hash/crc32"
	"path"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/layout"
)

// A rule says after which files a bin may end, if it is full enough. The rule
// without ends is layout's own.
type rule struct {
	name string
	ends func(files []file, p layout.Params) []bool
}

// rules are what was tried beside the rule that layout has, which comes first.
var rules = []rule{
	{name: "two parts"},
	{"name only", each(func(f *file, n int) bool { return hash(path.Base(f.path))%uint32(n) == 0 })},
	{"whole path", each(func(f *file, n int) bool { return hash(f.path)%uint32(n) == 0 })},
	{"content", each(func(f *file, n int) bool { return f.id[0] < byte(256/n) })},
	{"end of a folder", func(files []file, _ layout.Params) []bool {
		out := make([]bool, len(files))
		for i := range len(files) - 1 {
			out[i] = path.Dir(files[i].path) != path.Dir(files[i+1].path)
		}
		return out
	}},
	{"never: full bins only", each(func(*file, int) bool { return false })},
	{"two parts, once in 32 KiB", bySize(32 << 10)},
	{"two parts, once in 64 KiB", bySize(64 << 10)},
	{"two parts, once in 128 KiB", bySize(128 << 10)},
	{"lowest hash", lowest},
}

func hash(s string) uint32 { return crc32.ChecksumIEEE([]byte(s)) }

// tail returns the last two parts of the path.
func (f *file) tail() string { return path.Join(path.Base(path.Dir(f.path)), path.Base(f.path)) }

func (f *file) bytes() int { return len(f.blocks) * ext4.BlockSize }

// each makes a rule of one that looks at one file.
func each(ends func(f *file, oneIn int) bool) func([]file, layout.Params) []bool {
	return func(files []file, p layout.Params) []bool {
		out := make([]bool, len(files))
		for i := range files {
			out[i] = ends(&files[i], p.CutOneIn)
		}
		return out
	}
}

// bySize gives large files a larger chance, so that bins may end once in so
// many bytes, whatever the files' sizes.
func bySize(once uint64) func([]file, layout.Params) []bool {
	return each(func(f *file, _ int) bool { return uint64(hash(f.tail()))*once < uint64(f.bytes())<<32 })
}

// lowest ends a bin after the file of the lowest hash among those that would
// make a bin of a size that is allowed.
func lowest(files []file, p layout.Params) []bool {
	out := make([]bool, len(files))
	fill, best := 0, -1
	for i := 0; i <= len(files); i++ {
		switch {
		case i < len(files) && int(files[i].size) >= p.Large:
		case i < len(files) && fill+files[i].bytes() <= p.Chunk:
			fill += files[i].bytes()
			if fill >= p.MinBin && (best < 0 || hash(files[i].tail()) < hash(files[best].tail())) {
				best = i
			}
		case i < len(files):
			if best >= 0 {
				out[best] = true
				i = best // go on after it
			} else {
				i--
			}
			fill, best = 0, -1
		}
	}
	return out
}

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
		for i, end := range p.rule.ends(files, p.Params) {
			entries[i].Path = endPath[end]
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
		out[hash(name)%2 == 0] = name
	}
	return out
}
