"""Directories of one block, with an index, and with an index of two levels."""

import os

from ..namehash import name_hash

# Two names of one hash, which shall lie on both sides of a leaf's end, and two
# that shall lie in one leaf.
_APART = b"name-27355", b"name-41790"
_TOGETHER = b"name-40512", b"name-46961"
_IN_LEAF = 4084 // 20  # names of ten bytes


def _full_block(last):
    """Names that take 3,960 bytes in a block, and one of so many bytes."""
    return ["%02d" % k + "n" * 253 for k in range(15)] + ["l" * last]


def sizes(make):
    """Sizes around the limits, and names with equal hashes."""
    folder = make.folder()
    folder.directory("empty")
    for name in _full_block(92):
        folder.directory("just-one-block/" + name)
    for name in _full_block(93):
        folder.file("just-indexed/" + name)
    for at in range(1500):
        folder.file(f"indexed/a-rather-long-name-{at}")
    for length in range(1, 256):
        folder.file("lengths/" + "\u00fc" * (length // 2) + "x" * (length % 2))
    for name in _equal_hashes():
        folder.file("equal-hashes/" + name)
    for byte in range(1, 256):
        if byte != ord("/") and byte != ord("."):
            folder.file(os.fsdecode(b"bytes/" + bytes([byte])))
    return [folder.done()]


def _equal_hashes():
    """Names of ten bytes of which the first leaf ends between the two of _APART."""
    least = name_hash(_APART[0])[0]
    assert name_hash(_APART[1])[0] == least
    assert name_hash(_TOGETHER[0])[0] == name_hash(_TOGETHER[1])[0] > least
    below, above = [], []
    for at in range(10000, 100000):
        name = b"name-%d" % at
        if name not in _APART + _TOGETHER:
            (below if name_hash(name)[0] < least else above).append(name)
        if len(below) >= _IN_LEAF - 1 and len(above) >= 2 * _IN_LEAF:
            break
    names = below[:_IN_LEAF - 1] + above + [*_APART, *_TOGETHER]
    return [name.decode() for name in names]


def two_levels(make):
    """More leaves than a root leads to: names of 255 bytes, all of one file."""
    folder = make.folder()
    folder.file("file", b"8,000 names")
    for at in range(8000):
        folder.link("d/" + f"{at:05}".ljust(255, "-"), "file")
    return [folder.done()]
