package flatten

import (
	"io"
	"io/fs"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Kind is the type of an entry.
type Kind uint8

// The kinds of entries. Link is a further name of a file: of the same layer if
// its Entries have the target, else of a lower one. It exists in layers only,
// never in a Tree.
const (
	Dir Kind = 1 + iota
	File
	Symlink
	Char
	Block
	FIFO
	Link
)

// Time is a point in time as an inode keeps it: seconds since 1970, negative
// before, and nanoseconds from 0 to 999,999,999 added to them.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Xattr is one extended attribute, its name with its namespace
// ("security.capability").
type Xattr struct {
	Name  string
	Value string
}

// Attr is what an inode has beside its data.
type Attr struct {
	Kind         Kind
	Mode         uint16 // permission, set-id and sticky bits: 0 to 07777
	UID, GID     uint32
	MTime        Time
	Major, Minor uint32  // of Char and Block
	Target       string  // of a Symlink, as it stands; of a Link, the path it names, cleaned
	Size         int64   // bytes of a File
	Xattrs       []Xattr // sorted by name, no name twice
}

// An Entry is one path that a layer names, or implies by naming something
// below it.
type Entry struct {
	// Path is relative to the root, slash-separated, without "." or ".." parts;
	// the root itself is ".".
	Path string
	Attr
	// Implied marks a directory that has no entry of its own. It takes effect
	// only where no lower layer has a directory at that path.
	Implied bool
	// Data is where a File's bytes begin in Layer.Data.
	Data int64
}

// A Layer is the content of one layer, read and put in order: what is left
// when its entries are applied one after the other to an empty root.
type Layer struct {
	DiffID v1.Hash
	// Entries is in walk order: a directory before what it holds, siblings by
	// the bytes of their names. No path stands twice. The root comes first if
	// the layer names it. Every entry but those of the root has its parent
	// directory among the entries, implied if need be (or a Symlink, where the
	// layer itself puts entries below a symbolic link).
	Entries []Entry
	// Whiteouts are the paths that the layer removes from the layers below, and
	// Opaques the directories whose lower content it hides; both sorted.
	Whiteouts []string
	Opaques   []string
	// Data holds the bytes of all files; whoever made the layer closes it.
	Data io.ReaderAt
}

// An Inode is a file of the flattened tree; several nodes may share one.
type Inode struct {
	Attr
	// Layer and Entry say which entry gave data and attributes, as indexes into
	// the merged layers and their Entries. Both are -1 for a directory that no
	// layer names or implies.
	Layer, Entry int
	// Links counts the names; for a directory, 2 and one for each directory in it.
	Links int
	// First is the node, among all that share the inode, that comes first by
	// (home layer, home rank): it gives the inode its number.
	First *Node
	// Number is the inode's number; Merge leaves it 0, package layout sets it.
	Number uint32
}

// A Node is one name of the flattened tree.
type Node struct {
	Name     string // the last part of the path; "." for the root
	Inode    *Inode
	Parent   *Node   // of the root, the root
	Children []*Node // of a directory, in byte order of names
	// HomeLayer and HomeRank name the lowest layer that names or implies this
	// path and the path's index in that layer's Entries. They outlive
	// whiteouts, so that a path's inode number stays what it was. No two nodes
	// have the same. Both are -1 where no entry stands for the path: the root,
	// if no layer names it, and directories made where a symbolic link among
	// an entry's parents led nowhere.
	HomeLayer, HomeRank int

	depth  uint16 // directories above; Merge bounds it
	listed bool   // while Merge works: Parent.Children has it
}

// A Tree is an image's root file system: what overlayfs would show for its layers.
type Tree struct {
	Root *Node
}

// FileMode returns the entry's type and mode as the io/fs package writes them.
func (a *Attr) FileMode() fs.FileMode {
	m := fs.FileMode(a.Mode & 0o777)
	for _, b := range []struct {
		bit  uint16
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if a.Mode&b.bit != 0 {
			m |= b.mode
		}
	}
	switch a.Kind {
	case Dir:
		m |= fs.ModeDir
	case Symlink:
		m |= fs.ModeSymlink
	case Char:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case Block:
		m |= fs.ModeDevice
	case FIFO:
		m |= fs.ModeNamedPipe
	}
	return m
}

// Path returns the node's path as an Entry would have it.
func (n *Node) Path() string {
	if n.Parent == n {
		return "."
	}
	path := n.Name
	for p := n.Parent; p.Parent != p; p = p.Parent {
		path = p.Name + "/" + path
	}
	return path
}
