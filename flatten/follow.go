package flatten

import (
	"errors"
	"fmt"
	"strings"
)

const (
	maxHops     = 255     // symbolic links followed for one path
	maxFollowed = 1 << 30 // bytes of paths gone through links, in one Merge
)

var errTooManyLinks = errors.New("too many symbolic links")

// child returns what dir has under name now, or nil.
func (m *merger) child(dir *Node, name string) *Node {
	if n := m.names[nameKey{dir, name}]; n != nil && n.Inode != nil {
		return n
	}
	return nil
}

// parent returns the directory that path leads to, and makes what is missing.
func (m *merger) parent(path string) (*Node, error) {
	if m.dir != nil && m.dirPath == path {
		return m.dir, nil
	}
	w := walk{m: m, create: true}
	dir, err := w.to(path)
	if err != nil {
		return nil, err
	}
	m.dirPath, m.dir = path, dir
	return dir, nil
}

// lookup returns the node at path, or nil. Symbolic links among its parents are
// followed, one at the path itself is not.
func (m *merger) lookup(path string) (*Node, error) {
	if path == "." {
		return m.root, nil
	}
	dirPath, name := splitPath(path)
	w := walk{m: m}
	dir, err := w.to(dirPath)
	if dir == nil || err != nil {
		return nil, err
	}
	return m.child(dir, name), nil
}

// hidden returns the directory at path in which the present layer hides
// something, or nil. A symbolic link that this layer replaces is not followed.
func (m *merger) hidden(path string) (*Node, error) {
	w := walk{m: m, keepReplaced: true}
	return w.to(path)
}

// A walk follows one path from the root, through symbolic links, and never
// leaves the root.
type walk struct {
	m            *merger
	create       bool // make directories that are missing
	keepReplaced bool // stop at links that the present layer has an entry for

	dir     *Node    // where the walk is
	missing []string // below dir, and not there
	rest    string   // what is still to go
	hops    int
}

// to returns the directory at path, or nil where there is none.
func (w *walk) to(path string) (*Node, error) {
	w.dir, w.rest = w.m.root, path
	for w.rest != "" {
		part, rest, _ := strings.Cut(w.rest, "/")
		w.rest = rest
		switch {
		case part == "" || part == ".":
		case part == "..":
			if n := len(w.missing); n > 0 {
				w.missing = w.missing[:n-1]
			} else {
				w.dir = w.dir.Parent
			}
		case len(w.missing) > 0:
			w.missing = append(w.missing, part)
		default:
			if ok, err := w.step(part, path); !ok {
				return nil, err
			}
		}
	}
	for _, name := range w.missing {
		node, err := w.m.insert(w.dir, name, w.m.unnamedDir())
		if err != nil {
			return nil, err
		}
		w.dir = node
	}
	return w.dir, nil
}

// step goes to one part that is there, or finds that it is missing.
func (w *walk) step(part, path string) (ok bool, err error) {
	child := w.m.child(w.dir, part)
	switch {
	case child == nil:
		w.missing = append(w.missing, part)
		return w.create, nil
	case child.Inode.Kind == Dir:
		w.dir = child
		return true, nil
	case child.Inode.Kind == Symlink:
		if w.keepReplaced && w.hops == 0 && w.replaced(path) {
			return false, nil
		}
		return w.hop(child.Inode.Target)
	case w.create:
		return false, fmt.Errorf("%w: %q", errNotDirectory, child.Path())
	}
	return false, nil
}

func (w *walk) hop(target string) (ok bool, err error) {
	w.hops++
	w.m.followed += len(target) + len(w.rest)
	if w.hops > maxHops || w.m.followed > maxFollowed {
		return false, errTooManyLinks
	}
	if strings.HasPrefix(target, "/") {
		w.dir = w.m.root
	}
	w.rest = target + "/" + w.rest
	return true, nil
}

// replaced reports whether the present layer has an entry of its own for the
// part of path that was walked so far. No link was followed until now.
func (w *walk) replaced(path string) bool {
	done := strings.TrimSuffix(path[:len(path)-len(w.rest)], "/")
	at, ok := w.m.from.find(done)
	return ok && !w.m.from.Entries[at].Implied
}
