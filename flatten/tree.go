package flatten

import "strings"

// Walk calls fn for each node, in walk order: the root first, a directory
// before what it holds, siblings by the bytes of their names. It stops at the
// first error of fn and returns it.
func (t *Tree) Walk(fn func(path string, n *Node) error) error {
	return walkNode(".", t.Root, fn)
}

func walkNode(path string, n *Node, fn func(path string, n *Node) error) error {
	if err := fn(path, n); err != nil {
		return err
	}
	for _, c := range n.Children {
		below := c.Name
		if path != "." {
			below = path + "/" + c.Name
		}
		if err := walkNode(below, c, fn); err != nil {
			return err
		}
	}
	return nil
}

// Lookup returns the node at path, as an Entry has it, or nil. It follows no
// symbolic links.
func (t *Tree) Lookup(path string) *Node {
	n := t.Root
	if path == "." {
		return n
	}
	for part := range strings.SplitSeq(path, "/") {
		if n = n.child(part); n == nil {
			return nil
		}
	}
	return n
}

// child finds a name in the sorted children.
func (n *Node) child(name string) *Node {
	lo, hi := 0, len(n.Children)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := strings.Compare(n.Children[mid].Name, name); {
		case c == 0:
			return n.Children[mid]
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return nil
}
