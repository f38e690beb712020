"""Extended attributes. Section "Extended attributes"."""

import struct

from .constants import BLOCK, ceil_div
from .crc import crc, seeded

_MAGIC = 0xEA020000
_PREFIXES = {b"user": 1, b"trusted": 4, b"security": 6}
_ACLS = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_TAGS_WITH_ID = 2, 8
_INODE_AREA = 96
_INODE_START = 4  # offsets count from behind the magic number
_BLOCK_START = 32


def _rotate(value, by):
    return (value << by | value >> 32 - by) & 0xFFFFFFFF


def _pad(data):
    return data.ljust(ceil_div(len(data), 4) * 4, b"\0")


def _acl(value):
    """An ACL as it is stored."""
    out = struct.pack("<I", 1)
    for tag, permissions, owner in struct.iter_unpack("<HHI", value[4:]):
        out += struct.pack("<HH", tag, permissions)
        if tag in _TAGS_WITH_ID:
            out += struct.pack("<I", owner)
    return out


def _stored(name, value):
    """(index, stored name, value)."""
    if name in _ACLS:
        return _ACLS[name], b"", _acl(value)
    space, _, rest = name.partition(b".")
    return _PREFIXES[space], rest, value


def _entry_hash(name, value):
    out = 0
    for byte in name:
        out = _rotate(out, 5) ^ byte
    for word, in struct.iter_unpack("<I", _pad(value)):
        out = _rotate(out, 16) ^ word
    return out


class _Area:
    """Room for attributes: entries grow up, values down."""

    def __init__(self, size, start, base):
        self.bytes = bytearray(size)
        self.low, self.high, self.base = start, size, base
        self.hashes = []

    def add(self, index, name, value):
        """Whether the attribute fits; if so it is there."""
        entry_end = self.low + len(_pad(bytes(16) + name))
        value_at = self.high - len(_pad(value))
        if entry_end + 4 > value_at:
            return False
        digest = _entry_hash(name, value)
        offset = value_at - self.base if value else 0
        head = struct.pack("<BBHIII", len(name), index, offset, 0, len(value), digest)
        self.bytes[self.low:entry_end] = _pad(head + name)
        self.bytes[value_at:self.high] = _pad(value)
        self.low, self.high = entry_end, value_at
        self.hashes.append(digest)
        return True


def encode(xattrs):
    """The 96 bytes in the inode, and the attribute block without checksum, or None."""
    inode = _Area(_INODE_AREA, _INODE_START, _INODE_START)
    block = _Area(BLOCK, _BLOCK_START, 0)
    stored = [_stored(*item) for item in xattrs.items()]
    for item in sorted(stored, key=lambda x: (x[0], len(x[1]), x[1])):
        if not inode.add(*item) and not block.add(*item):
            raise ValueError(f"attribute {item[1]} does not fit")
    if inode.hashes:
        inode.bytes[0:4] = struct.pack("<I", _MAGIC)
    if not block.hashes:
        return bytes(inode.bytes), None
    digest = 0
    for entry in block.hashes:
        digest = _rotate(digest, 16) ^ entry
    block.bytes[0:16] = struct.pack("<IIII", _MAGIC, 1, 1, digest if all(block.hashes) else 0)
    return bytes(inode.bytes), bytes(block.bytes)


def sealed(data, at):
    """The attribute block with the checksum that it has at block at."""
    checksum = crc(seeded(struct.pack("<Q", at)), data)
    return data[:16] + struct.pack("<I", checksum) + data[20:]
