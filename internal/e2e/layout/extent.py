"""Extent trees. Section "Extent trees"."""

import struct

from .constants import BLOCK, ceil_div
from .crc import crc, inode_seed

_ROOT_ENTRIES = 4
_NODE_ENTRIES = 340
_MAX_BLOCKS = 32768


def joined(extents):
    """Extents (block of the file, blocks, block of the disk) as the tree has them."""
    runs = []
    for logical, count, start in extents:
        if runs and runs[-1][0] + runs[-1][1] == logical and runs[-1][2] + runs[-1][1] == start:
            runs[-1][1] += count
        else:
            runs.append([logical, count, start])
    return [
        (logical + at, min(_MAX_BLOCKS, count - at), start + at)
        for logical, count, start in runs
        for at in range(0, count, _MAX_BLOCKS)
    ]


def node_count(extents):
    """The number of blocks that a tree of joined extents takes."""
    nodes, entries = 0, len(extents)
    while entries > _ROOT_ENTRIES:
        entries = ceil_div(entries, _NODE_ENTRIES)
        nodes += entries
    return nodes


def tree(extents, number, nodes):
    """The tree of inode number in the blocks given.

    Returns the root, 60 bytes, and the other nodes: block -> bytes.
    """
    levels = [[
        (logical, struct.pack("<IHHI", logical, count, start >> 32, start & 0xFFFFFFFF))
        for logical, count, start in extents
    ]]
    left = list(nodes)
    out = {}
    while len(levels[-1]) > _ROOT_ENTRIES:
        below = levels[-1]
        groups = [below[k:k + _NODE_ENTRIES] for k in range(0, len(below), _NODE_ENTRIES)]
        places, left = left[-len(groups):], left[:-len(groups)]  # lower levels come last
        for block, group in zip(places, groups):
            body = _node(group, _NODE_ENTRIES, len(levels) - 1).ljust(BLOCK - 4, b"\0")
            out[block] = body + struct.pack("<I", crc(inode_seed(number), body))
        levels.append([
            (group[0][0], struct.pack("<IIHH", group[0][0], block & 0xFFFFFFFF, block >> 32, 0))
            for block, group in zip(places, groups)
        ])
    assert not left
    return _node(levels[-1], _ROOT_ENTRIES, len(levels) - 1).ljust(60, b"\0"), out


def _node(entries, most, depth):
    head = struct.pack("<HHHHI", 0xF30A, len(entries), most, depth, 0)
    return head + b"".join(data for _, data in entries)
