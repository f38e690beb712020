package flatten

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

var (
	errNotDirectory = errors.New("parent is not a directory")
	errLinkToDir    = errors.New("hard link to a directory")
)

// A builder applies entries to an empty root, one after the other.
//
// A path that is replaced gets a new place in entries; the old one is marked
// dead, and with it, without a search, all that has it among its parents.
type builder struct {
	lim     Limits
	entries []Entry // in the order of coming; the root is the first
	parent  []int32 // entry -> the entry of the directory it is in
	dead    map[int32]bool
	paths   map[string]int32 // path -> its latest entry, dead or alive
	links   map[int32]int32  // link -> the entry of the same layer whose inode it shares

	whiteouts, opaques map[string]struct{}

	metadata int64 // bytes of names, targets and attributes
}

func newBuilder(lim Limits) *builder {
	return &builder{
		lim:       lim,
		entries:   []Entry{impliedDir(".")},
		parent:    []int32{0},
		dead:      make(map[int32]bool),
		paths:     make(map[string]int32),
		links:     make(map[int32]int32),
		whiteouts: make(map[string]struct{}),
		opaques:   make(map[string]struct{}),
	}
}

func impliedDir(path string) Entry {
	return Entry{Path: path, Attr: Attr{Kind: Dir, Mode: 0o755}, Implied: true}
}

// find returns the entry that stands at path now.
func (b *builder) find(path string) (int32, bool) {
	if path == "." {
		return 0, true
	}
	at, ok := b.paths[path]
	if !ok {
		return 0, false
	}
	if len(b.dead) > 0 {
		for i := at; i != 0; i = b.parent[i] {
			if b.dead[i] {
				return 0, false
			}
		}
	}
	return at, true
}

// charge counts what an entry or a whiteout takes.
func (b *builder) charge(path string, a *Attr) error {
	b.metadata += int64(len(path))
	if a != nil {
		b.metadata += int64(len(a.Target))
		for _, x := range a.Xattrs {
			b.metadata += int64(len(x.Name) + len(x.Value))
		}
	}
	if b.metadata > b.lim.MaxMetadataBytes {
		return fmt.Errorf("%w: more than %d bytes of names and attributes", ErrLimit, b.lim.MaxMetadataBytes)
	}
	if len(b.entries)+len(b.whiteouts)+len(b.opaques) > b.lim.MaxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrLimit, b.lim.MaxEntries)
	}
	return nil
}

func (b *builder) add(e Entry, parent int32) (int32, error) {
	if err := b.charge(e.Path, &e.Attr); err != nil {
		return 0, err
	}
	at := int32(len(b.entries))
	b.entries = append(b.entries, e)
	b.parent = append(b.parent, parent)
	b.paths[e.Path] = at
	return at, nil
}

// directory returns the entry below which path's children stand, and makes
// what is missing.
func (b *builder) directory(path string) (int32, error) {
	if at, ok := b.find(path); ok {
		if k := b.entries[at].Kind; k != Dir && k != Symlink {
			return 0, fmt.Errorf("%w: %q", errNotDirectory, path)
		}
		return at, nil
	}
	above, _ := splitPath(path)
	parent, err := b.directory(above)
	if err != nil {
		return 0, err
	}
	return b.add(impliedDir(path), parent)
}

// place puts e where its path says.
func (b *builder) place(e Entry) (int32, error) {
	if e.Path == "." {
		if e.Kind != Dir {
			return 0, errors.New("the root is not a directory")
		}
		b.entries[0] = e
		return 0, b.charge(e.Path, &e.Attr)
	}
	dir, _ := splitPath(e.Path)
	parent, err := b.directory(dir)
	if err != nil {
		return 0, err
	}
	if at, ok := b.find(e.Path); ok {
		if b.entries[at].Kind == Dir && e.Kind == Dir {
			b.entries[at] = e
			return at, b.charge(e.Path, &e.Attr)
		}
		b.dead[at] = true
	}
	return b.add(e, parent)
}

// link makes path a further name of what stands at target.
func (b *builder) link(path, target string) error {
	if err := checkLink(path, target); err != nil {
		return err
	}
	first, ok := b.find(target)
	if ok && b.entries[first].Kind == Dir {
		return fmt.Errorf("%w: %q", errLinkToDir, target)
	}
	if shared, isLink := b.links[first]; ok && isLink {
		first = shared
	}
	sharesLower := ok && b.entries[first].Kind == Link // the first name is one of a lower layer's file
	if sharesLower {
		target = b.entries[first].Target
		if err := checkLink(path, target); err != nil {
			return err
		}
	}
	at, err := b.place(Entry{Path: path, Attr: Attr{Kind: Link, Target: target}})
	if err == nil && ok && !sharesLower {
		b.links[at] = first
	}
	return err
}

func checkLink(path, target string) error {
	if path == target || isBelow(target, path) {
		return fmt.Errorf("hard link to %q: to itself or to something below itself", target)
	}
	return nil
}

// finish returns the layer as the contract has it.
func (b *builder) finish() (*Layer, error) {
	l := &Layer{Whiteouts: sortedPaths(b.whiteouts), Opaques: sortedPaths(b.opaques)}
	if err := b.implyParents(l); err != nil {
		return nil, err
	}
	alive := b.alive()
	b.settleLinks(alive)
	if err := b.checkLinks(alive); err != nil {
		return nil, err
	}
	n := 0
	for i := range b.entries {
		if alive[i] && (i > 0 || !b.entries[0].Implied) {
			b.entries[n] = b.entries[i]
			n++
		}
	}
	clear(b.entries[n:])
	l.Entries = b.entries[:n:n]
	slices.SortFunc(l.Entries, func(x, y Entry) int { return ComparePaths(x.Path, y.Path) })
	return l, nil
}

func sortedPaths(set map[string]struct{}) []string {
	return slices.SortedFunc(maps.Keys(set), ComparePaths)
}

// implyParents makes the directories that whiteouts are in, but where the layer
// has something else.
func (b *builder) implyParents(l *Layer) error {
	imply := func(path string) error {
		_, err := b.directory(path)
		if errors.Is(err, errNotDirectory) {
			return nil
		}
		return err
	}
	for _, path := range l.Whiteouts {
		dir, _ := splitPath(path)
		if err := imply(dir); err != nil {
			return err
		}
	}
	for _, path := range l.Opaques {
		if err := imply(path); err != nil {
			return err
		}
	}
	return nil
}

// alive says of each entry whether it is still there. A parent always comes
// before what it holds.
func (b *builder) alive() []bool {
	alive := make([]bool, len(b.entries))
	alive[0] = true
	for i := 1; i < len(alive); i++ {
		alive[i] = alive[b.parent[i]] && !b.dead[int32(i)]
	}
	return alive
}

// settleLinks gives every link the path of the entry that holds its inode. If
// that entry is gone, the first link left takes its place.
func (b *builder) settleLinks(alive []bool) {
	heir := make(map[int32]int32)
	for _, at := range slices.Sorted(maps.Keys(b.links)) {
		if !alive[at] {
			continue
		}
		first := b.links[at]
		if !alive[first] {
			h, ok := heir[first]
			if !ok {
				heir[first] = at
				b.entries[at].Attr, b.entries[at].Data = b.entries[first].Attr, b.entries[first].Data
				continue
			}
			first = h
		}
		b.entries[at].Target = b.entries[first].Path
	}
}

// checkLinks refuses links to lower layers whose target this layer named
// afterwards: in the finished layer they could not be told from links within.
func (b *builder) checkLinks(alive []bool) error {
	for i := range b.entries {
		e := &b.entries[i]
		if !alive[i] || e.Kind != Link {
			continue
		}
		if _, within := b.links[int32(i)]; within {
			continue
		}
		if _, ok := b.find(e.Target); ok {
			return &EntryError{Path: e.Path, Err: fmt.Errorf("hard link to %q, which the layer names only afterwards", e.Target)}
		}
	}
	return nil
}
