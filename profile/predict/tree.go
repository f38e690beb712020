package predict

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Bounds of what is read to find out.
const (
	maxLookups = 1 << 17   // paths that are looked up
	maxTimes   = 1 << 21   // times that something is
	maxPath    = 512       // bytes of a path
	maxRead    = 256 << 20 // bytes that are read, of all files
	maxText    = 512 << 10 // of a text that is looked through
	maxPlain   = 4 << 20   // of a file of unknown kind that is named, and so is read whole
	maxLinks   = 40        // symbolic links in a path, as Linux has it
	maxGlob    = 128       // files that a pattern stands for
	maxListed  = 1 << 14   // names of a folder that are looked at
	maxNames   = 1 << 18   // of all folders that are
	aheadBytes = 64 << 10  // of either end of a file that will be looked through
)

// A tree is the files of an image, read within bounds. When it is out of them, there is
// nothing any more.
type tree struct {
	ctx     context.Context
	fsys    fs.ReadLinkFS
	err     error // that ended it
	lookups int
	times   int   // that anything was looked up, or compared with a pattern
	names   int   // in folders
	left    int64 // bytes to read
	found   map[string]found
	folders map[string]*folder // by paths without links
	asked   map[string]bool    // files that were said to be looked through soon
}

// A found is what a path leads to; nil info: nothing.
type found struct {
	path  string
	info  fs.FileInfo
	links int // on the way
}

// A file is a regular file of the tree.
type file struct {
	tree *tree
	path string // without links
	mode fs.FileMode
	size int64

	modified int64 // in seconds since 1970
}

func newTree(ctx context.Context, fsys fs.ReadLinkFS) *tree {
	return &tree{ctx: ctx, fsys: fsys, left: maxRead, found: make(map[string]found), folders: make(map[string]*folder), asked: make(map[string]bool)}
}

// failed notes an error that is none of the image's: the store's, or that there is no
// more time. It reports whether anything went wrong.
func (t *tree) failed(err error) bool {
	if err == nil {
		return false
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, io.EOF) && t.err == nil {
		t.err = err
	}
	return true
}

// spent reports whether nothing is found any more, so that it is of no use to go on looking.
func (t *tree) spent() bool {
	if t.err == nil && t.ctx.Err() != nil {
		t.err = context.Cause(t.ctx)
	}
	return t.err != nil || t.times > maxTimes
}

// clean returns a path in io/fs's form, from the root.
func clean(name string) string {
	if name = path.Clean("/" + name); name == "/" {
		return "."
	}
	return name[1:]
}

// resolve returns where a path leads, all links followed.
func (t *tree) resolve(name string) found {
	if t.times++; t.times > maxTimes || len(name) > maxPath {
		return found{}
	}
	links := 0
	return t.follow(clean(name), &links)
}

func (t *tree) follow(name string, links *int) found {
	if r, ok := t.found[name]; ok {
		if *links += r.links; *links > maxLinks {
			return found{}
		}
		return r
	}
	t.lookups++
	if t.spent() || t.lookups > maxLookups || !fs.ValidPath(name) || len(name) > maxPath {
		return found{}
	}
	before := *links
	r := t.step(name, links)
	if *links <= maxLinks { // else the way here was too long: another may lead there
		r.links = *links - before
		t.found[name] = r
	}
	return r
}

// step follows the last part of a path.
func (t *tree) step(name string, links *int) found {
	if name == "." {
		info, err := t.fsys.Lstat(name)
		if t.failed(err) {
			return found{}
		}
		return found{path: name, info: info}
	}
	dir := t.follow(path.Dir(name), links)
	if dir.info == nil || !dir.info.IsDir() {
		return found{}
	}
	base := path.Base(name)
	full := path.Join(dir.path, base)
	info, err := t.lstat(dir.path, base, full)
	if t.failed(err) || info == nil {
		return found{}
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return found{path: full, info: info}
	}
	if *links++; *links > maxLinks {
		return found{}
	}
	target, err := t.fsys.ReadLink(full)
	if t.failed(err) || target == "" {
		return found{}
	}
	if !path.IsAbs(target) {
		target = dir.path + "/" + target
	}
	return t.follow(clean(target), links)
}

// file returns the regular file that a path leads to; nil: there is none.
func (t *tree) file(name string) *file {
	r := t.resolve(name)
	if r.info == nil || !r.info.Mode().IsRegular() {
		return nil
	}
	return &file{t, r.path, r.info.Mode(), r.info.Size(), r.info.ModTime().Unix()}
}

// dir returns the folder that a path leads to, without links; "": there is none.
func (t *tree) dir(name string) string {
	if r := t.resolve(name); r.info != nil && r.info.IsDir() {
		return r.path
	}
	return ""
}

// list returns the names in a folder, sorted; of a very large one, none.
func (t *tree) list(name string) []string {
	dir := t.dir(name)
	if dir == "" {
		return nil
	}
	f := t.folder(dir)
	if t.failed(f.err) {
		return nil
	}
	if f.sorted == nil {
		f.sorted = slices.Sorted(maps.Keys(f.entries))
	}
	return f.sorted
}

// glob returns the paths that a pattern stands for, as a shell would.
func (t *tree) glob(pattern string) []string {
	list := []string{"/"}
	for part := range strings.SplitSeq(strings.Trim(pattern, "/"), "/") {
		var next []string
		for _, dir := range list {
			if !strings.ContainsAny(part, "*?[") {
				next = append(next, path.Join(dir, part))
				continue
			}
			names := t.list(dir)
			if t.times += len(names) / 4; t.times > maxTimes {
				return nil
			}
			for _, name := range names {
				ok, err := path.Match(part, name)
				if err != nil || len(next) >= maxGlob {
					break
				}
				if ok && !strings.HasPrefix(name, ".") {
					next = append(next, path.Join(dir, name))
				}
			}
		}
		list = next
	}
	return list
}

// bytes returns up to n bytes of f, from off on.
func (f *file) bytes(off, n int64) []byte {
	n = min(n, f.size-off)
	if n <= 0 || off < 0 || f.tree.err != nil || f.tree.left < n {
		return nil
	}
	f.tree.left -= n
	in, err := f.tree.fsys.Open(f.path)
	if f.tree.failed(err) {
		return nil
	}
	defer func() { _ = in.Close() }()
	at, ok := in.(io.ReaderAt)
	if !ok {
		return nil
	}
	b := make([]byte, n)
	got, err := at.ReadAt(b, off)
	if got < len(b) {
		f.tree.failed(err)
		return nil
	}
	return b
}

// A Prefetcher is a file system that can bring parts of files closer.
type Prefetcher interface {
	// Prefetch says that bytes of a file will be read, for sure or most likely, and does not
	// wait.
	Prefetch(name string, off, length int64, sure bool)
}

// soon says that f will be looked through: all of a source, of others the beginning, and the
// end, where an object says what it needs.
func (t *tree) soon(f *file) {
	if far, ok := t.fsys.(Prefetcher); ok && t.err == nil && !t.asked[f.path] {
		t.asked[f.path] = true
		if languageOfSource(f.path) != "" && f.size <= maxText {
			far.Prefetch(f.path, 0, f.size, true)
			return
		}
		far.Prefetch(f.path, 0, min(f.size, aheadBytes), false)
		if f.size > aheadBytes {
			far.Prefetch(f.path, max(aheadBytes, f.size-aheadBytes), aheadBytes, false)
		}
	}
}

// text returns a file's contents if it looks like text, and is no longer than one that is
// looked through.
func (f *file) text() []byte {
	if f.size > maxText {
		return nil
	}
	b := f.bytes(0, f.size)
	if bytes.IndexByte(b[:min(len(b), 4096)], 0) >= 0 {
		return nil
	}
	return b
}
