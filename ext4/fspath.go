package ext4

import (
	"io/fs"
	"slices"
	"strings"
)

// maxLinks is how many symbolic links a name may lead through.
const maxLinks = 40

// A walk is the way from the root along a name.
type walk struct {
	fsys    *FS
	dirs    []*inodeView // from the root down to where the walk stands
	pending []string     // parts of the name that are left, the next one last
	links   int
}

// walk finds the inode of a name; follow says whether to follow a symbolic
// link at its end.
func (fsys *FS) walk(op, name string, follow bool) (*inodeView, error) {
	// Names on a disk are bytes, and need not be UTF-8.
	if !fs.ValidPath(strings.ToValidUTF8(name, "?")) {
		return nil, pathError(op, name, fs.ErrInvalid)
	}
	root, err := fsys.readInode(RootInode)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	if !root.isDir() {
		return nil, pathError(op, name, root.damaged("the root is not a directory"))
	}
	w := walk{fsys: fsys, dirs: []*inodeView{root}}
	w.push(name)
	v, err := w.run(follow)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return v, nil
}

// push makes the parts of a path the next ones to go.
func (w *walk) push(path string) {
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	slices.Reverse(parts)
	w.pending = append(w.pending, parts...)
}

func (w *walk) run(follow bool) (*inodeView, error) {
	for len(w.pending) > 0 {
		last := len(w.pending) - 1
		part := w.pending[last]
		w.pending = w.pending[:last]
		switch part {
		case ".":
			continue
		case "..":
			w.dirs = w.dirs[:max(1, len(w.dirs)-1)]
			continue
		}
		v, err := w.step(part)
		if err != nil {
			return nil, err
		}
		switch {
		case v.isDir():
			w.dirs = append(w.dirs, v)
		case v.isSymlink() && (follow || last > 0):
			if err := w.follow(v); err != nil {
				return nil, err
			}
		case last > 0:
			return nil, &classError{fs.ErrNotExist, errNotDir}
		default:
			return v, nil
		}
	}
	return w.dirs[len(w.dirs)-1], nil
}

// step finds a name in the directory where the walk stands.
func (w *walk) step(name string) (*inodeView, error) {
	dir := w.dirs[len(w.dirs)-1]
	number, err := w.fsys.lookup(dir, name)
	if err != nil {
		return nil, err
	}
	if number == 0 {
		return nil, fs.ErrNotExist
	}
	v, err := w.fsys.readInode(number)
	if err != nil {
		return nil, err
	}
	if v.isDir() && slices.ContainsFunc(w.dirs, func(d *inodeView) bool { return d.Number == number }) {
		return nil, v.damaged("directory that contains itself")
	}
	return v, nil
}

func (w *walk) follow(link *inodeView) error {
	if w.links++; w.links > maxLinks {
		return errLinkLoop
	}
	target, err := w.fsys.readTarget(link)
	if err != nil {
		return err
	}
	if target[0] == '/' {
		w.dirs = w.dirs[:1]
	}
	w.push(target)
	return nil
}
