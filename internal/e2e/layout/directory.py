"""The blocks of a directory. Section "Directories"."""

import struct

from .constants import BLOCK, ceil_div
from .crc import crc, inode_seed
from .layer import BLOCK_DEVICE, CHAR_DEVICE, DIR, FIFO, FILE, SYMLINK
from .namehash import name_hash

_TYPES = {FILE: 1, DIR: 2, CHAR_DEVICE: 3, BLOCK_DEVICE: 4, FIFO: 5, SYMLINK: 7}
_TAIL = 4084
_ROOT_ENTRIES = 507
_NODE_ENTRIES = 510


def _space(name):
    """s(length)."""
    return ceil_div(8 + len(name), 4) * 4


def _name(name, number, kind, space):
    return (struct.pack("<IHBB", number, space, len(name), kind) + name).ljust(space, b"\0")


def _block_of_names(names, seed):
    """A block of (name, number, kind)."""
    out = b""
    for name, number, kind in names[:-1]:
        out += _name(name, number, kind, _space(name))
    name, number, kind = names[-1]
    out += _name(name, number, kind, _TAIL - len(out))
    return out + struct.pack("<IHBBI", 0, 12, 0, 0xDE, crc(seed, out))


def _leaves(names):
    """Names in leaves: lists of ((hash, minor hash), (name, number, kind))."""
    leaves, filled = [[]], 0
    for item in sorted((name_hash(n[0]), n) for n in names):
        space = _space(item[1][0])
        if filled + space > _TAIL:
            leaves.append([])
            filled = 0
        leaves[-1].append(item)
        filled += space
    return leaves


def _hash_of_leaf(leaves, at):
    """The least hash of a leaf, marked if the leaf before ends with it."""
    least = leaves[at][0][0][0]
    return least | (at > 0 and leaves[at - 1][-1][0][0] == least)


def _block_of_index(head, most, entries, seed):
    """A block of (hash, block of the directory)."""
    out = bytearray(head)
    for at, (least, block) in enumerate(entries):
        out += struct.pack("<I", least) if at else struct.pack("<HH", most, len(entries))
        out += struct.pack("<I", block)
    checksum = crc(seed, bytes(out) + bytes(8))
    return bytes(out).ljust(BLOCK - 4, b"\0") + struct.pack("<I", checksum)


def _indexed(number, parent, names, seed):
    leaves = _leaves(names)
    nodes = ceil_div(len(leaves), _NODE_ENTRIES) if len(leaves) > _ROOT_ENTRIES else 0
    index = [(_hash_of_leaf(leaves, at), 1 + nodes + at) for at in range(len(leaves))]
    head = _name(b".", number, 2, 12) + _name(b"..", parent, 2, _TAIL)[:12]
    head += struct.pack("<IBBBB", 0, 1, 8, 1 if nodes else 0, 0)
    parts = [index[k * _NODE_ENTRIES:(k + 1) * _NODE_ENTRIES] for k in range(nodes)]
    top = [(part[0][0], 1 + k) for k, part in enumerate(parts)] if nodes else index
    out = [_block_of_index(head, _ROOT_ENTRIES, top, seed)]
    node_head = struct.pack("<IHH", 0, BLOCK, 0)
    out += [_block_of_index(node_head, _NODE_ENTRIES, part, seed) for part in parts]
    return out + [_block_of_names([n for _, n in leaf], seed) for leaf in leaves]


def blocks(node):
    """The blocks of a directory, and whether they are indexed."""
    number, parent = node.inode.number, node.parent.inode.number
    seed = inode_seed(number)
    names = [(c.name, c.inode.number, _TYPES[c.inode.kind]) for c in node.children.values()]
    if 24 + sum(_space(name) for name, _, _ in names) <= _TAIL:
        dots = [(b".", number, 2), (b"..", parent, 2)]
        return [_block_of_names(dots + sorted(names), seed)], False
    return _indexed(number, parent, names, seed), True
