"""Layers: what an archive leaves. Sections "Walk order", "Reading an archive"."""

import contextlib
from dataclasses import dataclass, field, replace

FILE, DIR, SYMLINK, FIFO, LINK = "file", "directory", "symbolic link", "FIFO", "link"
CHAR_DEVICE, BLOCK_DEVICE = "character device", "block device"

_TIME_MIN = -(2**31)
_TIME_MAX = 2**34 - 2**31 - 1


class Refused(ValueError):
    """What makes no layer or no tree."""


@dataclass(eq=False)
class Entry:
    """One entry of a layer. Paths, targets and names of attributes are bytes."""

    path: bytes
    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    time: tuple = (0, 0)  # seconds, nanoseconds
    target: bytes = b""
    device: tuple = (0, 0)
    xattrs: dict = field(default_factory=dict)
    data: bytes = b""
    implied: bool = False


@dataclass
class Layer:
    """Entries in walk order, their places being their ranks, and what is hidden."""

    entries: list
    whiteouts: list
    opaques: list


def walk_key(path):
    """Sorts paths in walk order. Names hold no NUL, so it can stand for the slash."""
    return b"" if path == b"." else b"\1" + path.replace(b"/", b"\0")


def split(path):
    """The directory that path is in, and its name there."""
    head, _, name = path.rpartition(b"/")
    return head or b".", name


def join(directory, name):
    """The path of a name in a directory."""
    return name if directory == b"." else directory + b"/" + name


def clean(name):
    """Rule 1: a path without empty, `.` and `..` parts."""
    parts = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise Refused(f"{name}: leaves the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts) or b"."


def kept_xattr(name, kind):
    """Whether an attribute of that name is one that layers keep."""
    if name == b"system.posix_acl_access":
        return kind != SYMLINK
    if name == b"system.posix_acl_default":
        return kind == DIR
    space, _, rest = name.partition(b".")
    if not rest:
        return False
    return space in (b"security", b"trusted") or space == b"user" and kind in (FILE, DIR)


def settle(entry):
    """The attributes as a layer has them, of an entry as its source has them."""
    seconds, nanoseconds = entry.time
    if seconds <= _TIME_MIN:
        seconds, nanoseconds = _TIME_MIN, 0
    elif seconds >= _TIME_MAX:
        seconds, nanoseconds = _TIME_MAX, 0
    mode = 0o777 if entry.kind == SYMLINK else entry.mode & 0o7777
    xattrs = {n: v for n, v in entry.xattrs.items() if kept_xattr(n, entry.kind)}
    return replace(entry, mode=mode, time=(seconds, nanoseconds), xattrs=xattrs)


@dataclass(eq=False)
class _Inode:
    """What one or more names of an archive share."""

    entry: Entry  # attributes and data; a link to a layer below has its target
    names: list = field(default_factory=list)  # paths in the order of coming


class Reader:
    """Applies the entries of an archive, in order, to an empty root."""

    def __init__(self):
        self._inodes = {b".": _Inode(_implied(b"."))}
        self._whiteouts = set()
        self._opaques = set()

    def add(self, entry):
        """Applies the next entry, whose path and target are as the archive has them."""
        path = clean(entry.path)
        directory, name = split(path)
        if any(part.startswith(b".wh..wh.") for part in directory.split(b"/")):
            return
        if name == b".wh..wh..opq":
            self._opaques.add(directory)
        elif name.startswith(b".wh..wh."):
            return
        elif name.startswith(b".wh."):
            self._whiteouts.add(join(directory, name[4:]))
        elif entry.kind == LINK:
            self._link(path, clean(entry.target))
        else:
            self._place(path, settle(replace(entry, path=path)))

    def layer(self):
        """What all entries have left."""
        for path in [split(w)[0] for w in self._whiteouts] + list(self._opaques):
            with contextlib.suppress(Refused):
                self._imply(path)
        for path, inode in self._inodes.items():
            if inode.entry.kind == LINK and inode.entry.target in self._inodes:
                raise Refused(f"{path}: its target is named only afterwards")
        entries = [self._final(p, i) for p, i in self._inodes.items()]
        if entries[0].implied:
            del entries[0]
        return Layer(
            sorted(entries, key=lambda e: walk_key(e.path)),
            sorted(self._whiteouts, key=walk_key),
            sorted(self._opaques, key=walk_key),
        )

    def _place(self, path, entry):
        """Rule 4."""
        old = self._inodes.get(path)
        if old and old.entry.kind == DIR and entry.kind == DIR:
            old.entry = entry
            return
        self._name(path, _Inode(entry))

    def _link(self, path, target):
        """Rule 5. A link to a layer below is shared by the links to it."""
        inode = self._inodes.get(target)
        if inode and inode.entry.kind == LINK:
            target = inode.entry.target
        if target == path or target.startswith(path + b"/"):
            raise Refused(f"{path}: hard link to itself or below itself")
        if inode and inode.entry.kind == DIR:
            raise Refused(f"{path}: hard link to a directory")
        if not inode:
            inode = _Inode(Entry(path, LINK, target=target))
        self._name(path, inode)

    def _name(self, path, inode):
        if path in self._inodes:
            below = [p for p in self._inodes if p.startswith(path + b"/")]
            for gone in [path, *below]:
                self._inodes.pop(gone).names.remove(gone)
        self._imply(split(path)[0])
        self._inodes[path] = inode
        inode.names.append(path)

    def _imply(self, directory):
        """Rule 3, and rule 6 of parents."""
        if directory not in self._inodes:
            self._name(directory, _Inode(_implied(directory)))
        elif self._inodes[directory].entry.kind not in (DIR, SYMLINK):
            raise Refused(f"{directory} is no directory")

    @staticmethod
    def _final(path, inode):
        if path == b"." or inode.entry.kind == LINK or inode.names[0] == path:
            return replace(inode.entry, path=path)
        return Entry(path, LINK, target=inode.names[0])


def _implied(path):
    return Entry(path, DIR, 0o755, implied=True)
