"""Layers applied to one another. Section "Merging"."""

from .layer import DIR, LINK, SYMLINK, Entry, Refused, join, split

_MAX_HOPS = 255


class Inode:
    """What names stand for: the entry that gave data and attributes, and its layer."""

    def __init__(self, entry=None, layer=None, rank=None):
        self.give(entry or Entry(b"", DIR, 0o755), layer, rank)
        self.names = []  # nodes, the one that gives the number first
        self.number = 0

    def give(self, entry, layer, rank):
        self.entry, self.layer, self.rank = entry, layer, rank

    @property
    def kind(self):
        return self.entry.kind


class Node:
    """A name in the tree."""

    def __init__(self, name, parent, inode):
        self.name, self.parent, self.inode = name, parent or self, inode
        self.children = {}

    @property
    def path(self):
        return b"." if self.parent is self else join(self.parent.path, self.name)

    def walk(self):
        """This node and all below, in walk order."""
        yield self
        for name in sorted(self.children):
            yield from self.children[name].walk()


class Tree:
    """The merged layers, and each path's home: (layer, rank)."""

    def __init__(self, layers):
        self.root = Node(b"", None, Inode())
        self.homes = {}
        for index, layer in enumerate(layers):
            _Layer(self, index, layer).apply()
        self.inodes = []
        for node in self.root.walk():
            if not node.inode.names:
                self.inodes.append(node.inode)
            node.inode.names.append(node)
        for inode in self.inodes:
            inode.names.sort(key=self._home)

    def _home(self, node):
        return self.homes.get(node.path, (-1, -1))

    def directory(self, path, create=False, replaced=lambda path: False):
        """The directory that path leads to, through symbolic links, or None.

        replaced says of a path whether a link there is not to be followed.
        """
        here, missing, walked, hops = self.root, [], [], 0
        parts = path.split(b"/")[::-1]
        while parts:
            part = parts.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if missing:
                    missing.pop()
                else:
                    here = here.parent
                continue
            walked.append(part)
            child = None if missing else here.children.get(part)
            if child is None:
                if not create:
                    return None
                missing.append(part)
            elif child.inode.kind == DIR:
                here = child
            elif child.inode.kind != SYMLINK:
                if create:
                    raise Refused(f"{path}: {child.path} is no directory")
                return None
            elif not hops and replaced(b"/".join(walked)):
                return None
            else:
                hops += 1
                if hops > _MAX_HOPS:
                    raise Refused(f"{path}: too many symbolic links")
                target = child.inode.entry.target
                if target.startswith(b"/"):
                    here = self.root
                parts += target.split(b"/")[::-1]
        for part in missing:
            here.children[part] = Node(part, here, Inode())
            here = here.children[part]
        return here

    def find(self, path):
        """The node at path, or None. A symbolic link at its end is not followed."""
        if path == b".":
            return self.root
        above, name = split(path)
        directory = self.directory(above)
        return directory and directory.children.get(name)


class _Layer:
    """One layer while it is applied."""

    def __init__(self, tree, index, layer):
        self.tree, self.index, self.layer = tree, index, layer
        self.own = {e.path: e for e in layer.entries}

    def apply(self):
        links = [(rank, e) for rank, e in enumerate(self.layer.entries) if e.kind == LINK]
        lower = {}
        for rank, entry in links:
            node = None if entry.target in self.own else self.tree.find(entry.target)
            lower[rank] = node and node.inode
        self._hide()
        for rank, entry in self._others():
            self._put(rank, entry)
        while links:
            waiting = [(rank, e) for rank, e in links if not self._link(rank, e, lower[rank])]
            if len(waiting) == len(links):
                raise Refused(f"{waiting[0][1].path}: no target for a hard link")
            links = waiting

    def _link(self, rank, entry, inode):
        """Puts a hard link. Whether its target is there."""
        if not inode:
            node = self.tree.find(entry.target)
            inode = node and node.inode
        if inode and inode.kind == DIR:
            raise Refused(f"{entry.path}: hard link to a directory")
        if inode:
            self._put(rank, entry, inode)
        return bool(inode)

    def _hide(self):
        for path in self.layer.whiteouts:
            above, name = split(path)
            directory = self.tree.directory(above, replaced=self._named)
            if directory:
                directory.children.pop(name, None)
        for path in self.layer.opaques:
            directory = self.tree.directory(path, replaced=self._named)
            if directory:
                directory.children.clear()

    def _named(self, path):
        return path in self.own and not self.own[path].implied

    def _others(self):
        """What is no link, by rank; below symbolic links of this layer comes last."""
        early, late, link = [], [], None
        for rank, entry in enumerate(self.layer.entries):
            if link and entry.path.startswith(link + b"/"):
                place = late
            else:
                place = early
                if entry.kind == SYMLINK:
                    link = entry.path
            if entry.kind != LINK:
                place.append((rank, entry))
        return early + late

    def _put(self, rank, entry, inode=None):
        above, name = split(entry.path)
        if entry.path == b".":
            node = self.tree.root
        else:
            parent = self.tree.directory(above, create=True)
            node = parent.children.get(name)
        if node:
            there = node.inode
            if entry.kind == DIR and there.kind == DIR:
                if not entry.implied or there.layer is None:
                    there.give(entry, self.index, rank)
                self._home(node, rank)
                return
            if there is inode or entry.implied and there.kind == SYMLINK:
                return
        node = Node(name, parent, inode or Inode(entry, self.index, rank))
        parent.children[name] = node
        self._home(node, rank)

    def _home(self, node, rank):
        self.tree.homes.setdefault(node.path, (self.index, rank))
