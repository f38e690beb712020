package ext4

import (
	"context"
	"errors"
	"io"
	"path"
)

// maxPath bounds the paths that are followed, in bytes: the kernel's bound.
const maxPath = 4096

// nameOwners finds a name for each owner that may have one.
func (fsys *FS) nameOwners(ctx context.Context, owners []Owner) error {
	names := make(map[uint32]string) // of the owners' inodes; empty: not found yet
	for i := range owners {
		switch o := &owners[i]; o.Use {
		case FileData, DirectoryData, LinkTarget, MapNode, Attributes:
			if o.Inode >= fsys.super.firstInode {
				names[o.Inode] = ""
			}
		}
	}
	if left := len(names); left > 0 {
		err := fsys.eachName(ctx, func(number uint32, dir, name string) (more bool) {
			if known, ok := names[number]; ok && known == "" {
				names[number] = path.Join(dir, name)
				left--
			}
			return left > 0
		})
		if err != nil {
			return err
		}
	}
	names[RootInode] = "."
	for i := range owners {
		if owners[i].Use != InodeTable {
			owners[i].Path = names[owners[i].Inode]
		}
	}
	return nil
}

// A bitSet holds numbers, and takes memory for those that lie together.
type bitSet map[uint32]uint64

// add reports whether n is new.
func (s bitSet) add(n uint32) bool {
	word, bit := s[n/64], uint64(1)<<(n%64)
	s[n/64] = word | bit
	return word&bit == 0
}

// An openLevel is a directory whose entries are being read.
type openLevel struct {
	path string
	scan *dirScan
}

// eachName calls fn for each name in the tree, a directory's before those in it,
// until fn wants no more. A directory is entered once, by its first name, and none
// whose path is longer than maxPath.
func (fsys *FS) eachName(ctx context.Context, fn func(number uint32, dir, name string) (more bool)) error {
	entered := bitSet{}
	var levels []openLevel
	enter := func(number uint32, name string) error {
		if len(name) > maxPath || !entered.add(number) {
			return nil
		}
		v, err := fsys.readInode(number)
		if err != nil || !v.isDir() {
			return err
		}
		scan, err := fsys.scanDir(v)
		levels = append(levels, openLevel{name, scan})
		return err
	}
	if err := enter(RootInode, "."); err != nil {
		return err
	}
	for len(levels) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		l := &levels[len(levels)-1]
		e, err := l.scan.entry()
		if errors.Is(err, io.EOF) {
			levels = levels[:len(levels)-1]
			continue
		}
		if err != nil {
			return err
		}
		if !fn(e.number, l.path, e.name) {
			return nil
		}
		if e.mode == ModeDir || e.mode == 0 {
			if err := enter(e.number, path.Join(l.path, e.name)); err != nil {
				return err
			}
		}
	}
	return nil
}
