"""Group descriptors, bitmaps and the row. Sections "Areas at the end", "Group descriptors"."""

import struct

from .constants import BLOCK, CHECKSUM_SEED, GROUP_BLOCKS, GROUP_INODES, TABLE_BLOCKS
from .crc import crc, seeded

_BITMAP_BITS = 8 * BLOCK


class Group:
    """One block group: what is in use, and where its bitmaps are."""

    def __init__(self, index, blocks_left, numbers, directories):
        self.index = index
        self.blocks = min(blocks_left, GROUP_BLOCKS)
        self.last = blocks_left <= GROUP_BLOCKS
        self.inodes = {(n - 1) % GROUP_INODES for n in numbers}
        self.directories = directories
        self.taken = 0  # bits of the blocks in use
        self.block_bitmap_at = self.inode_bitmap_at = 0
        self.block_bitmap_used = False
        self.inode_bitmap_used = bool(self.inodes)

    def take(self, bits):
        """Notes which blocks are in use."""
        self.taken = bits
        self.block_bitmap_used = self.last or bits != 0

    @property
    def free_blocks(self):
        return self.blocks - self.taken.bit_count()

    def block_bitmap(self):
        past = (1 << _BITMAP_BITS) - (1 << self.blocks)
        return (self.taken | past).to_bytes(BLOCK, "little")

    def inode_bitmap(self):
        bits = (1 << _BITMAP_BITS) - (1 << GROUP_INODES)
        for inode in self.inodes:
            bits |= 1 << inode
        return bits.to_bytes(BLOCK, "little")

    def descriptor(self, table):
        """The 64 bytes; table is the disk's first block of inode tables."""
        out = bytearray(64)
        table += TABLE_BLOCKS * self.index
        for low, value in (
            (0x00, self.block_bitmap_at), (0x04, self.inode_bitmap_at), (0x08, table),
        ):
            struct.pack_into("<I", out, low, value & 0xFFFFFFFF)
            struct.pack_into("<I", out, low + 0x20, value >> 32)
        checksums = [
            seeded(self.block_bitmap()) if self.block_bitmap_used else 0,
            seeded(self.inode_bitmap()[:GROUP_INODES // 8]) if self.inode_bitmap_used else 0,
        ]
        for low, high, value in (
            (0x0C, 0x2C, self.free_blocks),
            (0x0E, 0x2E, GROUP_INODES - len(self.inodes)),
            (0x10, 0x30, self.directories),
            (0x18, 0x38, checksums[0]),
            (0x1A, 0x3A, checksums[1]),
            (0x1C, 0x32, GROUP_INODES - 1 - max(self.inodes, default=-1)),
        ):
            struct.pack_into("<H", out, low, value & 0xFFFF)
            struct.pack_into("<H", out, high, value >> 16)
        flags = 4 | 2 * (not self.block_bitmap_used) | (not self.inode_bitmap_used)
        struct.pack_into("<H", out, 0x12, flags)
        checksum = crc(crc(CHECKSUM_SEED, struct.pack("<I", self.index)), bytes(out))
        struct.pack_into("<H", out, 0x1E, checksum & 0xFFFF)
        return bytes(out)


def share_row(row, groups, nodes):
    """Gives the row's blocks to bitmaps, and returns those of inode 5's nodes."""
    row = iter(row)
    for used in True, False:
        for group in groups:
            if group.block_bitmap_used is used:
                group.block_bitmap_at = next(row)
        for group in groups:
            if group.inode_bitmap_used is used:
                group.inode_bitmap_at = next(row)
        if used:
            places = [next(row) for _ in range(nodes)]
    return places
