package flatten

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Merge applies layers to one another, the first lowest, and returns the tree
// that results; the package comment has the rules. It keeps the layers' strings
// and attributes, not their data. The same layers give the same tree.
//
// A layer that contradicts those below (a hard link without target, a parent
// that is a file) gives a *MergeError.
func Merge(layers []*Layer) (*Tree, error) {
	total := 0
	for _, l := range layers {
		total += len(l.Entries) + len(l.Whiteouts) + len(l.Opaques)
	}
	if total > maxEntries {
		return nil, fmt.Errorf("merge layers: %w: %d entries, at most %d are allowed", ErrLimit, total, maxEntries)
	}
	m := newMerger(total)
	for i, l := range layers {
		m.layer, m.from = i, l
		if err := m.apply(); err != nil {
			return nil, err
		}
	}
	return m.finish(), nil
}

// A MergeError says which entry of which layer cannot be applied, and why.
type MergeError struct {
	Layer int // index into the merged layers
	Path  string
	Err   error
}

func (e *MergeError) Error() string {
	return fmt.Sprintf("merge layer %d: entry %q: %v", e.Layer, e.Path, e.Err)
}

func (e *MergeError) Unwrap() error { return e.Err }

// errNoTarget is what a hard link gives whose target no layer has.
var errNoTarget = errors.New("hard link target does not exist")

// A merger holds the tree while layers are applied.
type merger struct {
	root *Node
	// names finds a directory's child. It keeps nodes that were removed, whose
	// Inode is nil, since a path's home outlives whiteouts.
	names map[nameKey]*Node
	layer int    // index of the layer being applied
	from  *Layer // that layer

	followed int // bytes of paths gone through symbolic links so far
	nodes    slab[Node]
	inodes   slab[Inode]

	dirPath string // the parent looked up last, and where it led
	dir     *Node
}

type nameKey struct {
	dir  *Node
	name string
}

// slab hands out pointers into larger allocations.
type slab[T any] []T

func (s *slab[T]) take() *T {
	if len(*s) == 0 {
		*s = make([]T, 256)
	}
	t := &(*s)[0]
	*s = (*s)[1:]
	return t
}

func newMerger(entries int) *merger {
	m := &merger{names: make(map[nameKey]*Node, entries/2)}
	m.root = &Node{Name: ".", HomeLayer: -1, HomeRank: -1}
	m.root.Parent = m.root
	m.root.Inode = m.unnamedDir()
	return m
}

// unnamedDir is the inode of a directory that no entry stands for.
func (m *merger) unnamedDir() *Inode {
	in := m.inodes.take()
	*in = Inode{Attr: Attr{Kind: Dir, Mode: 0o755}, Layer: -1, Entry: -1}
	return in
}

// apply applies one layer.
func (m *merger) apply() error {
	links, err := m.lowerLinks()
	if err != nil {
		return err
	}
	if err := m.hide(); err != nil {
		return err
	}
	m.dirPath, m.dir = ".", m.root
	late := m.belowLinks()
	for i := range m.from.Entries {
		if _, is := slices.BinarySearch(late, i); !is {
			if err := m.putOwn(i); err != nil {
				return err
			}
		}
	}
	for _, i := range late {
		if err := m.putOwn(i); err != nil {
			return err
		}
	}
	return m.putLinks(links)
}

func (m *merger) fail(path string, err error) error {
	return &MergeError{Layer: m.layer, Path: path, Err: err}
}

// belowLinks returns the entries that lie below a symbolic link of their own
// layer. In walk order they follow that link.
func (m *merger) belowLinks() []int {
	var late []int
	link := ""
	for i := range m.from.Entries {
		e := &m.from.Entries[i]
		if link != "" && isBelow(e.Path, link) {
			late = append(late, i)
		} else if e.Kind == Symlink {
			link = e.Path
		}
	}
	return late
}

// putOwn applies entry i unless it is a hard link.
func (m *merger) putOwn(i int) error {
	e := &m.from.Entries[i]
	if e.Kind == Link {
		return nil
	}
	if err := m.put(i, nil); err != nil {
		return m.fail(e.Path, err)
	}
	return nil
}

// put applies one entry. For a link, inode is what it names.
func (m *merger) put(i int, inode *Inode) error {
	e := &m.from.Entries[i]
	if e.Path == "." {
		m.take(m.root, i)
		m.setAttr(m.root.Inode, i)
		return nil
	}
	dirPath, name := splitPath(e.Path)
	dir, err := m.parent(dirPath)
	if err != nil {
		return err
	}
	node := m.names[nameKey{dir, name}]
	if node != nil && node.Inode != nil {
		if e.Kind == Dir && node.Inode.Kind == Dir {
			if !e.Implied || node.Inode.Entry < 0 {
				m.setAttr(node.Inode, i)
			}
			m.take(node, i)
			return nil
		}
		if e.Implied && node.Inode.Kind == Symlink {
			return nil // followed by what lies below
		}
		if inode == node.Inode {
			return nil
		}
		m.remove(node)
	}
	if inode == nil {
		inode = m.inodes.take()
		m.setAttr(inode, i)
	}
	node, err = m.insert(dir, name, inode)
	if err != nil {
		return err
	}
	m.take(node, i)
	return nil
}

// setAttr makes the present layer's entry i what inode is.
func (m *merger) setAttr(inode *Inode, i int) {
	inode.Attr, inode.Layer, inode.Entry = m.from.Entries[i].Attr, m.layer, i
}

// take gives node its home, unless a lower layer has.
func (m *merger) take(node *Node, i int) {
	if node.HomeLayer < 0 {
		node.HomeLayer, node.HomeRank = m.layer, i
	}
}

// insert adds a name to dir, or brings one back that was removed.
func (m *merger) insert(dir *Node, name string, inode *Inode) (*Node, error) {
	key := nameKey{dir, name}
	node := m.names[key]
	if node == nil {
		if int(dir.depth) >= MaxDepth {
			return nil, fmt.Errorf("%w: more than %d directories above one another", ErrLimit, MaxDepth)
		}
		node = m.nodes.take()
		*node = Node{Name: name, Parent: dir, HomeLayer: -1, HomeRank: -1, depth: dir.depth + 1}
		m.names[key] = node
	}
	node.Inode = inode
	if !node.listed {
		node.listed = true
		dir.Children = append(dir.Children, node)
	}
	return node, nil
}

// remove takes node, and what is below it, out of the tree.
func (m *merger) remove(node *Node) {
	m.dir = nil
	m.clear(node)
	node.Inode = nil
}

// clear empties a directory.
func (m *merger) clear(node *Node) {
	for _, c := range node.Children {
		c.listed = false
		if c.Inode != nil {
			m.clear(c)
			c.Inode = nil
		}
	}
	node.Children = nil
}

// lowerLinks finds the inodes of the links that name files of lower layers,
// before the present layer changes those. It returns nil for the rest.
func (m *merger) lowerLinks() (map[int]*Inode, error) {
	links := make(map[int]*Inode)
	for i := range m.from.Entries {
		e := &m.from.Entries[i]
		if e.Kind != Link {
			continue
		}
		if at, ok := m.from.find(e.Target); ok {
			if k := m.from.Entries[at].Kind; k == Dir || k == Link {
				return nil, m.fail(e.Path, fmt.Errorf("%w: %q", errNoTarget, e.Target))
			}
			continue
		}
		node, err := m.lookup(e.Target)
		if err != nil {
			return nil, m.fail(e.Path, err)
		}
		links[i] = nil
		if node != nil {
			links[i] = node.Inode
		}
	}
	return links, nil
}

// hide applies whiteouts and opaque directories to what lower layers have.
func (m *merger) hide() error {
	for _, path := range m.from.Whiteouts {
		dirPath, name := splitPath(path)
		dir, err := m.hidden(dirPath)
		if err != nil {
			return m.fail(path, err)
		}
		if dir == nil {
			continue
		}
		if node := m.child(dir, name); node != nil {
			m.remove(node)
		}
	}
	for _, path := range m.from.Opaques {
		node, err := m.hidden(path)
		if err != nil {
			return m.fail(path, err)
		}
		if node != nil {
			m.dir = nil
			m.clear(node)
		}
	}
	return nil
}

// putLinks applies the layer's hard links, when all else that they may name is
// there. One link can name another, by a way through symbolic links: a link
// without a target waits until the others are put.
func (m *merger) putLinks(lower map[int]*Inode) error {
	var links, waiting []int
	for i := range m.from.Entries {
		if m.from.Entries[i].Kind == Link {
			links = append(links, i)
		}
	}
	for len(links) > 0 {
		for _, i := range links {
			put, err := m.putLink(i, lower[i])
			if err != nil {
				return m.fail(m.from.Entries[i].Path, err)
			}
			if !put {
				waiting = append(waiting, i)
			}
		}
		if len(waiting) == len(links) {
			e := &m.from.Entries[waiting[0]]
			return m.fail(e.Path, fmt.Errorf("%w: %q", errNoTarget, e.Target))
		}
		links, waiting = waiting, links[:0]
	}
	return nil
}

// putLink applies entry i, a hard link to inode or, if that is nil, to what its
// target leads to. It does nothing, and says so, if that is not there.
func (m *merger) putLink(i int, inode *Inode) (bool, error) {
	e := &m.from.Entries[i]
	if inode == nil {
		node, err := m.lookup(e.Target)
		if err != nil {
			return false, err
		}
		if node == nil {
			m.followed += len(e.Target) // so that looking again and again has an end
			if m.followed > maxFollowed {
				return false, errTooManyLinks
			}
			return false, nil
		}
		inode = node.Inode
	}
	if inode.Kind == Dir {
		return false, fmt.Errorf("%w: %q", errLinkToDir, e.Target)
	}
	return true, m.put(i, inode)
}

// finish drops what was removed, sorts, and counts names.
func (m *merger) finish() *Tree {
	stack := []*Node{m.root}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		in := n.Inode
		in.Links++
		if in.First == nil || n.before(in.First) {
			in.First = n
		}
		if in.Kind != Dir {
			continue
		}
		in.Links = 2
		n.Children = slices.DeleteFunc(n.Children, func(c *Node) bool { return c.Inode == nil })
		slices.SortFunc(n.Children, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
		for _, c := range n.Children {
			if c.Inode.Kind == Dir {
				in.Links++
			}
		}
		stack = append(stack, n.Children...)
	}
	return &Tree{Root: m.root}
}

// before orders nodes by home.
func (n *Node) before(o *Node) bool {
	if n.HomeLayer != o.HomeLayer {
		return n.HomeLayer < o.HomeLayer
	}
	return n.HomeRank < o.HomeRank
}
