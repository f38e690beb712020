"""How large the disk is, what it is called, where its areas are.

Sections "Size", "UUID" and "Areas at the end".
"""

import hashlib
import struct

from .constants import (
    BLOCK, CHUNK_BLOCKS, GROUP_BLOCKS, GROUP_INODES, JOURNAL_BLOCKS, LOW_BLOCKS,
    TABLE_BLOCKS, VERSION, ceil_div, down,
)
from .layer import DIR, FILE, SYMLINK

_FREE = 262144  # blocks
_FEW_EXTENTS = 262144  # bytes of a file that needs no nodes for its extents


def metadata_bound(tree, segments):
    """M, a bound of the metadata area in blocks."""
    bound = CHUNK_BLOCKS * (len(segments) + 1)
    for inode in tree.inodes:
        entry = inode.entry
        if inode.kind == DIR:
            names = sum(12 + len(name) for name in inode.names[0].children)
            bound += 2 + 2 * (64 + names) // BLOCK
        elif inode.kind == SYMLINK:
            bound += 1
        elif inode.kind == FILE and len(entry.data) > _FEW_EXTENTS:
            bound += 2 + len(entry.data) // 2**24
        if entry.xattrs:
            bound += 1
    return bound + sum(1 + len(s.pieces) // 128 for s in segments)


def choose(asked, slots_end, inodes, metadata, data):
    """The disk's size in bytes; asked is that which was asked for, or 0."""
    sizes = [asked] if asked else [2**power for power in range(30, 44)]
    free = 0 if asked else _FREE
    for size in sizes:
        blocks = size // BLOCK
        groups = ceil_div(blocks, GROUP_BLOCKS)
        if GROUP_INODES * groups < inodes:
            continue
        if blocks < slots_end + metadata + 1026 * groups + 8704 + free:
            continue
        if asked or blocks >= 2 * (data + metadata):
            return size
    raise ValueError("the image does not suit the disk")


def uuid(size, chain):
    """The file system's UUID, 16 bytes."""
    digest = hashlib.sha256(b"rivulet disk\0" + struct.pack("<IQ", VERSION, size) + chain).digest()
    out = bytearray(digest[:16])
    out[6] = out[6] & 0x0F | 8 << 4
    out[8] = out[8] & 0x3F | 2 << 6
    return bytes(out)


class Areas:
    """The areas of a disk of so many bytes."""

    def __init__(self, size):
        self.blocks = size // BLOCK
        self.groups = ceil_div(self.blocks, GROUP_BLOCKS)
        self.table = down(self.blocks - TABLE_BLOCKS * self.groups)
        self.journal = down(self.table - JOURNAL_BLOCKS)
        self.descriptors_end = 1 + ceil_div(64 * self.groups, BLOCK)

    def row(self, nodes):
        """The blocks of the row; nodes is N."""
        count = 2 * self.groups + nodes
        low = range(self.descriptors_end, min(LOW_BLOCKS, self.descriptors_end + count))
        behind = count - len(low)
        start = down(self.journal - behind)
        return [*low, *range(start, start + behind)]
