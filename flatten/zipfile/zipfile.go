// Package zipfile reads zip archives of strangers: functions, wheels.
//
// [Open] reads an archive's directory and refuses what could be taken for two
// things or would land outside of the archive's own root: absolute names, "..",
// names that are there twice or lie below a file or a symbolic link, links that lead
// out, and what the format cannot say plainly. What it returns are entries in walk
// order, as package flatten has them. Data are checked against their size and CRC-32
// while they are read.
//
// Bombs are bounded before anything is unpacked: entries may not share bytes of the
// file, may not promise more than deflate can make of theirs, and all of them together
// not more than [Limits] allow.
package zipfile

import (
	"archive/zip"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/flate"

	"github.com/rivuletfs/rivulet/flatten"
)

// Limits bounds an archive. A zero field means its default.
type Limits struct {
	MaxEntries int   // default 1 million
	MaxBytes   int64 // of all files, unpacked; default 8 GiB
}

const (
	maxEntries        = 1_000_000
	maxBytes          = 8 << 30
	maxDirectoryBytes = 192 << 20 // read before the first file: names and sizes of all
	maxRatio          = 1040      // deflate's best is 1032 to 1
	ratioSlack        = 4 << 10   // bytes unpacked that need no bytes packed
)

// ErrLimit is returned (wrapped) for an archive that is larger than a limit allows.
var ErrLimit = flatten.ErrLimit

// An Archive is an open zip file. Several goroutines may read from it at once.
type Archive struct {
	// Entries is what is in it, in walk order, without the directories that only a
	// path implies. Owners are root. Modes have no set-user-ID, set-group-ID and sticky
	// bits; where the archive says none, they are 0644 and 0755.
	Entries []flatten.Entry

	file  *os.File
	files []*zip.File // of the entry of the same index
}

// Open opens the archive at path and checks its directory. The caller closes it.
func Open(path string, lim Limits) (*Archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	a := &Archive{file: f}
	if err := a.read(lim); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

// Close closes the file.
func (a *Archive) Close() error { return a.file.Close() }

func (a *Archive) read(lim Limits) error {
	info, err := a.file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	return a.readFrom(a.file, info.Size(), lim)
}

func (a *Archive) readFrom(from io.ReaderAt, size int64, lim Limits) error {
	if lim.MaxEntries == 0 {
		lim.MaxEntries = maxEntries
	}
	if lim.MaxBytes == 0 {
		lim.MaxBytes = maxBytes
	}
	gate := &gatedReader{from: from, left: maxDirectoryBytes}
	z, err := zip.NewReader(gate, size)
	if errors.Is(err, zip.ErrInsecurePath) {
		err = nil // pathOf looks at names itself
	}
	if gate.err != nil {
		return gate.err
	}
	if err != nil {
		return fmt.Errorf("no zip archive that can be read: %w", err)
	}
	gate.open = true
	if len(z.File) > lim.MaxEntries {
		return fmt.Errorf("%w: %d entries, at most %d are allowed", ErrLimit, len(z.File), lim.MaxEntries)
	}
	z.RegisterDecompressor(zip.Deflate, func(r io.Reader) io.ReadCloser { return flate.NewReader(r) })
	if err := checkSizes(z.File, size, lim); err != nil {
		return err
	}
	type both struct {
		entry flatten.Entry
		file  *zip.File
	}
	var all []both
	for _, f := range z.File {
		e, err := entryOf(f)
		if err != nil {
			return &flatten.EntryError{Path: f.Name, Err: err}
		}
		if e.Path != "." { // the root is the caller's
			all = append(all, both{e, f})
		}
	}
	slices.SortStableFunc(all, func(x, y both) int { return flatten.ComparePaths(x.entry.Path, y.entry.Path) })
	for _, b := range all {
		a.Entries, a.files = append(a.Entries, b.entry), append(a.files, b.file)
	}
	return a.checkTree()
}

// gatedReader bounds what is read until it is open.
type gatedReader struct {
	from io.ReaderAt
	left int64
	open bool
	err  error
}

func (g *gatedReader) ReadAt(p []byte, off int64) (int, error) {
	if g.open {
		return g.from.ReadAt(p, off)
	}
	if g.left -= int64(len(p)); g.left < 0 {
		g.err = fmt.Errorf("%w: directory of more than %d bytes", ErrLimit, maxDirectoryBytes)
		return 0, g.err
	}
	return g.from.ReadAt(p, off)
}

// checkSizes refuses bombs by what the directory promises, which reading holds it to.
func checkSizes(files []*zip.File, size int64, lim Limits) error {
	type extent struct{ from, to int64 }
	extents := make([]extent, 0, len(files))
	left := uint64(lim.MaxBytes)
	for _, f := range files {
		refuse := func(err error) error { return &flatten.EntryError{Path: f.Name, Err: err} }
		if f.UncompressedSize64 > left {
			return refuse(fmt.Errorf("%w: more than %d bytes unpacked in all", ErrLimit, lim.MaxBytes))
		}
		left -= f.UncompressedSize64
		if f.CompressedSize64 > uint64(size) {
			return refuse(errors.New("its data are longer than the archive"))
		}
		if f.UncompressedSize64 > f.CompressedSize64*maxRatio+ratioSlack {
			return refuse(fmt.Errorf("%w: %d bytes said to be packed into %d", ErrLimit, f.UncompressedSize64, f.CompressedSize64))
		}
		if f.Method == zip.Store && f.UncompressedSize64 != f.CompressedSize64 {
			return refuse(fmt.Errorf("%d bytes, stored as they are in %d", f.UncompressedSize64, f.CompressedSize64))
		}
		at, err := f.DataOffset()
		if err != nil {
			return refuse(err)
		}
		if at > size-int64(f.CompressedSize64) {
			return refuse(errors.New("its data reach past the archive's end"))
		}
		if f.CompressedSize64 > 0 {
			extents = append(extents, extent{at, at + int64(f.CompressedSize64)})
		}
	}
	slices.SortFunc(extents, func(x, y extent) int { return cmp.Compare(x.from, y.from) })
	for i := 1; i < len(extents); i++ {
		if extents[i].from < extents[i-1].to {
			return errors.New("two entries share bytes of the archive, as in a zip bomb")
		}
	}
	return nil
}

const (
	flagEncrypted = 1 << 0
	creatorUnix   = 3
	creatorMacOS  = 19
)

func entryOf(f *zip.File) (flatten.Entry, error) {
	e := flatten.Entry{}
	creator := f.CreatorVersion >> 8
	unixMade := creator == creatorUnix || creator == creatorMacOS
	var err error
	if e.Path, err = pathOf(f.Name, unixMade); err != nil {
		return e, err
	}
	e.MTime = flatten.TimeOf(f.Modified)
	if f.Flags&flagEncrypted != 0 {
		return e, errors.New("encrypted entries are not supported")
	}
	if f.Method != zip.Store && f.Method != zip.Deflate {
		return e, fmt.Errorf("compression method %d is not supported, only deflate (8) and none (0)", f.Method)
	}
	var mode fs.FileMode
	if unixMade {
		mode = f.Mode()
	}
	isDir := strings.HasSuffix(f.Name, "/")
	switch kind := mode.Type(); {
	case kind == fs.ModeDir || kind == 0 && isDir:
		e.Kind, e.Mode = flatten.Dir, 0o755
		if f.UncompressedSize64 != 0 {
			return e, errors.New("a directory with data")
		}
	case isDir:
		return e, errors.New("named as a directory, and said to be something else")
	case kind == fs.ModeSymlink:
		e.Kind, e.Mode = flatten.Symlink, 0o777
		e.Target, err = targetOf(f)
		return e, err
	case kind == 0:
		e.Kind, e.Mode, e.Size = flatten.File, 0o644, int64(f.UncompressedSize64)
	default:
		return e, errors.New("neither file, directory nor symbolic link")
	}
	if perm := mode.Perm(); perm != 0 {
		e.Mode = uint16(perm)
	}
	return e, nil
}

// pathOf returns a name as an Entry's Path.
func pathOf(name string, unixMade bool) (string, error) {
	if !unixMade && strings.Contains(name, `\`) {
		return "", errors.New(`"\" in a name: pack the archive with "/"`)
	}
	if strings.HasPrefix(name, "/") {
		return "", errors.New("absolute name")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return "", errors.New(`".." in a name: it could lead out of the archive`)
		case strings.HasPrefix(part, ".wh."):
			return "", errors.New(`name that begins with ".wh.": in a layer it would hide a file`)
		case strings.IndexByte(part, 0) >= 0:
			return "", errors.New("name holds a NUL byte")
		case len(part) > flatten.MaxNameBytes:
			return "", fmt.Errorf("name of %d bytes: at most %d are allowed", len(part), flatten.MaxNameBytes)
		default:
			parts = append(parts, part)
		}
	}
	switch path := strings.Join(parts, "/"); {
	case name == "":
		return "", errors.New("empty name")
	case path == "" && strings.HasSuffix(name, "/"):
		return ".", nil
	case path == "":
		return "", errors.New("no name")
	case len(path) > flatten.MaxPathBytes:
		return "", fmt.Errorf("path of %d bytes: at most %d are allowed", len(path), flatten.MaxPathBytes)
	default:
		return path, nil
	}
}

func targetOf(f *zip.File) (string, error) {
	if f.UncompressedSize64 == 0 || f.UncompressedSize64 > flatten.MaxPathBytes {
		return "", fmt.Errorf("symbolic link of %d bytes: 1 to %d are allowed", f.UncompressedSize64, flatten.MaxPathBytes)
	}
	r, err := f.Open()
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(r, flatten.MaxPathBytes+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return "", err
	}
	if uint64(len(data)) != f.UncompressedSize64 || strings.IndexByte(string(data), 0) >= 0 {
		return "", errors.New("symbolic link whose target is damaged")
	}
	return string(data), nil
}

// checkTree refuses names that are there twice or lie below what holds none, and links
// that lead out.
func (a *Archive) checkTree() error {
	for i := range a.Entries {
		e := &a.Entries[i]
		refuse := func(err error) error { return &flatten.EntryError{Path: e.Path, Err: err} }
		if i > 0 && a.Entries[i-1].Path == e.Path {
			return refuse(errors.New("there twice"))
		}
		for dir, _ := cut(e.Path); dir != "."; dir, _ = cut(dir) {
			if p, ok := a.find(dir); ok && p.Kind != flatten.Dir {
				return refuse(fmt.Errorf("lies below %q, which is a %s", dir, kindName(p.Kind)))
			}
		}
	}
	return nil
}

// CheckLinks refuses symbolic links that lead out of the archive when it is unpacked in
// root, a clean path as an Entry has it. What a target leads through is followed as
// far as the archive has it: a ".." behind a link of the archive is refused.
func (a *Archive) CheckLinks(root string) error {
	for i := range a.Entries {
		e := &a.Entries[i]
		if e.Kind != flatten.Symlink {
			continue
		}
		if err := a.checkLink(e, root); err != nil {
			return &flatten.EntryError{Path: e.Path, Err: fmt.Errorf("symbolic link to %q: %w", e.Target, err)}
		}
	}
	return nil
}

var errLeadsOut = errors.New("leads out of the archive: use tar: or dir: for a tree with such links")

func (a *Archive) checkLink(e *flatten.Entry, root string) error {
	at, _ := cut(e.Path)
	target := e.Target
	if strings.HasPrefix(target, "/") {
		rest, ok := strings.CutPrefix(strings.TrimLeft(target, "/")+"/", root+"/")
		if root == "." {
			rest, ok = strings.TrimLeft(target, "/"), true
		}
		if !ok {
			return errLeadsOut
		}
		at, target = ".", rest
	}
	linked := false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if at == "." || linked {
				return errLeadsOut
			}
			at, _ = cut(at)
		default:
			at = Join(at, part)
			if p, ok := a.find(at); ok && p.Kind == flatten.Symlink {
				linked = true
			}
		}
	}
	return nil
}

func kindName(k flatten.Kind) string {
	if k == flatten.Symlink {
		return "symbolic link"
	}
	return "file"
}

func cut(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return ".", path
	}
	return path[:i], path[i+1:]
}

// Join returns the path of name below dir, both as an Entry has them.
func Join(dir, name string) string {
	switch {
	case dir == ".":
		return name
	case name == ".":
		return dir
	}
	return dir + "/" + name
}

func (a *Archive) find(path string) (*flatten.Entry, bool) {
	i, ok := a.Find(path)
	if !ok {
		return nil, false
	}
	return &a.Entries[i], true
}

// Find returns the index of the entry at path.
func (a *Archive) Find(path string) (int, bool) {
	return slices.BinarySearchFunc(a.Entries, path, func(e flatten.Entry, path string) int {
		return flatten.ComparePaths(e.Path, path)
	})
}

// Copy gives the data of entry i to fn, and then checks that they were all there and
// have the archive's checksum. What fn leaves unread is read by Copy. What fn made of
// the data is good only if Copy returns no error.
func (a *Archive) Copy(i int, fn func(data io.Reader) error) (err error) {
	e := &a.Entries[i]
	defer func() {
		if err != nil {
			err = &flatten.EntryError{Path: e.Path, Err: err}
		}
	}()
	if e.Kind != flatten.File {
		return errors.New("not a file")
	}
	r, err := a.files[i].Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := fn(io.LimitReader(r, e.Size)); err != nil {
		return err
	}
	// archive/zip knows length and checksum, and tells at the end.
	_, err = io.Copy(io.Discard, io.LimitReader(r, e.Size+1))
	return err
}

// ReadAll returns the data of entry i, which may be of at most max bytes.
func (a *Archive) ReadAll(i int, max int64) ([]byte, error) {
	if size := a.Entries[i].Size; size > max {
		return nil, &flatten.EntryError{Path: a.Entries[i].Path, Err: fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrLimit, size, max)}
	}
	var data []byte
	err := a.Copy(i, func(r io.Reader) (err error) {
		data, err = io.ReadAll(r)
		return err
	})
	return data, err
}
