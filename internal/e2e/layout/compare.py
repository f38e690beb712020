"""A disk beside a raw image file that should hold the same bytes."""

import errno
import os

from .constants import BLOCK, GROUP_INODES, INODE_BYTES, ZERO_BLOCK

_PIECE = 256  # blocks read at once


def _data_blocks(file, size):
    """The blocks of a sparse file that are no holes: (block, bytes)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        block, last = start // BLOCK, -(-end // BLOCK)
        while block < last:
            data = os.pread(file, min(_PIECE, last - block) * BLOCK, block * BLOCK)
            for at in range(0, len(data), BLOCK):
                yield block, data[at:at + BLOCK]
                block += 1


def first_difference(disk, image):
    """What the first block is that differs, or None. Raises OSError."""
    with open(image, "rb") as opened:
        file = opened.fileno()
        size = os.fstat(file).st_size
        if size != disk.size:
            return f"the image has {size} bytes, the page says {disk.size}"
        left, differs = dict(disk.blocks.data), []
        for block, data in _data_blocks(file, size):
            if data != left.pop(block, ZERO_BLOCK):
                differs.append(block)
        differs += left  # where the image has a hole
        if not differs:
            return None
        block = min(differs)
        return _describe(disk, block, os.pread(file, BLOCK, block * BLOCK))


def _describe(disk, block, have):
    want = disk.blocks.data.get(block, ZERO_BLOCK)
    at = next(at for at in range(BLOCK) if have[at] != want[at])
    what = disk.blocks.what(block)
    inode = ((block - disk.areas.table) * BLOCK + at) // INODE_BYTES + 1
    if 1 <= inode <= GROUP_INODES * disk.areas.groups:
        what = f"inode {inode}, byte {at % INODE_BYTES:#x} of it"
    return (
        f"block {block} ({what}) differs from byte {at:#x} on: "
        f"the image has {have[at:at + 16].hex(' ')}, the page says {want[at:at + 16].hex(' ')}"
    )
