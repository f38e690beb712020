"""Canonical archives and what they are called. Sections "Sources that are no image", "UUID"."""

import hashlib
from dataclasses import replace

from .layer import (
    BLOCK_DEVICE, CHAR_DEVICE, DIR, FIFO, FILE, LINK, SYMLINK, Entry, join, split, walk_key,
)

_TYPES = {
    FILE: b"0", LINK: b"1", SYMLINK: b"2", CHAR_DEVICE: b"3", BLOCK_DEVICE: b"4", DIR: b"5",
    FIFO: b"6",
}
_PAX = b"x"


class _Header:
    """A header block, and the pax records of what does not fit in it."""

    def __init__(self):
        self.block = bytearray(512)
        self.records = {}

    def text(self, at, key, value):
        if len(value) > 100 or any(byte > 127 for byte in value):
            self.records[key] = value
        else:
            self.block[at:at + len(value)] = value

    def number(self, at, length, key, value):
        if not 0 <= value < 8 ** (length - 1):
            self.records[key] = b"%d" % value
            value = 0
        self.block[at:at + length - 1] = b"%0*o" % (length - 1, value)

    def fill(self, path, target, entry, size):
        """Sets all fields but type, magic and checksum."""
        self.text(0, b"path", path)
        self.text(157, b"linkpath", target)
        self.number(100, 8, b"mode", entry.mode)
        self.number(108, 8, b"uid", entry.uid)
        self.number(116, 8, b"gid", entry.gid)
        self.number(124, 12, b"size", size)
        if entry.time[1]:
            self.records[b"mtime"] = _decimal(*entry.time)
        self.number(136, 12, b"mtime", 0 if entry.time[1] else entry.time[0])
        self.number(329, 8, b"devmajor", entry.device[0])
        self.number(337, 8, b"devminor", entry.device[1])
        for name, value in entry.xattrs.items():
            self.records[b"SCHILY.xattr." + name] = value

    def seal(self, kind):
        self.block[156:157] = kind
        self.block[257:265] = b"ustar\x0000"
        self.block[148:156] = b" " * 8
        self.block[148:156] = b"%06o\0 " % sum(self.block)
        return bytes(self.block)


def _decimal(seconds, nanoseconds):
    """A time with a fraction, which counts away from zero."""
    total = seconds * 10**9 + nanoseconds
    sign = b"-" if total < 0 else b""
    return sign + (b"%d.%09d" % divmod(abs(total), 10**9)).rstrip(b"0")


def _record(key, value):
    rest = len(b" %s=%s\n" % (key, value))
    length = rest + 1
    while length != rest + len(str(length)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _padded(data):
    return data + bytes(-len(data) % 512)


def _blocks(entry):
    """One entry of an archive, its pax header before it."""
    header = _Header()
    path = entry.path + (b"/" if entry.kind == DIR else b"")
    header.fill(path, entry.target, entry, len(entry.data))
    if header.records:
        body = b"".join(_record(*r) for r in sorted(header.records.items()))
        pax = _Header()
        pax.fill(b"pax", b"", Entry(b"", FILE), len(body))
        yield pax.seal(_PAX)
        yield _padded(body)
    yield header.seal(_TYPES[entry.kind])
    yield _padded(entry.data)


def _first_names_hold(listed):
    """The entries with each inode's data at its first name in walk order."""
    at = {e.path: i for i, e in enumerate(listed)}
    out = list(listed)
    moved = {}  # holder's path -> where its inode stands instead
    for rank, entry in enumerate(listed):
        holder = at.get(entry.target) if entry.kind == LINK else None
        if holder is None:
            continue
        if holder > rank and entry.target not in moved:
            moved[entry.target] = entry.path
            out[rank] = replace(listed[holder], path=entry.path)
            out[holder] = Entry(entry.target, LINK, target=entry.path)
        elif entry.target in moved:
            out[rank] = Entry(entry.path, LINK, target=moved[entry.target])
    return out


def entries(layer):
    """The entries of a layer's canonical archive, marks among them."""
    out = [e for e in _first_names_hold(layer.entries) if not e.implied]
    for path in layer.whiteouts:
        directory, name = split(path)
        out.append(Entry(join(directory, b".wh." + name), FILE))
    for path in layer.opaques:
        out.append(Entry(join(path, b".wh..wh..opq"), FILE))
    return sorted(out, key=lambda e: walk_key(e.path))


def archive(layer):
    """The bytes of a layer's canonical archive, in pieces."""
    for entry in entries(layer):
        yield from _blocks(entry)
    yield bytes(1024)


def diff_id(layer):
    """SHA-256 of the canonical archive, as hexadecimal digits."""
    digest = hashlib.sha256()
    for piece in archive(layer):
        digest.update(piece)
    return digest.hexdigest()


def chain_id(layers):
    """The OCI chain ID over all layers, as 32 bytes."""
    chain = None
    for layer in layers:
        diff = diff_id(layer)
        if chain is None:
            chain = diff
        else:
            chain = hashlib.sha256(f"sha256:{chain} sha256:{diff}".encode()).hexdigest()
    return bytes.fromhex(chain) if chain else bytes(32)
