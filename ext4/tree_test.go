package ext4

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// node is a file of a tree to be written, with what a reader has to find.
type node struct {
	inode   Inode
	data    []byte // of a regular file; blocks of zeros become holes
	entries []entry
}

// entry is a name for a node; several names may have one node.
type entry struct {
	name string
	node *node
}

func directoryNode(entries ...entry) *node {
	return &node{inode: Inode{Mode: ModeDir | 0o755}, entries: entries}
}

func regularNode(data []byte) *node {
	return &node{inode: Inode{Mode: ModeRegular | 0o644}, data: data}
}

func linkNode(target string) *node {
	return &node{inode: Inode{Mode: ModeSymlink | 0o777, Target: target}}
}

// builder numbers the nodes of a tree in the order of a walk and places their
// data one behind the other.
type builder struct {
	t     testing.TB
	w     *Writer
	d     *memDisk
	inode uint32
	block uint64
	gap   uint64 // free blocks between two extents
}

// build writes a tree to a device of the given configuration.
func build(t testing.TB, c Config, root *node, gap uint64) *memDisk {
	t.Helper()
	w, d := newTestWriter(t, c)
	b := &builder{t: t, w: w, d: d, inode: FirstInode, block: c.Low, gap: gap}
	b.number(root)
	root.inode.Number = RootInode
	b.directory(root, RootInode)
	must(t, w.Close())
	if n := d.zeroBlocks(); n != 0 {
		t.Errorf("%d blocks of zeros were written", n)
	}
	return d
}

// number gives each node below n its number and counts its names.
func (b *builder) number(n *node) {
	for _, e := range n.entries {
		c := e.node
		if c.inode.Links++; c.inode.Links == 1 {
			c.inode.Number = b.inode
			b.inode++
			b.number(c)
		}
	}
}

func (b *builder) directory(n *node, parent uint32) {
	var entries []Dirent
	for _, e := range n.entries {
		c := e.node
		entries = append(entries, Dirent{e.name, c.inode.Number, c.inode.Mode & ModeType})
	}
	must(b.t, b.w.AddDir(&n.inode, parent, entries))
	for _, e := range n.entries {
		switch c := e.node; {
		case c.inode.Mode&ModeType == ModeDir:
			b.directory(c, n.inode.Number)
		case !b.w.alloc.inodeUsed(c.inode.Number):
			b.place(c)
			must(b.t, b.w.Add(&c.inode))
		}
	}
}

// place writes the data of a regular file and fills its extents.
func (b *builder) place(n *node) {
	if n.inode.Mode&ModeType != ModeRegular {
		return
	}
	n.inode.Size = int64(len(n.data))
	for at := 0; at < len(n.data); at += BlockSize {
		p := n.data[at:min(at+BlockSize, len(n.data))]
		if isZero(p) {
			continue
		}
		if _, err := b.d.WriteAt(p, int64(b.block)*BlockSize); err != nil {
			b.t.Fatal(err)
		}
		n.inode.Extents = append(n.inode.Extents, Extent{uint32(at / BlockSize), 1, b.block})
		b.block += 1 + b.gap
	}
}

func isZero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// fsckTime is the year 2310: later times are sound, but e2fsck takes them for
// ones before 1970 that an old kernel wrote wrongly, until the year 2242.
const fsckTime = 3<<32 - 1<<31

// randomTree makes a tree with every kind of file, the same for a seed.
func randomTree(seed uint64, files int) *node {
	r := rand.New(rand.NewPCG(seed, 0))
	root := directoryNode()
	dirs := []*node{root}
	var plain []*node
	randomAttributes(r, root)
	for i := range files {
		parent := dirs[r.IntN(len(dirs))]
		name := fmt.Sprintf("%d%s", i, randomName(r))
		if len(plain) > 0 && r.IntN(10) == 0 {
			parent.entries = append(parent.entries, entry{name, plain[r.IntN(len(plain))]})
			continue
		}
		n := randomNode(r)
		randomAttributes(r, n)
		if n.inode.Mode&ModeType == ModeDir {
			dirs = append(dirs, n)
		} else {
			plain = append(plain, n)
		}
		parent.entries = append(parent.entries, entry{name, n})
	}
	return root
}

func randomName(r *rand.Rand) string {
	p := make([]byte, r.IntN(200)/(1+r.IntN(20)))
	for i := range p {
		for p[i] == 0 || p[i] == '/' {
			p[i] = byte(r.Uint32())
		}
	}
	return string(p)
}

func randomNode(r *rand.Rand) *node {
	switch r.IntN(12) {
	case 0, 1, 2:
		return directoryNode()
	case 3:
		return linkNode(randomName(r) + "x")
	case 4:
		return &node{inode: Inode{Mode: ModeChar | 0o600, Major: r.Uint32N(1 << 12), Minor: r.Uint32N(1 << 20)}}
	case 5:
		return &node{inode: Inode{Mode: ModeBlock | 0o600, Major: r.Uint32N(256), Minor: r.Uint32N(256)}}
	case 6:
		return &node{inode: Inode{Mode: ModeFIFO | 0o600}}
	case 7:
		return &node{inode: Inode{Mode: ModeSocket | 0o600}}
	}
	data := make([]byte, r.IntN(300_000)/(1+r.IntN(30)))
	for at := 0; at < len(data); at += BlockSize {
		if r.IntN(4) > 0 {
			data[at] = byte(r.Uint32())
			data[min(at+BlockSize, len(data))-1] = byte(r.Uint32())
		}
	}
	return regularNode(data)
}

func randomAttributes(r *rand.Rand, n *node) {
	ino := &n.inode
	if t := ino.Mode & ModeType; t != ModeSymlink {
		ino.Mode = t | uint16(r.Uint32N(1<<12))
	}
	ino.UID, ino.GID = r.Uint32()>>r.IntN(32), r.Uint32()>>r.IntN(32)
	ino.MTime = Time{minTime + r.Int64N(fsckTime-minTime), r.Uint32N(1_000_000_000)}
	if r.IntN(3) > 0 {
		return
	}
	for i := range r.IntN(5) {
		name := fmt.Sprintf("trusted.%d%s", i, randomName(r))
		if ino.Mode&ModeType == ModeRegular && r.IntN(2) == 0 {
			name = fmt.Sprintf("user.%d", i)
		}
		value := make([]byte, r.IntN(700)/(1+r.IntN(40)))
		for i := range value {
			value[i] = byte(r.Uint32())
		}
		ino.Xattrs = append(ino.Xattrs, Xattr{name, value})
	}
}

func TestRandomTrees(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			d := build(t, testConfig(), randomTree(seed, 50<<seed%800), seed%2)
			fsck(t, d.file(t))
		})
	}
}
