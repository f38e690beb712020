package main

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"path"
	"slices"

	"github.com/rivuletfs/rivulet/ext4"
	"github.com/rivuletfs/rivulet/flatten"
	"github.com/rivuletfs/rivulet/layout"
)

// A rule says where a bin that is full ends: after the first file of which ends
// says so, from the smallest bin on, else after its last. The rule without ends
// is layout's own.
type rule struct {
	name string
	ends func(f *file, next *file) bool // next is nil behind the last
}

// rules are what was tried beside the rule that layout has, which comes first.
var rules = []rule{
	{name: "lowest hash"},
	{"two parts, one in 4", oneIn(4, (*file).tail)},
	{"two parts, one in 8", oneIn(8, (*file).tail)},
	{"two parts, one in 16", oneIn(16, (*file).tail)},
	{"two parts, one in 32", oneIn(32, (*file).tail)},
	{"name only, one in 8", oneIn(8, func(f *file) string { return path.Base(f.path) })},
	{"whole path, one in 8", oneIn(8, func(f *file) string { return f.path })},
	{"content, one in 8", func(f, _ *file) bool { return f.id[0] < 256/8 }},
	{"end of a folder", func(f, next *file) bool { return next != nil && path.Dir(f.path) != path.Dir(next.path) }},
	{"never: full bins only", func(_, _ *file) bool { return false }},
	{"two parts, once in 32 KiB", onceIn(32 << 10)},
	{"two parts, once in 64 KiB", onceIn(64 << 10)},
	{"two parts, once in 128 KiB", onceIn(128 << 10)},
}

func hash(s string) uint32 { return crc32.ChecksumIEEE([]byte(s)) }

// tail returns the last two parts of the path.
func (f *file) tail() string { return path.Join(path.Base(path.Dir(f.path)), path.Base(f.path)) }

func (f *file) bytes() int { return len(f.blocks) * ext4.BlockSize }

// oneIn ends a bin after one of n names.
func oneIn(n uint32, name func(*file) string) func(f, next *file) bool {
	return func(f, _ *file) bool { return hash(name(f))%n == 0 }
}

// onceIn gives large files a larger chance, so that bins may end once in so
// many bytes, whatever the files' sizes.
func onceIn(bytes uint64) func(f, next *file) bool {
	return func(f, _ *file) bool { return uint64(hash(f.tail()))*bytes < uint64(f.bytes())<<32 }
}

// plan places the files. layout knows only its own rule, which looks at paths;
// another is put to it as paths: one of the lowest hash where a bin ends, and
// such whose hashes fall elsewhere, so that of those the last one counts.
func plan(files []file, p point) (*layout.Segment, error) {
	entries := make([]flatten.Entry, len(files))
	paths := falling[:]
	for i := range files {
		entries[i] = flatten.Entry{Path: files[i].path, Attr: flatten.Attr{Kind: flatten.File, Size: files[i].size}}
		if p.rule.ends == nil {
			continue
		}
		var next *file
		if i+1 < len(files) {
			next = &files[i+1]
		}
		if p.rule.ends(&files[i], next) {
			entries[i].Path = falling[len(falling)-1]
			continue
		}
		if len(paths) == 1 {
			return nil, fmt.Errorf("layer of %d files: at most %d can be planned by rule %q", len(files), len(falling), p.rule.name)
		}
		entries[i].Path, paths = paths[0], paths[1:]
	}
	return layout.PlanSegment(entries, p.Params)
}

// falling are names by falling hash.
var falling = func() []string {
	names := make([]string, 1<<18)
	for i := range names {
		names[i] = fmt.Sprintf("%06x", i)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(hash(b), hash(a)) })
	return names
}()
